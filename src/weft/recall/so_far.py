"""What a text itself has said so far of what follows a context. Shapes: K context lengths, T tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weft.recall.index import Found

Ids = NDArray[np.int64]


def look_back(tokens_T: NDArray[np.integer], boundary_id: int, longest: int, beside: Found | None = None) -> Found:
    """Return what the tokens before each token of a text say of it, together with ``beside``, a memory of other text.

    No context reaches beyond the boundary of its document.
    """
    K = longest
    T = len(tokens_T)
    together = Found(*(np.zeros((K, T), dtype=np.int32) for _ in range(3)))
    token_T: Ids = np.unique(tokens_T, return_inverse=True)[1]
    vocabulary = int(token_T.max(initial=0)) + 1
    since_T = _since_boundary(np.asarray(tokens_T) == boundary_id)
    gram_T = token_T  # numbers that are equal where the k tokens that end there are
    for k in range(1, K + 1):
        # The context is the k tokens before; with the token itself it is the gram of k + 1 tokens. Numbered anew for
        # each length, grams stay below T, so that the product with the vocabulary fits into 64 bits.
        context_T = np.full(T, -1)
        context_T[k:] = gram_T[k - 1 : -1]
        gram_T = np.unique(context_T * vocabulary + token_T, return_inverse=True)[1]
        inside_T = since_T >= k
        seen_T = np.where(inside_T, _count_before(context_T), 0)
        said_T = np.where(inside_T, _count_before(gram_T), 0)
        different_T = np.zeros(T, dtype=np.int64)
        if beside is not None:
            seen_T = seen_T + beside.seen_KT[k - 1]
            said_T = said_T + beside.said_KT[k - 1]
            different_T += beside.different_KT[k - 1]
        if not seen_T.any():
            break
        new_T = inside_T & (said_T == 0)  # a follower that neither has seen
        different_T += _sum_before(context_T, new_T)
        together.seen_KT[k - 1] = seen_T
        together.said_KT[k - 1] = said_T
        together.different_KT[k - 1] = different_T
    return together


def _since_boundary(boundary_T: NDArray[np.bool_]) -> Ids:
    """Return how many tokens each follows in a document, the boundary among them; a boundary ends the one before."""
    place_T = np.arange(len(boundary_T))
    begin_T = np.maximum.accumulate(np.where(boundary_T, place_T, 0))
    since_T = place_T.copy()
    since_T[1:] -= begin_T[:-1]
    return since_T


def _count_before(ids_T: Ids) -> Ids:
    """Return how often each id stood before."""
    return _sum_before(ids_T, np.ones(len(ids_T), dtype=bool))


def _sum_before(ids_T: Ids, counted_T: NDArray[np.bool_]) -> Ids:
    """Return how many of the places before that have the same id are ``counted_T``."""
    # Sorted stably, the places of an id stand together in the order of the text: a running sum over all,
    # less what it was at the id's first place, is the sum over the places before.
    order = np.argsort(ids_T, kind="stable")
    sorted_ids = ids_T[order]
    counted = counted_T[order].astype(np.int64)
    before = np.cumsum(counted) - counted
    first = np.flatnonzero(np.diff(sorted_ids, prepend=sorted_ids[:1] - 1))
    lengths = np.diff(np.append(first, len(sorted_ids)))
    result = np.empty(len(ids_T), dtype=np.int64)
    result[order] = before - np.repeat(before[first], lengths)
    return result
