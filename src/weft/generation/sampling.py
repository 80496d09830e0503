"""How the next token is drawn from the logits.

The order is: temperature, then top-k, then top-p. Only what is kept is ever sorted, so that a draw costs
little beside the model's step with a vocabulary of any size. Shapes: V vocabulary, N tokens that are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
from numpy.typing import NDArray

from weft.errors import UserError

HOTTEST = 100.0  # next to no preference at all; far beyond, float32 is too coarse
COLDEST = 1e-4  # below this a draw is the likeliest token; dividing by less could overflow
FEW = 512  # tokens that are sorted as they are
# Of the likeliest token's weight: where top-p looks for its tokens at first, then, and at last.
SHARES = (1e-2, 1e-4, 0.0)

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn: ``temperature`` 0 is greedy; ``top_k`` 0 and ``top_p`` 1 cut nothing off."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        real = isinstance(self.temperature, Real) and isinstance(self.top_p, Real)
        whole = isinstance(self.top_k, Integral) and isinstance(self.seed, Integral)
        if not real or not whole:
            raise UserError("Sampling needs numbers for temperature and top-p, and whole ones for top-k and seed.")
        if not 0 <= self.temperature <= HOTTEST or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UserError(f"Sampling needs a temperature from 0 to {HOTTEST:g}, top-k >= 0 and 0 < top-p <= 1.")
        if not 0 <= self.seed < 1 << 62:
            raise UserError("Sampling needs a seed from 0 to 2^62.")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature < COLDEST


def draw(logits_V: Floats, sampling: Sampling, random: np.random.Generator) -> int:
    """Draw a token: temperature first, then top-k, then top-p (nucleus sampling, Holtzman et al. 2020).

    Top-k keeps the k likeliest tokens; top-p those of them that it takes, the likeliest first, until they
    hold the share ``top_p`` of what is left; of equally likely ones the lower ids. One number of ``random``
    is used (none when greedy). UserError where the logits are not numbers.
    """
    likeliest = int(logits_V.argmax())
    most = logits_V[likeliest]
    if not math.isfinite(most):
        raise UserError("The model's logits are not numbers: its training diverged; take an earlier checkpoint.")
    if sampling.greedy:
        return likeliest
    weights_N = logits_V - most  # no exponential overflows, as the largest is 0 here
    weights_N *= 1 / sampling.temperature
    ids_N: Ids | None = None  # of the tokens that are kept, rising; None: all are
    if 0 < sampling.top_k < len(weights_N):
        ids_N = _largest(weights_N, sampling.top_k, np.partition(weights_N, -sampling.top_k)[-sampling.top_k])
        weights_N = weights_N[ids_N]
    np.exp(weights_N, out=weights_N)
    if sampling.top_p < 1:
        inside_N = _nucleus(weights_N, sampling.top_p)
        weights_N = weights_N[inside_N]
        ids_N = inside_N if ids_N is None else ids_N[inside_N]
    drawn = _place(weights_N, random.random())
    return drawn if ids_N is None else int(ids_N[drawn])


def surprisal(logits_V: Floats, token: int) -> float:
    """Return the bits of ``token``."""
    most = logits_V.max()
    return float((math.log(np.exp(logits_V - most).sum()) + most - logits_V[token]) / math.log(2))


def _nucleus(weights_N: Floats, share: float) -> Ids:
    """Return the places, in order, of the fewest largest weights that hold ``share`` of their sum."""
    wanted = share * float(weights_N.sum(dtype=np.float64))
    # Weights are of the likeliest token's: those of at least 1 % of it nearly always
    # hold the share, and are few.
    for least in SHARES if len(weights_N) > FEW else SHARES[-1:]:
        head = weights_N[weights_N >= least]
        if not least or head.sum(dtype=np.float64) >= wanted:
            break
    head.sort()
    held = head[::-1].cumsum(dtype=np.float64)
    count = min(int(held.searchsorted(wanted)) + 1, len(head))
    return _largest(weights_N, count, head[-count])


def _largest(values_N: Floats, count: int, least: np.float32) -> Ids:
    """Return the places, in order, of the ``count`` largest values, of which ``least`` is the smallest."""
    places: Ids = (values_N >= least).nonzero()[0]
    surplus = len(places) - count
    if surplus:  # equal ones at the border
        level = places[values_N[places] == least]
        places = np.setdiff1d(places, level[len(level) - surplus :], assume_unique=True)
    return places


def _place(weights_N: Floats, chance: float) -> int:
    """Return where ``chance``, from 0 to 1, falls among the weights; never on one that is zero."""
    held = weights_N.cumsum(dtype=np.float64)
    return min(int(held.searchsorted(chance * held[-1], side="right")), int(held.searchsorted(held[-1])))
