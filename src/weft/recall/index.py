"""A text whose suffixes are in order, so that what followed a context is looked up and not searched for.

A suffix array (Manber and Myers 1993), cut off at :data:`DEPTH` tokens. Shapes: N tokens, M = N - 1 places, F pairs of
tokens side by side, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.errors import UserError
from weft.recall.compiled import compiled

DEPTH = 32  # tokens by which suffixes are told apart; more than any context has


class Index(NamedTuple):
    """The tokens (N) of documents, each behind a boundary, with one more boundary at the end, and their order.

    ``order_M`` are the places of all suffixes but the last, sorted by their first :data:`DEPTH` tokens.
    """

    tokens_N: NDArray[Any]
    order_M: NDArray[np.int32]


class Pairs(NamedTuple):
    """What follows each token of the memory, and how often: of token v from ``begins_V[v]`` to ``begins_V[v + 1]``."""

    begins_V: NDArray[np.int64]
    follower_F: NDArray[np.int32]
    count_F: NDArray[np.int32]


class Found(NamedTuple):
    """What the memory says of T tokens after contexts of 1 to K tokens; zeros where a context does not stand there.

    ``seen_KT``: how often the context does. ``said_KT``: how often the token follows. ``different_KT``: how many
    tokens follow, as far as they were counted.
    """

    seen_KT: NDArray[np.int32]
    said_KT: NDArray[np.int32]
    different_KT: NDArray[np.int32]


def make_index(tokens_N: NDArray[Any]) -> Index:
    """Return the index over documents that begin with a boundary each; the last token is a boundary, too.

    While it sorts it takes about fifty bytes a token. UserError for more tokens than it can number.
    """
    if len(tokens_N) > np.iinfo(np.int32).max:
        raise UserError("A memory holds at most 2 billion tokens: set memory.most_tokens lower.")
    order_N = _sorted_suffixes(tokens_N)
    order_M = order_N[order_N != len(tokens_N) - 1].astype(np.int32)  # behind the last token there is nothing
    for array in (tokens_N, order_M):
        array.flags.writeable = False  # as when they are read from the disk
    return Index(tokens_N, order_M)


def pairs_of(index: Index, vocab_size: int) -> Pairs:
    """Return all pairs of tokens that stand side by side: in the order, suffixes with the same two are together."""
    token_M = index.tokens_N[index.order_M]
    follower_M = index.tokens_N[index.order_M + 1]
    new_M = np.ones(len(token_M), dtype=bool)
    new_M[1:] = (token_M[1:] != token_M[:-1]) | (follower_M[1:] != follower_M[:-1])
    first_F = np.flatnonzero(new_M)
    count_F = np.diff(np.append(first_F, len(token_M))).astype(np.int32)
    token_F = token_M[first_F]
    follower_F = follower_M[first_F].astype(np.int32)
    begins_V = np.searchsorted(token_F, np.arange(vocab_size + 1))
    return Pairs(begins_V, follower_F, count_F)


def _sorted_suffixes(tokens_N: NDArray[Any]) -> NDArray[np.int64]:
    """Return the places of all suffixes, sorted by their first :data:`DEPTH` tokens."""
    # Ranks by the first token, by two, by four: the rank of twice as many is that of a pair of ranks. 0 is the end.
    rank_N = np.unique(tokens_N, return_inverse=True)[1].astype(np.int64) + 1
    length = 1
    while True:
        behind_N = np.zeros_like(rank_N)
        behind_N[:-length] = rank_N[length:]
        pair_N = rank_N * (len(rank_N) + 2) + behind_N
        length *= 2
        order_N = np.argsort(pair_N, kind="stable")
        sorted_N = pair_N[order_N]
        new_N = np.ones(len(sorted_N), dtype=bool)
        new_N[1:] = sorted_N[1:] != sorted_N[:-1]
        if length >= DEPTH or new_N.all():
            return order_N
        rank_N[order_N] = np.cumsum(new_N)


def look_up(
    index: Index, text_T: NDArray[np.int32], begins_T: NDArray[np.int64], longest: int, most: int, part: slice
) -> Found:
    """Return what the memory says of the tokens ``part`` of a text, after their last 1 to ``longest`` tokens.

    ``begins_T`` is where the document of what stands before each token begins; ``most`` followers of a context are
    counted.
    """
    count = part.stop - part.start
    found = Found(*(np.zeros((longest, count), dtype=np.int32) for _ in range(3)))
    compiled("look_up")(index.tokens_N, index.order_M, text_T, begins_T, part.start, most, *found)
    return found
