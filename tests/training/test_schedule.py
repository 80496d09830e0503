"""The learning rate over the budget, whatever the budget is counted in."""

from __future__ import annotations

import math

import pytest

from weft.training.recipe import TrainingConfig
from weft.training.schedule import DEFAULT_MINUTES, learning_rate_factor, progress

near = pytest.approx


def factors(settings, *places) -> list[float]:
    config = TrainingConfig(schedule=settings)
    return [learning_rate_factor(config, place) for place in places]


def test_linear_warms_up_holds_and_decays_to_zero():
    settings = {"warmup": 0.1, "decay": 0.5}
    rising = factors(settings, 0.0, 0.025, 0.05, 0.1)
    assert rising == [1e-3, near(0.25), near(0.5), 1.0]
    assert factors(settings, 0.3, 0.5) == [1.0, 1.0]
    assert factors(settings, 0.6, 0.75, 0.9, 1.0) == [near(0.8), near(0.5), near(0.2), 0.0]


def test_cosine_warms_up_and_follows_a_half_cosine_to_zero():
    settings = {"shape": "cosine", "warmup": 0.2}
    assert factors(settings, 0.0, 0.1, 0.2) == [1e-3, near(0.5), 1.0]
    assert factors(settings, 0.6, 1.0) == [near(0.5), near(0.0, abs=1e-12)]
    assert factors(settings, 0.4) == [near((1 + math.cos(math.pi / 4)) / 2)]


def test_without_warm_up_or_decay_it_is_constant():
    assert factors({"warmup": 0.0, "decay": 0.0}, 0.0, 0.5, 1.0) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize(("warmup", "decay"), [(0.0, 1.0), (0.02, 0.6), (0.5, 1.0), (1.0, 0.0)])
def test_it_is_always_a_fraction_that_first_rises_and_then_falls(shape, warmup, decay):
    places = [n / 500 for n in range(501)]
    values = factors({"shape": shape, "warmup": warmup, "decay": decay}, *places)
    assert all(0.0 <= value <= 1.0 for value in values)
    assert values[0] > 0  # the first step moves
    after = [value for place, value in zip(places, values, strict=True) if place >= warmup]
    before = [value for place, value in zip(places, values, strict=True) if place < warmup]
    assert before == sorted(before)
    assert after == sorted(after, reverse=True)


def test_the_budget_is_counted_in_what_it_was_given_in():
    used = {"steps": 30, "tokens": 5000, "seconds": 90.0}
    assert progress(TrainingConfig(steps=120), **used) == near(0.25)
    assert progress(TrainingConfig(tokens=20_000), **used) == near(0.25)
    assert progress(TrainingConfig(minutes=6), **used) == near(0.25)
    assert progress(TrainingConfig(), **used) == near(90 / 60 / DEFAULT_MINUTES)
    assert progress(TrainingConfig(steps=7), **used) == 1.0
    assert progress(TrainingConfig(steps=7), steps=0, tokens=0, seconds=0.0) == 0.0
