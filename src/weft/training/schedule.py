"""How far a run has come, and the learning rate there. The schedule follows the budget: steps, tokens or the clock."""

from __future__ import annotations

import math

from weft.training.recipe import DEFAULT_MINUTES, TrainingConfig


def progress(config: TrainingConfig, *, steps: int, tokens: int, seconds: float) -> float:
    """Return the part of the budget that is used, from 0 to 1."""
    if config.steps is not None:
        done = steps / config.steps
    elif config.tokens is not None:
        done = tokens / config.tokens
    else:
        done = seconds / (60 * (config.minutes or DEFAULT_MINUTES))
    return min(1.0, done)


def learning_rate_factor(config: TrainingConfig, done: float) -> float:
    """Return the learning rate as a fraction of its peak when ``done`` (0 to 1) of the budget is used.

    ``linear``: warm-up, constant, then linear decay to zero over the last ``decay`` of the budget (trapezoid,
    Zhai et al. 2022; Haegele et al. 2024, arXiv 2405.18392). ``cosine``: warm-up, then a half cosine to zero
    (Loshchilov and Hutter 2017).
    """
    schedule = config.schedule
    if done < schedule.warmup:
        return max(done / schedule.warmup, 1e-3)
    if schedule.shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (done - schedule.warmup) / max(1 - schedule.warmup, 1e-9)))
    if schedule.decay == 0:
        return 1.0
    return min(1.0, (1 - done) / schedule.decay)
