"""The numbers that a description may hold, each kind with its bounds.

The bounds lie beyond every model, text and machine that we know of, and below what would stop a library
instead of being told. Whether *this* machine has the memory is another question (:mod:`weft.memory`). A
number without a kind here says its own bounds where its field is declared; `tests/test_numbers.py` finds a
field that has none.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MAX_DEPTH = 1024  # block applications
MAX_PARAMETERS = 10**11  # the depth rule has fewer than MAX_DEPTH blocks up to there
MAX_WIDTH = 1 << 20  # features of one position, in whatever part of a model
MAX_VOCABULARY = 1 << 22
MAX_REACH = 1 << 20  # positions that attention looks back
MAX_SEED = (1 << 63) - 1  # what torch and numpy take, with a little that is added
MAX_COUNT = 10**9  # of what happens again and again: steps between two events, requests, bytes of a request

Width = Annotated[int, Field(gt=0, le=MAX_WIDTH)]
Vocabulary = Annotated[int, Field(gt=0, le=MAX_VOCABULARY)]
TokenId = Annotated[int, Field(ge=0, lt=MAX_VOCABULARY)]
Reach = Annotated[int, Field(gt=0, le=MAX_REACH)]
Place = Annotated[int, Field(ge=0, le=MAX_DEPTH)]  # of a block among others, and how many of them
Parameters = Annotated[int, Field(gt=0, le=MAX_PARAMETERS)]
Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Steps = Annotated[int, Field(gt=0, le=10**12)]
Tokens = Annotated[int, Field(gt=0, le=10**15)]
Minutes = Annotated[float, Field(gt=0, le=10**7)]  # 19 years
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Rate = Annotated[float, Field(gt=0, le=1e30)]  # float32 holds it; that training diverges is told when it does
Weight = Annotated[float, Field(ge=0, le=1000)]  # of one thing beside another
Share = Annotated[float, Field(ge=0, le=1)]
Below1 = Annotated[float, Field(ge=0, lt=1)]  # dropout, and the share of an average that is kept
