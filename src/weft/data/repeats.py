"""Lines of the held-out text that stand in the training text too: what a model may have learned by heart.

A line counts where it is long enough to be no accident, or where it is a document of its own (a list of
sentences).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.data.documents import Fragment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from weft.data.tokenizers import Tokenizer

LEAST_BYTES = 40
WORTH_TELLING = 0.01  # of the bytes


class Repeats:
    """Marks the tokens of one split that are of lines which stand in the training text; ``bytes`` and ``lines`` count.

    ``repeated`` are the hashes of such lines, of :func:`repeated_lines`.
    """

    def __init__(self, repeated: frozenset[int], tokenizer: Tokenizer) -> None:
        self._repeated = repeated
        sizes = [len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)]
        self._bytes_of_token = np.array(sizes, dtype=np.int64)
        self.lines = self.bytes = 0

    def mark(self, piece: Fragment, ids: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which of the tokens ``ids`` (T) of ``piece`` begin in a repeated line, its line end included."""
        marked = np.zeros(len(ids), dtype=np.bool_)
        if not self._repeated:
            return marked
        sizes = self._bytes_of_token[ids]
        assert sizes.sum() == len(piece.data), "the tokens are the bytes of the piece"
        begins = np.cumsum(sizes) - sizes  # the byte at which each token begins
        start = 0
        for line in piece.data.split(b"\n"):
            stop = start + len(line) + 1
            # A token that reaches over a border counts where it begins.
            if hash(line.strip()) in self._repeated:
                first, end = np.searchsorted(begins, [start, stop])
                marked[first:end] = True
                self.lines += 1
            start = stop
        self.bytes += int(sizes[marked].sum())
        return marked


def repeated_lines(held_out: Iterable[Fragment], training: Iterable[Fragment]) -> frozenset[int]:
    """Return the hashes of the lines of ``held_out`` that ``training`` has too; both are the pieces of documents.

    The hashes are Python's, which are others in another process. Memory is that of the hashes of
    ``held_out``.
    """
    wanted = {hash(line) for line in _counted(held_out)}
    found: set[int] = set()
    for line in _lines(training):
        line_hash = hash(line)
        if line_hash in wanted:
            found.add(line_hash)
    return frozenset(found)


def remark_on_repeats(name: str, lines: int, share: float) -> list[str]:
    """Return a sentence on the repeated ``lines`` of a split, where their ``share`` of its bytes matters."""
    if share < WORTH_TELLING:
        return []
    known = f"{lines:,} lines of the {name} text ({share:.0%} of its bytes) stand in the training text too"
    if share > 1 - WORTH_TELLING:
        return [f"{known}, so its figures say nothing of new text: leave duplicates out of the text."]
    return [f"{known}: its figures are also given without them."]


def _counted(pieces: Iterable[Fragment]) -> Iterator[bytes]:
    """Yield the lines of ``pieces`` that count."""
    for piece in pieces:
        # A document of one line, which counts however short it is.
        alone = piece.first and b"\n" not in piece.data
        for line in _lines([piece]):
            if line and (len(line) >= LEAST_BYTES or alone):
                yield line


def _lines(pieces: Iterable[Fragment]) -> Iterator[bytes]:
    for piece in pieces:
        for line in piece.data.split(b"\n"):
            yield line.strip()
