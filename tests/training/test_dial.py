"""The dial: the size for a text and a time, and how a machine's pace is found."""

from __future__ import annotations

import pytest
import torch

from weft.model import build
from weft.sizing import sized
from weft.training import dial, fitting
from weft.training.dial import MOST_PER_BYTE, SIZES, Text, expected_bits, plan_of, size_for_text, size_for_time
from weft.training.pace import Pace, seconds_per_token
from weft.training.parallel import Processes
from weft.training.recipe import TrainingConfig, make_recipe
from weft.training.run import saved_recipe, train

TEXT = Text(bytes=2_000_000, tokens=700_000)


def linear(size: int) -> float:
    """The pace of a machine that has a fixed cost for each token and one for each parameter."""
    return 2e-5 + 5e-11 * size


def test_expected_bits_fall_with_size_and_text_and_more_slowly_with_repeats():
    assert expected_bits(2e6, 1e6, 1e9) < expected_bits(1e6, 1e6, 1e9)
    assert expected_bits(1e6, 2e6, 1e9) < expected_bits(1e6, 2e6, 1e6) < expected_bits(1e6, 1e6, 1e6)
    assert expected_bits(1e6, 1e9, 1e6) == pytest.approx(expected_bits(1e6, 1e10, 1e6))
    assert expected_bits(1e6, 1e6, 1e6) == expected_bits(1e6, 1e6, 1e9)


@pytest.mark.parametrize("seconds", [60, 300, 1200, 7200])
def test_the_size_is_the_best_of_all_though_few_are_measured(seconds):
    asked = []

    def measure(size: int) -> float:
        asked.append(size)
        return linear(size)

    size = size_for_time(Pace(measure), seconds, TEXT)
    allowed = [size for size in SIZES if size <= MOST_PER_BYTE * TEXT.bytes]
    best = min(allowed, key=lambda other: TEXT.bits(other, seconds / linear(other)))
    assert best / 1.5 < size < best * 1.5  # its neighbours at most: the pace is drawn between measurements
    assert len(asked) == len(set(asked)) <= 5


def test_more_time_and_faster_machines_have_larger_models():
    sizes = [size_for_time(Pace(linear), seconds, TEXT) for seconds in (30, 300, 3000)]
    assert sizes == sorted(set(sizes))
    assert size_for_time(Pace(lambda size: linear(size) / 10), 300, TEXT) > sizes[1]
    more = Text(bytes=200_000_000, tokens=70_000_000)
    assert size_for_time(Pace(linear), 30_000, more) != size_for_time(Pace(linear), 30_000, TEXT)


def test_the_size_goes_with_the_text_where_no_time_is_given_and_never_far_beyond_it():
    assert size_for_text(2_000_000) == 2_000_000
    assert size_for_text(10_000) < size_for_text(1_000_000) < size_for_text(10**9) == 5_000_000
    assert size_for_time(Pace(linear), 1e6, TEXT) <= 2 * TEXT.bytes
    assert size_for_time(Pace(linear), 1e6, Text(bytes=1000, tokens=400)) == SIZES[0]


def test_the_plan_counts_the_tokens_of_steps_and_measures_nothing_for_them():
    def measure(size: int) -> float:
        raise AssertionError(size)

    recipe = make_recipe({"training": {"steps": 10, "lanes": 2, "length": 32, "accumulation": 3}})
    plan = plan_of(recipe, TEXT, measure)
    assert plan.tokens == 10 * 2 * 32 * 3
    assert plan.epochs == plan.tokens / TEXT.tokens
    minutes = make_recipe({"training": {"minutes": 2}})
    plan = plan_of(minutes, TEXT, linear)
    assert plan.tokens == pytest.approx(120 / linear(plan.size), rel=0.2)


def test_a_pace_between_measurements_is_on_the_line_and_beyond_them_in_proportion():
    pace = Pace({100: 1.0, 300: 2.0}.__getitem__)
    pace.learn(100)
    pace.learn(300)
    assert [pace.at(size) for size in (50, 100, 200, 300, 600)] == [0.5, 1.0, 1.5, 2.0, 4.0]


def test_measuring_leaves_the_random_numbers_as_they_were_and_moves_the_model():
    model = build(sized("hybrid", parameters=50_000, vocab_size=300), seed=0)
    before = model.embedding.weight_VD.detach().clone()
    state = torch.random.get_rng_state()
    seconds = seconds_per_token(model, TrainingConfig(lanes=2, length=16), Processes())
    assert seconds > 0
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(model.embedding.weight_VD, before)


def test_a_run_of_minutes_has_the_size_that_the_machine_is_good_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(dial, "MOST_PER_BYTE", 1e9)
    found = {}
    for name, pace in (("slow", 1e-10), ("fast", 1e-13)):
        monkeypatch.setattr(fitting, "seconds_per_token", lambda model, *_, p=pace: p * model.parameter_count)
        values = tiny(training={"steps": None, "minutes": 0.001}, model={"hidden_size": None})
        train(values, tmp_path / name)
        found[name] = saved_recipe(tmp_path / name).model.parameters
    assert found["slow"] < found["fast"]


def test_a_size_that_is_given_stays_and_nothing_is_measured(tiny, tmp_path, monkeypatch):
    def refuse(*_: object) -> float:
        raise AssertionError

    monkeypatch.setattr(fitting, "seconds_per_token", refuse)
    for place, size in enumerate(({"hidden_size": 16}, {"hidden_size": None, "parameters": 30_000})):
        train(tiny(training={"steps": None, "minutes": 0.001}, model=size), tmp_path / str(place))
        saved = saved_recipe(tmp_path / str(place)).model
        assert (saved.hidden_size, saved.parameters) == (size["hidden_size"], size.get("parameters"))
