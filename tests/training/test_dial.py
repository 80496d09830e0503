"""The dial: the size for a text and a time, and how a machine's throughput is found."""

from __future__ import annotations

import math
import signal
from itertools import count
from types import SimpleNamespace

import pytest
import torch
import yaml

from tests.training.test_run import StopAt
from weft.data import prepare
from weft.errors import Interrupted, UserError
from weft.experiments.plan import Plan, Trial, recipe_of
from weft.model import build
from weft.reports.run.report import write_report
from weft.sizing import sized
from weft.training import dial, throughput
from weft.training import resolve as resolving
from weft.training.dial import (
    MOST_PER_BYTE,
    SIZES,
    Choice,
    Corpus,
    batch_size_for,
    decay_for,
    dropout_for,
    expected_bits,
    left_open,
    methods_for,
    rate_for,
    sentences,
    size_for_text,
    size_for_time,
    turn,
)
from weft.training.parallel import Processes
from weft.training.queue import Queue
from weft.training.recipe import TrainingConfig, make_recipe
from weft.training.run import train
from weft.training.run_folder import saved_recipe
from weft.training.throughput import TURNS, ThroughputBySize, ThroughputCheck, seconds_per_token

TEXT = Corpus(bytes=2_000_000, tokens=700_000)
MORE = Corpus(bytes=200_000_000, tokens=70_000_000)


def linear(size: int) -> float:
    """The seconds a token on a machine that has a fixed cost for each token and one for each parameter."""
    return 2e-5 + 5e-11 * size


def test_expected_bits_fall_with_size_and_text_and_more_slowly_with_repeats():
    assert expected_bits(2e6, 1e6, 1e9) < expected_bits(1e6, 1e6, 1e9)
    assert expected_bits(1e6, 2e6, 1e9) < expected_bits(1e6, 2e6, 1e6) < expected_bits(1e6, 1e6, 1e6)
    assert expected_bits(1e6, 1e9, 1e6) == pytest.approx(expected_bits(1e6, 1e10, 1e6))
    assert expected_bits(1e6, 1e6, 1e6) == expected_bits(1e6, 1e6, 1e9)


def flat(size: int) -> float:
    """The seconds a token on a machine to which small models are all the same, such as a GPU."""
    return 1e-5 * (1 + size / 1e8)


@pytest.mark.parametrize("seconds", [60, 300, 1200, 7200])
@pytest.mark.parametrize("machine", [linear, flat])
@pytest.mark.parametrize("text", [TEXT, MORE])
def test_the_size_is_the_best_of_all_though_few_are_measured(machine, text, seconds):
    asked = []

    def measure(size: int) -> float:
        asked.append(size)
        return machine(size)

    size = size_for_time(ThroughputBySize(measure), seconds, text)
    allowed = [size for size in SIZES if size <= MOST_PER_BYTE * text.bytes]
    best = min(allowed, key=lambda other: text.bits(other, seconds / machine(other)))
    assert best / 1.5 < size < best * 1.5  # its neighbours at most: the throughput is drawn between measurements
    assert len(set(asked)) <= 7
    assert {asked.count(size) for size in asked} == {TURNS}


@pytest.mark.parametrize("machine", [linear, flat])
@pytest.mark.parametrize("busy", [1, 2])
def test_a_busy_moment_while_sizes_are_timed_does_not_move_the_choice(machine, busy):
    """Whenever it comes: ``busy`` measurements after one another take five times as long."""

    def chosen(since: int) -> int | None:
        number = count()
        return size_for_time(
            ThroughputBySize(lambda size: machine(size) * (5 if 0 <= next(number) - since < busy else 1)), 300, TEXT
        )

    assert {chosen(since) for since in range(20)} == {chosen(-busy)}


def test_a_busy_moment_does_not_change_the_plan_of_a_size_that_is_given():
    recipe, number = recipe_with({"training": {"minutes": 5}, "model": {"parameters": 1_000_000}}), count()
    busy = turn(recipe, TEXT, lambda recipe: steady(recipe) * (5 if next(number) == 1 else 1))
    assert busy == turn(recipe, TEXT, steady)


def test_sizes_are_timed_in_turns():
    asked = []

    def measure(size: int) -> float:
        asked.append(size)
        return linear(size)

    throughput_by_size = ThroughputBySize(measure)
    for size in (100, 200, 300):
        throughput_by_size.learn(size)
    assert throughput_by_size.take_turns()
    assert asked == [100, 200, 300] * TURNS
    assert not throughput_by_size.take_turns()
    throughput_by_size.learn(400)  # who comes later is not timed alone
    assert throughput_by_size.take_turns()
    assert asked[3 * TURNS + 1 :] == [100, 200, 300, 400] * (TURNS - 1)


def test_a_size_that_no_model_has_is_neither_measured_nor_chosen():
    asked = []

    def measure(size: int) -> float:
        asked.append(size)
        return linear(size)

    # As with a large vocabulary.
    size = size_for_time(ThroughputBySize(measure), 60, TEXT, lambda size: size >= 2_500_000)
    assert size == min(asked) == min(size for size in SIZES if size >= 2_500_000)
    assert size_for_time(ThroughputBySize(linear), 60, Corpus(1000, 400), lambda size: size >= 2_500_000) == size
    result = turn(recipe_with({"training": {"tokens": 1000}}), Corpus(1000, 400), refuse, 1, is_of(1_000_000))
    given, lines = result.recipe, sentences(result)
    assert given.model.parameters == 1_000_000
    assert any(line.startswith("Size: 1M") for line in lines)


def is_of(least: int):
    return lambda recipe: recipe.model.parameters >= least


@pytest.mark.parametrize("model", [{"architecture": "hybrid"}, {"architecture": "qrnn"}, {"baseline": "llama"}])
def test_what_the_dial_chooses_for_a_large_vocabulary_can_be_built(tiny, tmp_path, monkeypatch, model):
    if "baseline" in model:
        pytest.importorskip("transformers")
    recipe = make_recipe(tiny(training={"steps": None, "minutes": 1}) | {"model": model})
    prepared = prepare(recipe.data)
    wide = SimpleNamespace(vocab_size=60_000, kind="bpe", boundary_id=0, padding_id=1)
    monkeypatch.setattr(resolving, "seconds_per_token", lambda model, *_: 1e-6 * model.parameter_count)
    fitted = resolving.resolve_recipe(recipe, SimpleNamespace(tokenizer=wide, train=prepared.train, settled={})).recipe
    assert fitted.model.parameters > 60_000 * 8
    assert resolving.make_model(fitted, SimpleNamespace(tokenizer=wide), None).parameter_count > 60_000 * 8


def held_by(most: float, seconds_per_token=linear):
    """A machine whose memory holds so many numbers: parameters, and a thousand for each token of a step."""

    def measure(recipe) -> float:
        size = recipe.model.parameters or 1_000_000
        step = recipe.training.batch.batch_size * recipe.training.batch.sequence_length
        return seconds_per_token(size) * 0.9 ** math.log2(step / 1024) if size + 1000 * step <= most else math.inf

    return measure


def test_where_memory_ends_a_model_is_smaller_and_has_no_larger_batch_than_it_holds():
    long = recipe_with({"training": {"minutes": 10_000}})
    roomy, cramped = (turn(long, MORE, held_by(most))[0] for most in (1e12, 8e6))
    assert roomy.model.parameters > 7_000_000 >= cramped.model.parameters
    assert roomy.training.batch.batch_size > cramped.training.batch.batch_size == 8
    given = recipe_with({"training": {"minutes": 10_000}, "model": {"parameters": 4_000_000}})
    assert turn(given, MORE, held_by(8e6))[0].training.batch.batch_size == 8
    for recipe in (long, given):
        with pytest.raises(UserError, match=r"Memory does not hold a training step of 8 segments of 128 tokens.*lower"):
            turn(recipe, MORE, held_by(1e6))


@pytest.mark.parametrize(
    ("training", "processes"),
    [({"batch": {"sequence_length": 1024}}, 1), ({"batch": {"sequence_length": 512}}, 1), ({}, 8)],
)
def test_a_plan_is_of_the_batch_size_that_was_measured(training, processes):
    """Also where it is smaller than the usual, as segments are long or many processes share a step."""
    seconds_by_batch = {}

    def measure(recipe) -> float:
        step = recipe.training.batch.batch_size * recipe.training.batch.sequence_length
        seconds = (0.03 + 2e-5 * step) / step / processes  # much of a step's time is the same for all
        seconds_by_batch[recipe.training.batch.batch_size, recipe.model.parameters] = seconds
        return seconds

    recipe = recipe_with({"training": {"minutes": 5} | training, "model": {"parameters": 1_000_000}})
    result = turn(recipe, TEXT, measure, processes)
    turned, lines = result.recipe, sentences(result)
    batch_size = turned.training.batch.batch_size
    assert batch_size < 8
    tokens = 300 / seconds_by_batch[batch_size, 1_000_000]
    assert f"Reading: about {tokens / 1e6:.3g}M tokens" in "\n".join(lines)
    assert turned.training.optimizer.learning_rate == rate_for(tokens)


def test_batch_sizes_that_go_back_and_forth_end_with_the_smaller():
    def measure(recipe) -> float:  # a machine for which larger steps are much slower
        return 1e-5 if recipe.training.batch.batch_size < 16 else 1e-3

    turned, *_ = turn(recipe_with({"model": {"parameters": 500_000}, "training": {"minutes": 100}}), MORE, measure)
    assert batch_size_for(6000 / 1e-5, 128) > 8 == batch_size_for(6000 / 1e-3, 128)
    assert turned.training.batch.batch_size == 8


def test_a_text_that_fills_a_small_batch_is_planned_with_that():
    few = Corpus(bytes=3000, tokens=900, most_batch_size=5)
    result = turn(recipe_with({"training": {"minutes": 10}}), few, steady)
    turned, lines = result.recipe, sentences(result)
    assert turned.training.batch.batch_size == 5
    assert any("Steps: 5 segments" in line for line in lines)


def test_more_time_and_faster_machines_have_larger_models():
    sizes = [size_for_time(ThroughputBySize(linear), seconds, TEXT) for seconds in (30, 300, 3000)]
    assert sizes == sorted(set(sizes))
    assert size_for_time(ThroughputBySize(lambda size: linear(size) / 10), 300, TEXT) > sizes[1]
    assert size_for_time(ThroughputBySize(linear), 30_000, MORE) > size_for_time(
        ThroughputBySize(linear), 30_000, TEXT
    )  # which it knows by heart


def test_the_size_goes_with_the_text_where_no_time_is_given_and_never_far_beyond_it():
    assert size_for_text(2_000_000) == 2_000_000
    assert size_for_text(10_000) < size_for_text(1_000_000) < size_for_text(10**9) == 5_000_000
    assert size_for_time(ThroughputBySize(linear), 1e6, TEXT) <= 2 * TEXT.bytes
    assert size_for_time(ThroughputBySize(linear), 1e6, Corpus(bytes=1000, tokens=400)) == SIZES[0]


def recipe_with(values):
    return make_recipe({"data": {"vocab_size": 2048}}, values)


def refuse(*_: object) -> float:
    raise AssertionError


def steady(recipe) -> float:
    """The seconds a token on a machine that steps of twice the size make a tenth faster."""
    doublings = math.log2(recipe.training.batch.batch_size * recipe.training.batch.sequence_length / 1024)
    return linear(recipe.model.parameters or 1_000_000) * 0.9**doublings


def test_tokens_and_steps_measure_nothing_and_steps_stay_as_large_as_they_are_asked_for():
    steps = recipe_with(
        {"training": {"steps": 10, "batch": {"batch_size": 2, "sequence_length": 32, "accumulation": 3}}}
    )
    result = turn(steps, TEXT, refuse)
    told, lines = result.recipe, sentences(result)
    assert (told.training.batch.batch_size, told.model.parameters) == (2, size_for_text(TEXT.bytes))
    assert f"{10 * 2 * 32 * 3 / 1e6:.3g}M tokens" in "\n".join(lines)
    assert turn(recipe_with({"training": {"steps": 10**6}}), TEXT, refuse)[0].training.batch.batch_size == 8
    assert (
        turn(recipe_with({"training": {"tokens": 10**9, "batch": {"accumulation": 2}}}), TEXT, refuse)[
            0
        ].training.batch.batch_size
        == 8
    )
    few, many = (turn(recipe_with({"training": {"tokens": tokens}}), TEXT, refuse)[0] for tokens in (10**6, 10**9))
    assert few.training.batch.batch_size < many.training.batch.batch_size


def test_what_nobody_gave_is_not_called_given():
    result = turn(
        recipe_with({"training": {"steps": 10, "optimizer": {"name": "adamw"}}}), Corpus(1000, 400), lambda _: 1.0
    )
    _, lines = result.recipe, sentences(result)
    assert "(given)" not in " ".join(lines)
    assert "8 segments of 128 tokens (default), learning rate 0.004 (default)" in lines[-1]


def test_what_is_given_stays_and_where_all_is_given_nothing_is_said():
    given = {"model": {"dropout": 0.25}, "training": {"minutes": 100, "optimizer": {"weight_decay": 0.01}}}
    recipe = recipe_with(given)
    result = turn(recipe, TEXT, steady)
    turned, lines = result.recipe, sentences(result)
    assert (turned.model.dropout, turned.training.optimizer.weight_decay) == (0.25, 0.01)
    assert turned.model.parameters
    assert turned.training.batch.batch_size > recipe.training.batch.batch_size
    assert any("weight decay 0.01 (given), dropout 0.25 (given)" in line for line in lines)
    whole = recipe_with(turned.model_dump())
    assert left_open(whole) == set()
    assert turn(whole, TEXT, refuse) == (whole, (), None)


def test_what_was_chosen_is_data():
    given = {"model": {"dropout": 0.25}, "training": {"minutes": 100, "optimizer": {"name": "adamw"}}}
    result = turn(recipe_with(given), TEXT, steady)
    choices = {choice.key: choice for choice in result.choices}
    training = result.recipe.training
    assert choices == {
        "model.parameters": Choice("model.parameters", result.recipe.model.parameters, "the best in 100 minutes here"),
        "model.dropout": Choice("model.dropout", 0.25, "given"),
        "training.methods": Choice("training.methods", training.methods, "against learning the text by heart"),
        "training.batch.batch_size": Choice(
            "training.batch.batch_size", training.batch.batch_size, "suits so many tokens"
        ),
        "training.optimizer.learning_rate": Choice("training.optimizer.learning_rate", 4e-3, "default"),
        "training.optimizer.weight_decay": Choice(
            "training.optimizer.weight_decay", training.optimizer.weight_decay, "against learning the text by heart"
        ),
    }
    assert {key for key, choice in choices.items() if choice.by_dial} == left_open(recipe_with(given))
    assert result.tokens_per_second == pytest.approx(result.outlook.tokens / 6000)
    assert sentences(result)[0].startswith("Size: ")


@pytest.mark.parametrize("model", [{"parameters": 700_000}, {"hidden_size": 64}])
def test_a_size_that_is_given_is_what_is_measured(model):
    asked = []

    def measure(recipe) -> float:
        asked.append((recipe.model.parameters, recipe.model.hidden_size))
        return steady(recipe)

    result = turn(recipe_with({"model": model, "training": {"minutes": 5}}), TEXT, measure)
    turned, lines = result.recipe, sentences(result)
    assert set(asked) == {(model.get("parameters"), model.get("hidden_size"))}
    expected = recipe_with({"model": model | {"dropout": turned.model.dropout}})  # the dial's one choice in the model
    assert turned.model.model_dump() == expected.model.model_dump()
    assert not any(line.startswith("Size") for line in lines)


def test_steps_and_weight_decay_grow_with_what_is_read():
    read = [1e5, 1e6, 1e7, 1e8, 1e9, 1e12]
    batch_sizes = [batch_size_for(tokens, 128) for tokens in read]
    assert batch_sizes == sorted(batch_sizes)
    assert batch_sizes[0] == 8
    assert batch_sizes[3] > 16
    assert batch_size_for(1e9, 256) == batch_size_for(1e9, 128) // 2  # two processes, or segments twice as long
    times = [0.1, 1, 3, 10, 30, 1000]
    values = [decay_for(epochs, 1000 * epochs, 4e-3) for epochs in times]
    assert values == sorted(values)
    assert values[0] == TrainingConfig().optimizer.weight_decay < values[2] < values[3] < 4
    in_a_pass = [value * 4e-3 * 1000 for value in values]
    assert in_a_pass[-2] == in_a_pass[-1]  # however often a text is read, no more is taken in one reading
    smaller = decay_for(10, 5000, 4e-3)  # half as many steps in a pass, or each twice as large
    assert smaller == pytest.approx(2 * decay_for(10, 10_000, 4e-3), abs=0.02)
    assert smaller == pytest.approx(decay_for(10, 10_000, 2e-3), abs=0.02)


def test_a_short_run_learns_at_a_higher_rate_where_none_is_given():
    usual = TrainingConfig().optimizer.learning_rate
    rates = [rate_for(tokens) for tokens in (1e4, 2e5, 1e6, 3e6, 1e7, 1e10)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == rates[1] == 4 * usual > rates[2] > rates[3] > rates[4] == rates[5] == usual

    def rate(**training) -> float:
        turned, *_ = turn(recipe_with({"training": {"tokens": 10**6} | training}), TEXT, refuse)
        return turned.training.optimizer.learning_rate

    assert rate() == rate_for(10**6) > rate(tokens=3 * 10**6)
    assert rate(optimizer={"learning_rate": 1e-3}) == 1e-3
    assert rate(optimizer={"name": "adamw"}) == usual  # not what was measured
    decay = turn(recipe_with({"training": {"tokens": 10 * TEXT.tokens}}), TEXT, refuse)[0].training
    steps = 10 * TEXT.tokens / decay.batch.step_tokens
    assert decay.optimizer.weight_decay == decay_for(10, steps, decay.optimizer.learning_rate)


def test_a_text_that_is_read_many_times_is_read_with_dropout():
    assert dropout_for(2) == 0 < dropout_for(7) < dropout_for(15) == dropout_for(1000) <= 0.1
    few, many = (turn(recipe_with({"training": {"tokens": times * TEXT.tokens}}), TEXT, refuse) for times in (2, 15))
    assert few[0].model.dropout == 0 < many[0].model.dropout
    assert f"dropout {many[0].model.dropout:g}" in "\n".join(sentences(many))


def test_the_weights_of_a_text_that_is_read_many_times_are_averaged():
    few, many = (turn(recipe_with({"training": {"tokens": times * TEXT.tokens}}), TEXT, refuse) for times in (2, 15))
    assert few[0].training.methods == methods_for(2) == {}
    assert many[0].training.methods == methods_for(15)
    assert set(methods_for(15)) == {"average"}
    assert "averaged weights." in "\n".join(sentences(many))
    assert "averaged weights" not in "\n".join(sentences(few))
    for given in ({}, {"average": None}, {"guides": {}}):  # methods that somebody chose, or chose to have none
        recipe = recipe_with({"training": {"tokens": 15 * TEXT.tokens, "methods": given}})
        assert turn(recipe, TEXT, refuse)[0].training.methods == recipe.training.methods


def test_a_comparison_leaves_nothing_to_the_dial():
    plan = Plan(
        parameters="1M",
        learning_rates=(4e-3,),
        architectures=("hybrid",),
        variants={"small steps": {"training": {"batch": {"batch_size": 2}}}},
        minutes=5,
    )
    for contender in plan.contenders:
        assert left_open(recipe_of(plan, Trial(contender, 4e-3, 0))) == set()


def test_throughput_is_drawn_through_what_was_measured_and_never_too_slow_beyond_it():
    known = ThroughputBySize({100: 1.0, 300: 2.0, 500: 1.5, 900: math.inf}.__getitem__)
    known.learn(100)
    assert [known.seconds_per_token(size) for size in (50, 100, 600)] == [0.5, 1.0, 1.0]
    known.learn(300)
    drawn = [known.seconds_per_token(size) for size in (50, 100, 200, 300, 600)]
    assert drawn == [0.5, 1.0, 1.5, 2.0, 3.5]
    known.learn(500)  # a busy machine: a larger size is not faster
    assert [known.seconds_per_token(size) for size in (400, 700)] == [1.75, 1.5]
    known.learn(900)
    known.learn(1000)  # not asked for: 900 was too large
    assert (sorted(known.measured), known.too_large) == ([100, 300, 500], 900)


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"accumulation": 3},
        {"precision": "bf16"},
        {"checkpoint_activations": True},
        {"optimizer": {"name": "adamw"}},
    ],
    ids=str,
)
def test_measuring_leaves_the_random_numbers_as_they_were_and_moves_the_model(training):
    model = build(sized("hybrid", parameters=50_000, vocab_size=300), seed=0)
    before = model.embedding.weight_VD.detach().clone()
    state = torch.random.get_rng_state()
    batch = {"batch_size": 2, "sequence_length": 16, "accumulation": training.pop("accumulation", 1)}
    seconds = seconds_per_token(model, TrainingConfig(batch=batch, **training), Processes())
    assert 0 < seconds < math.inf
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(model.embedding.weight_VD, before)


def test_a_step_of_several_segments_is_measured_whole(monkeypatch):
    monkeypatch.setattr(throughput, "_fastest", lambda take: (take(), 6.0)[1])
    passes = []
    model = build(sized("hybrid", parameters=50_000, vocab_size=300), seed=0)
    loss = model.loss
    monkeypatch.setattr(model, "loss", lambda *given: (passes.append(1), loss(*given))[1])
    config = TrainingConfig(batch={"batch_size": 2, "sequence_length": 16, "accumulation": 3})
    assert seconds_per_token(model, config, Processes()) == 6.0 / (2 * 16 * 3)
    assert len(passes) == 3


def test_a_device_that_runs_out_of_memory_is_infinitely_slow(monkeypatch):
    def run_out(_: object) -> float:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(throughput, "_fastest", run_out)
    model = build(sized("hybrid", parameters=50_000, vocab_size=300), seed=0)
    assert (
        seconds_per_token(model, TrainingConfig(batch={"batch_size": 2, "sequence_length": 16}), Processes())
        == math.inf
    )


def a_turn(*step_seconds: float) -> tuple[float, float]:
    """The seconds that a token is said to take, and those of the turn, by a clock that these steps move."""
    now, steps = [0.0], iter(step_seconds)

    def take() -> None:
        now[0] += next(steps)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: now[0]))
        return throughput._fastest(take), now[0]


def test_a_turn_is_short_and_its_fastest_step_counts():
    assert a_turn(3.0, 1.0) == (1.0, 4.0)  # one that finds its memory, and one more
    assert a_turn(0.2, 0.1, 0.1) == (pytest.approx(0.1), pytest.approx(0.4))
    assert a_turn(*[0.01] * 5) == (pytest.approx(0.01), pytest.approx(0.05))


def minutes(**training) -> TrainingConfig:
    return TrainingConfig(minutes=10, **training)


def heard_of(check: ThroughputCheck, speed: float, config=None, start: float = 0.0) -> list[str]:
    """What is said of a run that reads ``speed`` tokens a second, from ``start`` of its time on."""
    told = []
    for part in range(round(100 * start), 101):
        seconds = 6.0 * part
        news = check.news(config or minutes(), done=part / 100, tokens=round(speed * seconds), seconds=seconds)
        told += [(part, news)] if news else []
    return told


@pytest.mark.parametrize("speed", [700, 1000, 1400])
def test_a_run_that_goes_about_as_planned_is_left_alone(speed):
    assert heard_of(ThroughputCheck(1000.0), speed) == []
    assert heard_of(ThroughputCheck(None), speed) == []


def test_a_run_that_is_off_the_plan_is_told_once_after_a_tenth_and_what_to_do():
    ((part, slow),) = heard_of(ThroughputCheck(1000.0), 500)
    assert part == 10
    assert "500 tokens a second, 2.0 times slower than was timed" in slow
    assert "300k tokens will be read, not 600k, for which" in slow
    assert "resume=True and training.minutes=20." in slow
    assert "\n" not in slow
    ((part, fast),) = heard_of(ThroughputCheck(1000.0), 3000)
    assert part == 10
    assert "3.0 times faster" in fast
    assert "1.80M tokens will be read, not 600k, for which the run was made. A larger model" in fast
    assert heard_of(ThroughputCheck(1000.0), 500, TrainingConfig(steps=100)) == []  # which have no hurry


def test_a_run_that_is_resumed_is_held_against_the_plan_by_what_it_does_now():
    check = ThroughputCheck(1000.0)
    check.news(minutes(), done=0.5, tokens=600_000, seconds=300.0)  # it was fast before
    assert check.news(minutes(), done=0.58, tokens=605_000, seconds=348.0) is None
    told = check.news(minutes(), done=0.6, tokens=606_000, seconds=360.0)
    assert "100 tokens a second, 10.0 times slower" in told
    assert heard_of(ThroughputCheck(1000.0), 100, start=0.95) == []  # too little to tell by


def test_a_run_that_is_off_the_plan_tells_it_also_when_it_is_resumed(tiny, tmp_path, monkeypatch):
    read = Queue.read
    monkeypatch.setattr(resolving, "seconds_per_token", lambda *_: 1e-4)
    monkeypatch.setattr(Queue, "read", lambda queue: (read(queue)[0], 0.1))  # a step of 32 tokens
    values = tiny(
        training={"steps": None, "minutes": 0.1, "batch": {"batch_size": 2, "sequence_length": 16}},
        model={"hidden_size": None},
    )
    lines: list[str] = []

    class Heard(StopAt):
        def message(self, text: str) -> None:
            lines.append(text)

    with pytest.raises(Interrupted):
        train(values, tmp_path / "run", listener=Heard(2, signal.SIGINT))
    assert not any("than was timed" in line for line in lines)
    train({}, tmp_path / "run", resume=True, listener=Heard(0, signal.SIGINT))
    (told,) = (line for line in lines if "than was timed" in line)
    assert told.startswith("320 tokens a second, 31.2 times slower than was timed at the start: about 1.92k tokens")
    assert told.endswith("resume=True and training.minutes=4.")


def test_a_run_of_minutes_has_the_size_that_the_machine_is_good_for(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(dial, "MOST_PER_BYTE", 1e9)
    found = {}
    for name, seconds in (("slow", 1e-10), ("fast", 1e-13)):
        monkeypatch.setattr(resolving, "seconds_per_token", lambda model, *_, s=seconds: s * model.parameter_count)
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
    assert chosen.training.optimizer.weight_decay > TrainingConfig().optimizer.weight_decay
    train({"training": {"steps": 8}}, tmp_path / "run", resume=True)  # which are not many passes any more
    gone_on = saved_recipe(tmp_path / "run")
    said = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["chosen"]
    assert [line.split(":")[0] for line in said] == ["Vocabulary", "Size", "Reading", "Steps"]
    page = write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert "What was chosen" in page
    assert said[1].split(";")[0] in page
    assert gone_on.model == chosen.model
    assert gone_on.training == chosen.training.model_copy(update={"steps": 8})
