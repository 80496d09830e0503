"""The dial: from a text and the time for it to every value that a recipe leaves open.

A model of N million parameters that reads T megabytes of text, of which U are different, is taken to need

    k (a N^-p + T'^-q) + c    bits per byte, with T' = U (1 + r (1 - exp(-(T / U - 1) / r))) for T > U, else T:

what is read again counts less, and in the end nothing (Hoffmann et al. 2022, arXiv 2203.15556; Muennighoff et al. 2023,
arXiv 2305.16264). k and c are a text's own and do not matter here; the rest was fitted to the runs of docs/study.md
("The size") by benchmarks/study/law.py. Of the sizes that it knows the dial takes the one with the fewest bits, given
how much this machine reads in the time, which it measures (:mod:`weft.training.pace`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from weft.training.pace import Pace
from weft.training.recipe import Recipe
from weft.training.schedule import DEFAULT_MINUTES

SIZE_SHARE, SIZE_POWER = 0.206, 0.419  # a, p
TEXT_POWER, REPEATS = 0.484, 2.85  # q, r

SIZES = tuple(round(1e6 * 2 ** (step / 2) / 1e4) * 10_000 for step in range(-6, 15))  # 130k to 128M, sqrt(2) apart
PROBES = (500_000, 2_000_000)  # measured at first
MOST_PER_BYTE = 2.0  # parameters: what the law was fitted to goes no further
CLOSE = 1.5  # a pace that was measured at a size as near as that is good enough


class Text(NamedTuple):
    """What there is to learn from."""

    bytes: int
    tokens: int

    def bits(self, size: float, tokens: float) -> float:
        """Return the expected bits of ``size`` parameters that read ``tokens``, on the law's scale."""
        return expected_bits(size, tokens * self.bytes / self.tokens, self.bytes)


class Plan(NamedTuple):
    """What a run will do: its parameters, the tokens it reads, and how many times that is the text."""

    size: int
    tokens: float
    epochs: float


def expected_bits(size: float, read: float, different: float) -> float:
    """Return what the law says for ``read`` bytes, ``different`` of them different, without k and c."""
    worth = min(read, different)
    if read > different:
        worth *= 1 + REPEATS * (1 - math.exp(-(read / different - 1) / REPEATS))
    bits: float = SIZE_SHARE * (size / 1e6) ** -SIZE_POWER + (worth / 1e6) ** -TEXT_POWER
    return bits


def size_for_time(pace: Pace, seconds: float, text: Text) -> int:
    """Return the size with the fewest expected bits after ``seconds`` of training at ``pace``, which is measured."""

    def bits(size: int) -> float:
        return text.bits(size, seconds / pace.at(size))

    sizes = [size for size in SIZES if size <= MOST_PER_BYTE * text.bytes] or SIZES[:1]
    for probe in PROBES:
        pace.learn(probe)
    while True:
        size = min(sizes, key=bits)
        if any(1 / CLOSE < size / known < CLOSE for known in pace.measured):
            return size
        pace.learn(size)


def size_for_text(training_bytes: int) -> int:
    """Return the size where no time is given: 2M parameters at 2 MB, growing with the root of the text, at most 5M.

    By the law alone larger ones would always be better; they only take longer.
    """
    return int(min(5e6, max(1e5, 2e6 * (training_bytes / 2e6) ** 0.5)))


def plan_of(recipe: Recipe, text: Text, measure: Callable[[int], float]) -> Plan:
    """Return what a run of ``recipe`` will do at the best size.

    ``measure`` tells the seconds that a token takes at a number of parameters; it is asked where the budget is time.
    """
    training = recipe.training
    tokens = training.tokens or (training.steps or 0) * training.lanes * training.length * training.accumulation
    if tokens:
        size = size_for_text(text.bytes)
    else:
        pace, seconds = Pace(measure), 60 * (training.minutes or DEFAULT_MINUTES)
        size = size_for_time(pace, seconds, text)
        tokens = round(seconds / pace.at(size))
    return Plan(size, tokens, tokens / text.tokens)


def explain(plan: Plan, recipe: Recipe, text: Text) -> list[str]:
    """Say in a few lines what was chosen, and why."""
    minutes, data = recipe.training.minutes, recipe.data
    megabytes = f"{text.bytes / 1e6:.3g} MB of training text"
    reads = f"{plan.tokens / 1e6:.3g}M tokens, {plan.epochs:.2g} times the text"
    why = f"the best for {minutes:g} minutes here, in which it reads {reads}" if minutes else f"it reads {reads}"
    return [
        f"Vocabulary: {data.vocab_size:,} tokens ({data.tokenizer}), for {megabytes}.",
        f"Size: {plan.size / 1e6:.3g}M parameters; {why}. --parameters sets another.",
    ]
