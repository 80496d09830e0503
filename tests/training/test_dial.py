"""The dial: the size for a text and a time, and how a machine's pace is found."""

from __future__ import annotations

import math
import signal

import pytest
import torch

from tests.training.test_run import StopAt
from weft.errors import Interrupted
from weft.model import build
from weft.sizing import sized
from weft.study.plan import Plan, Trial, recipe_of
from weft.training import dial, fitting
from weft.training.dial import (
    MOST_PER_BYTE,
    SIZES,
    Text,
    decay_for,
    dropout_for,
    expected_bits,
    lanes_for,
    left_open,
    rate_for,
    size_for_text,
    size_for_time,
    turn,
)
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


def recipe_with(values):
    return make_recipe({"data": {"vocab_size": 2048}}, values)


def refuse(*_: object) -> float:
    raise AssertionError


def steady(recipe) -> float:
    """The pace of a machine that steps of twice the size make a tenth faster."""
    lanes = math.log2(recipe.training.lanes * recipe.training.length / 1024)
    return linear(recipe.model.parameters or 1_000_000) * 0.9**lanes


def test_tokens_and_steps_measure_nothing_and_steps_stay_as_large_as_they_are_asked_for():
    steps = recipe_with({"training": {"steps": 10, "lanes": 2, "length": 32, "accumulation": 3}})
    told, lines = turn(steps, TEXT, refuse)
    assert (told.training.lanes, told.model.parameters) == (2, size_for_text(TEXT.bytes))
    assert f"{10 * 2 * 32 * 3 / 1e6:.3g}M tokens" in "\n".join(lines)
    assert turn(recipe_with({"training": {"steps": 10**6}}), TEXT, refuse)[0].training.lanes == 8
    assert turn(recipe_with({"training": {"tokens": 10**9, "accumulation": 2}}), TEXT, refuse)[0].training.lanes == 8
    few, many = (turn(recipe_with({"training": {"tokens": tokens}}), TEXT, refuse)[0] for tokens in (10**6, 10**9))
    assert few.training.lanes < many.training.lanes


def test_what_is_given_stays_and_where_all_is_given_nothing_is_said():
    given = {"model": {"dropout": 0.25}, "training": {"minutes": 100, "weight_decay": 0.01}}
    recipe = recipe_with(given)
    turned, lines = turn(recipe, TEXT, steady)
    assert (turned.model.dropout, turned.training.weight_decay) == (0.25, 0.01)
    assert turned.model.parameters
    assert turned.training.lanes > recipe.training.lanes
    assert any("weight decay 0.01, dropout 0.25" in line for line in lines)
    whole = recipe_with(turned.model_dump())
    assert left_open(whole) == set()
    assert turn(whole, TEXT, refuse) == (whole, [])


@pytest.mark.parametrize("model", [{"parameters": 700_000}, {"hidden_size": 64}])
def test_a_size_that_is_given_is_what_is_measured(model):
    asked = []

    def measure(recipe) -> float:
        asked.append((recipe.model.parameters, recipe.model.hidden_size))
        return steady(recipe)

    turned, lines = turn(recipe_with({"model": model, "training": {"minutes": 5}}), TEXT, measure)
    assert set(asked) == {(model.get("parameters"), model.get("hidden_size"))}
    expected = recipe_with({"model": model | {"dropout": turned.model.dropout}})  # the dial's one choice in the model
    assert turned.model.model_dump() == expected.model.model_dump()
    assert not any(line.startswith("Size") for line in lines)


def test_steps_and_weight_decay_grow_with_what_is_read():
    read = [1e5, 1e6, 1e7, 1e8, 1e9, 1e12]
    lanes = [lanes_for(tokens, 128) for tokens in read]
    assert lanes == sorted(lanes)
    assert lanes[0] == 8
    assert lanes[3] > 16
    assert lanes_for(1e9, 256) == lanes_for(1e9, 128) // 2  # two processes, or segments twice as long
    times = [0.1, 1, 3, 10, 30, 1000]
    values = [decay_for(epochs, 1000 * epochs, 4e-3) for epochs in times]
    assert values == sorted(values)
    assert values[0] == TrainingConfig().weight_decay < values[3] < values[-1] < 4
    smaller = decay_for(10, 5000, 4e-3)  # half as many steps in a pass, or each twice as large
    assert smaller == pytest.approx(2 * decay_for(10, 10_000, 4e-3), abs=0.02)
    assert smaller == pytest.approx(decay_for(10, 10_000, 2e-3), abs=0.02)


def test_a_short_run_learns_at_a_higher_rate_where_none_is_given():
    usual = TrainingConfig().learning_rate
    rates = [rate_for(tokens) for tokens in (1e4, 2e5, 1e6, 3e6, 1e7, 1e10)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == rates[1] == 4 * usual > rates[2] > rates[3] > rates[4] == rates[5] == usual

    def rate(**training) -> float:
        return turn(recipe_with({"training": {"tokens": 10**6} | training}), TEXT, refuse)[0].training.learning_rate

    assert rate() == rate_for(10**6) > rate(tokens=3 * 10**6)
    assert rate(learning_rate=1e-3) == 1e-3
    assert rate(optimizer="adamw") == rate(init_from="runs/other") == usual  # not what was measured
    decay = turn(recipe_with({"training": {"tokens": 10 * TEXT.tokens}}), TEXT, refuse)[0].training
    steps = 10 * TEXT.tokens / decay.step_tokens
    assert decay.weight_decay == decay_for(10, steps, decay.learning_rate)


def test_a_text_that_is_read_many_times_is_read_with_dropout():
    assert dropout_for(2) == 0 < dropout_for(7) < dropout_for(15) == dropout_for(1000) <= 0.1
    few, many = (turn(recipe_with({"training": {"tokens": times * TEXT.tokens}}), TEXT, refuse) for times in (2, 15))
    assert few[0].model.dropout == 0 < many[0].model.dropout
    assert f"dropout {many[0].model.dropout:g}" in "\n".join(many[1])


def test_a_comparison_leaves_nothing_to_the_dial():
    plan = Plan(
        parameters="1M",
        learning_rates=(4e-3,),
        architectures=("hybrid",),
        variants={"small steps": {"training": {"lanes": 2}}},
        minutes=5,
    )
    for contender in plan.contenders:
        assert left_open(recipe_of(plan, Trial(contender, 4e-3, 0))) == set()


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


def test_a_run_saves_what_was_chosen_and_goes_on_with_it(tiny, tmp_path):
    values = tiny(model={"hidden_size": None}, training={"steps": 3000})
    with pytest.raises(Interrupted):
        train(values, tmp_path / "run", listener=StopAt(5, signal.SIGINT))
    chosen = saved_recipe(tmp_path / "run")
    assert chosen.model.parameters is not None
    assert chosen.training.weight_decay > TrainingConfig().weight_decay
    train({"training": {"steps": 8}}, tmp_path / "run", resume=True)  # which are not many passes any more
    gone_on = saved_recipe(tmp_path / "run")
    assert gone_on.model == chosen.model
    assert gone_on.training == chosen.training.model_copy(update={"steps": 8})
