"""A text scored below the token: what models say of tokens, mixed bit by bit with counters of bytes and matches.

A token is a path through the tree of the vocabulary's bytes (:mod:`weft.mixing.tree`). At every bit of it the chance
of a 1 follows from each model's distribution over tokens, and is mixed with what the text so far says. As every bit's
chances come to one, those of all tokens do. Shapes: S sources, T tokens, U tokens of the vocabulary with bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.memory import check_memory
from weft.mixing.constants import CONTEXTS, FIELDS, SEPARATOR
from weft.mixing.state import Floats, Known, first_trust, nothing_known, room, slots_for
from weft.mixing.tree import Tree
from weft.recall.compiled import compiled

KERNELS = "weft.mixing.kernels"
PIECE = 1 << 15  # bytes that are read at once: between two of these, a program can be stopped
_SEPARATOR = np.frombuffer(SEPARATOR, dtype=np.uint8)


class ByteMixer:
    """Scores the tokens of texts in order, by ``len(weights_S)`` sources whose first weights these are.

    It has room for ``text_bytes`` that it is going to read; their number also says how large its tables are
    (:func:`weft.mixing.state.nothing_known`). TooLargeError where there is no memory for them. With ``learn`` off, what
    it reads is a context of what follows, and changes nothing else.
    """

    def __init__(self, tree: Tree, weights_S: Floats, text_bytes: int) -> None:
        self._table_bytes = CONTEXTS * slots_for(text_bytes) * FIELDS * 2
        self._check_memory()
        self.learn = True
        self._tree = tree
        self._known = nothing_known(text_bytes)
        self._trust = first_trust(weights_S)
        self._work = room(len(weights_S))

    def prime(self, text: bytes) -> None:
        """Read a text that nobody scores: counters and matches know it, the mixers do not move."""
        bytes_N = np.frombuffer(text, dtype=np.uint8)
        for start in range(0, len(bytes_N), PIECE):
            self._call("prime", self._known, self._trust, self._work, bytes_N[start : start + PIECE])

    def score(self, tokens_T: NDArray[np.integer], cumulated_TSU: Floats) -> Floats:
        """Return the nats (T) of tokens, and learn from them; a boundary has 0.

        ``cumulated_TSU`` (T, S, U + 1) are the running sums of each source's chances of the tokens in the order of the
        tree, 0 the first. Those of a boundary are not read.
        """
        tree = self._tree
        nats_T = np.zeros(len(tokens_T))
        self._call(
            "score",
            self._known,
            self._trust,
            self._work,
            tree.bytes_UL,
            tree.lengths_U,
            tree.rank_V,
            tree.boundary_id,
            _SEPARATOR,
            np.ascontiguousarray(tokens_T, dtype=np.int64),
            cumulated_TSU,
            self.learn,
            nats_T,
        )
        return nats_T

    def remember(self) -> Known:
        """Return a copy of what was read, to be gone back to; TooLargeError where there is no memory for it."""
        self._check_memory()
        return self._known.copied()

    def go_back(self, known: Known) -> None:
        """Forget what was read since ``known``; how far each voice is to be trusted stays."""
        self._known = known

    def _check_memory(self) -> None:
        check_memory(self._table_bytes, "Mixing below the token", "evaluate without 'adapt'")

    def _call(self, name: str, *arguments: Any) -> None:
        with np.errstate(over="ignore"):  # hashes wrap around; plain Python would tell of it
            compiled(name, KERNELS)(*arguments)
