"""A cache of what a text has said so far: where its last tokens stood before, what followed them counts.

    p_k(w) = (1 - s) p_{k-1}(w) + s c_k(w) / n_k,    k = 1, 2, ... as long as the last k tokens stood there before

with p_0 the model's own probability; n_k says how often the last k tokens stood there, c_k(w) how often
w followed. The share s belongs to k and to how n_k and the number of different followers compare (a
context that was always followed by the same token tells more than one that never was), and is learned
while the text is read, by expectation maximisation: the interpolation of Jelinek and Mercer 1980.
Caches for language models: Kuhn and De Mori 1990, Grave et al. 2017 (arXiv 1612.04426); contexts of all
lengths as in PPM (Cleary and Witten 1984).

All of it is from tokens that were read before, so each p_k is a distribution, and nothing is learned from
text that is still to be scored. Shapes: N tokens of a text.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST = 16  # tokens of a context
FIRST_SHARE = 0.2  # of every class, before anything is known
FIRST_WEIGHT = 4.0  # tokens that this is worth
MOST_SEEN = 8  # classes of n_k, by powers of two
MOST_FOLLOWERS = 4  # classes of the number of different followers, one by one

Ids = NDArray[np.int64]


class Followers(NamedTuple):
    """What followed a context of one length before, at every token: a class (-1: not seen) and a share."""

    class_N: NDArray[np.int64]
    share_N: NDArray[np.float64]


def with_cache(
    nats_N: NDArray[np.float32], tokens_N: NDArray[np.integer], boundary_id: int, longest: int = LONGEST
) -> NDArray[np.float32]:
    """Return a model's ``nats_N`` with what the text has said so far mixed in (N,).

    Boundary tokens have 0, as they are not scored, but they are part of contexts.
    """
    # For each context length and class: how many tokens it was asked for (the first guess counted
    # in), and how many of them are expected to have come from it. The share s is the quotient.
    # Lists, as numpy is slow one by one.
    contexts = [(each.class_N.tolist(), each.share_N.tolist()) for each in followers(tokens_N, longest)]
    classes = MOST_SEEN * MOST_FOLLOWERS
    given = [[FIRST_SHARE * FIRST_WEIGHT] * classes for _ in contexts]
    asked = [[FIRST_WEIGHT] * classes for _ in contexts]

    mixed = np.asarray(nats_N, dtype=np.float64).copy()
    for place in np.flatnonzero(np.asarray(tokens_N) != boundary_id).tolist():
        chance = math.exp(-mixed[place])
        for (kinds, shares), came, seen in zip(contexts, given, asked, strict=True):
            kind = kinds[place]
            if kind < 0:  # a longer one was not seen either
                break
            weight = came[kind] / seen[kind]
            told = weight * shares[place]
            chance = (1 - weight) * chance + told  # p_k of p_{k-1}
            # Expectation maximisation: the token came from here with the probability told / p_k.
            seen[kind] += 1
            if told:
                came[kind] += told / chance
        mixed[place] = -math.log(chance) if chance else math.inf
    return mixed.astype(np.float32)


def followers(tokens_N: NDArray[np.integer], longest: int) -> list[Followers]:
    """Return what followed the last 1, 2, ... ``longest`` tokens before; fewer if none so long came twice."""
    found = []
    token_N: Ids = np.unique(tokens_N, return_inverse=True)[1]
    vocabulary = int(token_N.max(initial=0)) + 1
    gram_N = token_N  # numbers that are equal where the k tokens that end there are
    for k in range(1, longest + 1):
        # The context is the k tokens before; with the token itself it is the gram of k + 1 tokens.
        # Numbered anew for each length, grams stay below N, so that the product with the
        # vocabulary fits into 64 bits.
        context_N = np.full(len(token_N), -1)
        context_N[k:] = gram_N[k - 1 : -1]
        gram_N = np.unique(context_N * vocabulary + token_N, return_inverse=True)[1]
        seen_N = _count_before(context_N)  # n_k
        if not seen_N.any():
            break
        said_N = _count_before(gram_N)  # c_k of the token that stands here

        # A class for each pair of the power of two of n_k and the number of different followers so far.
        new_N = said_N == 0
        different_N = _sum_before(context_N, new_N)
        power_N = np.log2(np.maximum(seen_N, 1)).astype(np.int64)
        class_N = np.minimum(power_N, MOST_SEEN - 1) * MOST_FOLLOWERS
        class_N += np.minimum(different_N, MOST_FOLLOWERS) - 1
        unseen_N = (seen_N == 0) | (context_N < 0)
        class_N[unseen_N] = -1
        found.append(Followers(class_N, said_N / np.maximum(seen_N, 1)))
    return found


def _count_before(ids_N: Ids) -> Ids:
    """Return how often each id stood before."""
    return _sum_before(ids_N, np.ones(len(ids_N), dtype=bool))


def _sum_before(ids_N: Ids, counted_N: NDArray[np.bool_]) -> Ids:
    """Return how many of the places before that have the same id are ``counted_N``."""
    # Sorted stably, the places of an id stand together in the order of the text: a running sum over all,
    # less what it was at the id's first place, is the sum over the places before.
    order = np.argsort(ids_N, kind="stable")
    sorted_ids = ids_N[order]
    counted = counted_N[order].astype(np.int64)
    before = np.cumsum(counted) - counted
    first = np.flatnonzero(np.diff(sorted_ids, prepend=sorted_ids[:1] - 1))
    lengths = np.diff(np.append(first, len(sorted_ids)))
    result = np.empty(len(ids_N), dtype=np.int64)
    result[order] = before - np.repeat(before[first], lengths)
    return result
