"""What a recipe says of a run's memory of its training text."""

from __future__ import annotations

from weft.numbers import Tokens
from weft.settings import FrozenConfig


class MemoryConfig(FrozenConfig):
    """Whether a run keeps its training text beside its weights, and the most tokens of it; see docs/memory.md."""

    enabled: bool = True
    most_tokens: Tokens = 64_000_000  # half a gigabyte, with the index
