"""Which of a plan's trials count: the validation text chooses learning rates and leaders, the test text nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

from weft.experiments.plan import Plan, Trial
from weft.experiments.runner import Outcome

Finished = Mapping[Trial, Outcome]  # the trials that have ended, in the order of the plan


def best_rate(plan: Plan, finished: Finished, contender: str) -> float:
    """Return the learning rate with the fewest bits per byte on the validation text, with the first seed.

    NaN where no run has ended well.
    """
    found = {}
    for rate in plan.learning_rates:
        outcome = finished.get(Trial(contender, rate, plan.seeds[0]))
        if outcome and outcome.result:
            found[rate] = outcome.result.validation.bits_per_byte_of_weights
    return min(found, key=lambda rate: found[rate], default=math.nan)


def leaders(plan: Plan, finished: Finished) -> list[str]:
    """Return the contenders that get more seeds, best first by the validation text."""
    found = {}
    for contender in plan.contenders:
        outcome = finished.get(Trial(contender, best_rate(plan, finished, contender), plan.seeds[0]))
        if outcome and outcome.result:
            found[contender] = outcome.result.validation.bits_per_byte_of_weights
    return sorted(found, key=lambda contender: found[contender])[: plan.top]


def chosen(plan: Plan, finished: Finished) -> list[Trial]:
    """Return the trials at the best learning rates, which are the rows of the comparison."""
    best = {contender: best_rate(plan, finished, contender) for contender in plan.contenders}
    found = []
    for trial, outcome in finished.items():
        if outcome.result and trial.learning_rate == best[trial.contender]:
            found.append(trial)
    return found
