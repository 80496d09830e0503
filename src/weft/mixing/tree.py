"""The vocabulary as a tree of bytes: a token is a path from the root, and the last step says that it ends.

In the order of their bytes, the tokens below a node of the tree stand together, so that its chance is a difference of
two running sums over a distribution. Shapes: U tokens with bytes, in order, L longest token in bytes, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.data import Tokenizer
from weft.data.config import CLOSED


class Tree(NamedTuple):
    """The tokens that have bytes, in the order of these.

    ``ids_U`` are their numbers, ``bytes_UL`` their bytes (-1 behind the end), ``lengths_U`` how many; ``rank_V`` is the
    place of each token in that order, -1 where it has no bytes. ``boundary_id`` begins a document.
    """

    ids_U: NDArray[np.int64]
    bytes_UL: NDArray[np.int16]
    lengths_U: NDArray[np.int64]
    rank_V: NDArray[np.int64]
    boundary_id: int

    def size(self, tokens_T: NDArray[np.integer], separator: bytes) -> int:
        """Return how many bytes :meth:`text` has."""
        sizes_V = np.where(self.rank_V < 0, 0, self.lengths_U[self.rank_V])
        sizes_V[self.boundary_id] = len(separator)
        return int(sizes_V[np.asarray(tokens_T)].sum())

    def text(self, tokens_T: NDArray[np.integer], separator: bytes) -> bytes:
        """Return the bytes of tokens, with ``separator`` for a boundary."""
        of_token = [b""] * len(self.rank_V)
        for token, row, length in zip(self.ids_U.tolist(), self.bytes_UL, self.lengths_U.tolist(), strict=True):
            of_token[token] = row[:length].astype(np.uint8).tobytes()
        of_token[self.boundary_id] = separator
        return b"".join(of_token[token] for token in tokens_T.tolist())


def make_tree(token_bytes: list[bytes], boundary_id: int) -> Tree | None:
    """Return the tree of a vocabulary, given each token's bytes (none: a special one); None where two are the same."""
    ids = sorted((token for token, data in enumerate(token_bytes) if data), key=lambda token: token_bytes[token])
    if not ids or len({token_bytes[token] for token in ids}) < len(ids):
        return None
    lengths_U = np.array([len(token_bytes[token]) for token in ids], dtype=np.int64)
    bytes_UL = np.full((len(ids), int(lengths_U.max())), -1, dtype=np.int16)
    for row, token in zip(bytes_UL, ids, strict=True):
        row[: len(token_bytes[token])] = list(token_bytes[token])
    rank_V = np.full(len(token_bytes), -1, dtype=np.int64)
    rank_V[ids] = np.arange(len(ids))
    return Tree(np.array(ids, dtype=np.int64), bytes_UL, lengths_U, rank_V, boundary_id)


def tree_of(tokenizer: Tokenizer) -> Tree | None:
    """Return the tree of a tokenizer's vocabulary; None where tokens are no bytes, or two have the same."""
    if tokenizer.kind == CLOSED:
        return None
    return make_tree([tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)], tokenizer.boundary_id)
