"""What followed a context before counts, beside a model: how much is learned from a text.

    p_k(w) = (1 - s) p_{k-1}(w) + s c_k(w) / n_k,    k = 1, 2, ... as long as the last k tokens stood there before

with p_0 the model's own probability; n_k says how often the last k tokens stood in the memory, c_k(w) how often w
followed. The share s belongs to k, to n_k and to the number of different followers (a context that was always followed
by the same token tells more than one that never was). Shares are learned by expectation maximisation: the interpolation
of Jelinek and Mercer 1980. Caches for language models: Kuhn and De Mori 1990, Grave et al. 2017 (arXiv 1612.04426);
contexts of all lengths as in PPM (Cleary and Witten 1984); memories of the training text: Khandelwal et al. 2020 (arXiv
1911.00172).

As each p_k mixes two distributions over the vocabulary, it is one itself. Shapes: K context lengths, C classes of
contexts, T tokens of a text.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.recall.compiled import compiled
from weft.recall.constants import CLASSES, LONGEST
from weft.recall.index import Found

FIRST_SHARE = 0.2  # of every class, before anything is known
FIRST_WEIGHT = 4.0  # tokens that this is worth
ROUNDS = 30  # of expectation maximisation

Nats = NDArray[np.float32]
Counts = NDArray[np.float64]


class Shares(NamedTuple):
    """For each context length and class, how many tokens are expected to have come from it, and for how many it was
    asked: the share is the quotient."""

    given_KC: Counts
    asked_KC: Counts

    @property
    def share_KC(self) -> Counts:  # noqa: N802 - a shape
        """The shares (K, C)."""
        return self.given_KC / self.asked_KC

    def remembered(self, weight: float) -> Shares:
        """Return the same shares, worth at most ``weight`` tokens each, to go on learning from."""
        factor_KC = np.minimum(1.0, weight / self.asked_KC)
        return Shares(self.given_KC * factor_KC, self.asked_KC * factor_KC)


def first_guess(longest: int = LONGEST) -> Shares:
    """Return the shares before anything is known."""
    asked_KC = np.full((longest, CLASSES), FIRST_WEIGHT)
    return Shares(asked_KC * FIRST_SHARE, asked_KC)


def fit(nats_T: Nats, scored_T: NDArray[np.bool_], found: Found) -> Shares:
    """Return the shares that suit a text best whose tokens cost a model ``nats_T``, by EM from the first guess."""
    shares = first_guess(len(found.seen_KT))
    for _ in range(ROUNDS):
        counted = first_guess(len(found.seen_KT))
        compiled("count_shares")(
            nats_T.astype(np.float64), scored_T, *found, shares.share_KC, counted.given_KC, counted.asked_KC
        )
        shares = counted
    return shares


def mix_in(nats_T: Nats, scored_T: NDArray[np.bool_], found: Found, shares: Shares, *, learn: bool = False) -> Nats:
    """Return the nats (T) of the mixture of a model and what a memory says.

    Tokens that are not ``scored_T`` stay as they are. With ``learn``, ``shares`` follow each token after it was scored,
    in place.
    """
    mixed_T = np.empty(len(nats_T))
    compiled("mix_in")(nats_T.astype(np.float64), scored_T, *found, shares.given_KC, shares.asked_KC, learn, mixed_T)
    return mixed_T.astype(np.float32)
