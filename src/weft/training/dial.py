"""The dial: from a text and the time for it to every value that a recipe leaves open.

A model of N parameters that reads T tokens, of which U are different ones, is taken to need

    a (N / 1M)^-p + b (T' / 1M)^-q + c    bits per byte, with T' = U (1 + r (1 - exp(-(T / U - 1) / r))) for T > U:

what is read again counts less, and in the end nothing (Hoffmann et al. 2022, arXiv 2203.15556; Muennighoff et al. 2023,
arXiv 2305.16264). The constants were fitted to the runs of docs/study.md; c does not matter here. Of the sizes that it
knows the dial takes the one with the fewest bits, given how many tokens this machine reads in the time, which it
measures (:mod:`weft.training.pace`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from weft.training.pace import Pace
from weft.training.recipe import Recipe
from weft.training.schedule import DEFAULT_MINUTES

SIZE_SHARE, SIZE_POWER = 0.5, 0.3
TEXT_SHARE, TEXT_POWER = 0.5, 0.4
REPEATS = 15.0

SIZES = tuple(round(1e6 * 2 ** (step / 2) / 1e4) * 10_000 for step in range(-6, 15))  # 130k to 128M, sqrt(2) apart
PROBES = (500_000, 2_000_000)  # measured at first
CLOSE = 1.5  # a pace that was measured at a size as near as that is good enough


class Text(NamedTuple):
    """What there is to learn from."""

    bytes: int
    tokens: int


class Plan(NamedTuple):
    """What a run will do: its parameters, the tokens it reads, and how many times that is the text."""

    size: int
    tokens: float
    epochs: float


def expected_bits(size: float, tokens: float, different: float) -> float:
    """Return the bits per byte that depend on the size and on the tokens read, ``different`` of them different."""
    read = min(tokens, different)
    if tokens > different:
        read *= 1 + REPEATS * (1 - math.exp(-(tokens / different - 1) / REPEATS))
    bits: float = SIZE_SHARE * (size / 1e6) ** -SIZE_POWER + TEXT_SHARE * (read / 1e6) ** -TEXT_POWER
    return bits


def size_for_time(pace: Pace, seconds: float, text: Text) -> int:
    """Return the size with the fewest expected bits after ``seconds`` of training at ``pace``, which is measured."""

    def bits(size: int) -> float:
        return expected_bits(size, seconds / pace.at(size), text.tokens)

    for probe in PROBES:
        pace.learn(probe)
    while True:
        size = min(SIZES, key=bits)
        if any(1 / CLOSE < size / known < CLOSE for known in pace.measured):
            return size
        pace.learn(size)


def size_for_tokens(tokens: float, text: Text) -> int:
    """Return the size that would have been best, had the time been given in which it reads ``tokens``.

    It takes a pace in proportion to the size. Larger ones would always be better, and always take longer.
    """

    def best_at_cost_of(size: int) -> int:
        return min(SIZES, key=lambda other: expected_bits(other, tokens * size / other, text.tokens))

    return max((size for size in SIZES if best_at_cost_of(size) >= size), default=SIZES[0])


def plan_of(recipe: Recipe, text: Text, measure: Callable[[int], float]) -> Plan:
    """Return what a run of ``recipe`` will do at the best size.

    ``measure`` tells the seconds that a token takes at a number of parameters; it is asked where the budget is time.
    """
    training = recipe.training
    tokens = training.tokens or (training.steps or 0) * training.lanes * training.length * training.accumulation
    if tokens:
        size = size_for_tokens(tokens, text)
    else:
        pace, seconds = Pace(measure), 60 * (training.minutes or DEFAULT_MINUTES)
        size = size_for_time(pace, seconds, text)
        tokens = round(seconds / pace.at(size))
    return Plan(size, tokens, tokens / text.tokens)


def explain(plan: Plan, recipe: Recipe, text: Text) -> list[str]:
    """Say in a few lines what was chosen, and why."""
    minutes, data = recipe.training.minutes, recipe.data
    return [
        f"vocabulary: {data.vocab_size:,} tokens ({data.tokenizer}), for {text.bytes / 1e6:.3g} MB of training text",
        f"size: {plan.size / 1e6:.3g}M parameters, best for the {plan.tokens / 1e6:.3g}M tokens that they read "
        + (f"in {minutes:g} minutes on this machine" if minutes else "in all")
        + f", {plan.epochs:.2g} times the text; --parameters sets another",
    ]
