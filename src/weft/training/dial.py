"""The dial: from a text and the time for it to every value that a recipe leaves open.

A model of N million parameters that reads T megabytes of text, of which U are different, is taken to need

    k (a N^-p + T'^-q) + c    bits per byte, with T' = U (1 + r (1 - exp(-(T / U - 1) / r))) for T > U, else T:

what is read again counts less, and in the end nothing (Hoffmann et al. 2022, arXiv 2203.15556; Muennighoff et al. 2023,
arXiv 2305.16264). k and c are a text's own and do not matter here; the rest was fitted to the runs of docs/study.md
("The size") by benchmarks/study/law.py. Of the sizes that it knows the dial takes the one with the fewest bits, given
how much this machine reads in the time, which it measures (:mod:`weft.training.throughput`).

How often the text is then read says how much weight decay and dropout keep a model from learning it by heart; how much
is read in all, how many tokens a step has and the learning rate. A value that stands in a recipe or on the command line
is never turned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from weft import words
from weft.errors import UserError
from weft.training.recipe import DEFAULT_MINUTES, Recipe, TrainingConfig
from weft.training.throughput import TURNS, Pace

SIZE_SHARE, SIZE_POWER = 0.206, 0.419  # a, p
TEXT_POWER, REPEATS = 0.484, 2.85  # q, r

SIZES = tuple(round(1e6 * 2 ** (step / 2) / 1e4) * 10_000 for step in range(-6, 15))  # 120k to 128M, sqrt(2) apart
PROBE = 500_000  # measured at first, with one that is REACH times as large
MOST_PER_BYTE = 2.0  # parameters: what the law was fitted to goes no further
CLOSE = 1.5  # a pace that was measured at a size as near as that is good enough
REACH = 4.0  # the next to be measured is at most so many times the largest that was: a step of a huge one takes long

DEFAULTS = TrainingConfig()
LEAST_DECAY, DECAY_PER_PASS, MOST_DECAY = DEFAULTS.optimizer.weight_decay, 0.14, 3.0  # measured up to 15 passes
DROPOUT_FROM, DROPOUT_PER_PASS, MOST_DROPOUT = 5.0, 0.007, 0.1  # measured at 7 and at 15 passes, beside that decay

# A short run learns faster with larger steps: the learning rate falls with the root of what is read, down to the usual.
MOST_RATE, MOST_RATE_UP_TO = 4 * DEFAULTS.optimizer.learning_rate, 2.5e5  # in runs of up to so many tokens

STEP_TOKENS, STEP_TOKENS_UP_TO = DEFAULTS.batch.step_tokens, 4e6  # a step's tokens, in runs of up to so many
MOST_LANES = 256

# The keys that the dial turns.
SIZE, DROPOUT = "model.parameters", "model.dropout"
BATCH_SIZE = "training.batch.batch_size"
LEARNING_RATE, WEIGHT_DECAY = "training.optimizer.learning_rate", "training.optimizer.weight_decay"

Measure = Callable[[Recipe], float]
Buildable = Callable[[Recipe], bool]


class Text(NamedTuple):
    """What there is to learn from, and the most lanes of a process that it can fill."""

    bytes: int
    tokens: int
    lanes: int = MOST_LANES

    def bits(self, size: float, tokens: float) -> float:
        """Return the expected bits of ``size`` parameters that read ``tokens``, on the law's scale."""
        return expected_bits(size, tokens * self.bytes / self.tokens, self.bytes)


class Plan(NamedTuple):
    """What a run will do: its parameters (None where a width says it), the tokens that it reads and how many times that
    is the text, the lanes of a step; ``cramped`` says that memory did not hold all that was wanted."""

    size: int | None
    tokens: float
    epochs: float
    lanes: int
    cramped: bool


class Turned(NamedTuple):
    """A recipe with what it left open, lines on what was chosen and why, and the tokens a second that were planned with
    (None where nothing was timed)."""

    recipe: Recipe
    lines: list[str]
    pace: float | None = None


def expected_bits(size: float, read: float, different: float) -> float:
    """Return what the law says for ``read`` bytes, ``different`` of them different, without k and c."""
    worth = min(read, different)
    if read > different:
        worth *= 1 + REPEATS * (1 - math.exp(-(read / different - 1) / REPEATS))
    bits: float = SIZE_SHARE * (size / 1e6) ** -SIZE_POWER + (worth / 1e6) ** -TEXT_POWER
    return bits


def size_for_time(
    pace: Pace, seconds: float, text: Text, buildable: Callable[[int], bool] = lambda _: True
) -> int | None:
    """Return the size with the fewest expected bits after ``seconds`` of training at ``pace``, which is measured.

    None where memory holds not even the smallest that can be built: a large vocabulary asks for some size.
    """
    least = next_buildable(SIZES[0], buildable)
    sizes = [size for size in SIZES if least < size <= MOST_PER_BYTE * text.bytes]
    sizes.insert(0, least)
    probe = min(max(PROBE, sizes[0]), sizes[-1])
    for size in (probe, min(round(REACH * probe), sizes[-1])):
        pace.learn(size)

    def bits(size: int) -> float:
        return text.bits(size, seconds / pace.at(size))

    while True:
        best = _best_size(pace, sizes, bits)
        if best is None or not pace.take_turns():  # once it is known better, another may be the best
            return best


def _best_size(pace: Pace, sizes: Sequence[int], bits: Callable[[int], float]) -> int | None:
    """Return the size with the fewest ``bits``, near to one that was measured; None where memory holds none."""
    while sizes := [size for size in sizes if size < pace.too_large]:
        if not pace.measured:  # memory held no probe
            pace.learn(sizes[0])
            continue
        size = min((size for size in sizes if size <= REACH * max(pace.measured)), key=bits)
        if any(1 / CLOSE < size / known < CLOSE for known in pace.measured):
            return size
        pace.learn(size)
    return None


def next_buildable(size: int, buildable: Callable[[int], bool]) -> int:
    """Return ``size``, or where it is too small for its vocabulary the smallest of the dial's sizes that is not."""
    return next((larger for larger in (size, *SIZES) if larger >= size and buildable(larger)), size)


def size_for_text(training_bytes: int) -> int:
    """Return the size where no time is given: 2M parameters at 2 MB, growing with the root of the text, at most 5M.

    By the law alone larger ones would always be better; they only take longer.
    """
    return int(min(5e6, max(1e5, 2e6 * (training_bytes / 2e6) ** 0.5)))


def lanes_for(tokens: float, length: int) -> int:
    """Return the lanes of a step in a run over ``tokens``, with segments of ``length``: a power of two.

    A step's tokens grow with the root of what is read in all, as the critical batch does (Zhang et al. 2024,
    arXiv 2410.21676).
    """
    step = STEP_TOKENS * max(1.0, tokens / STEP_TOKENS_UP_TO) ** 0.5
    return min(MOST_LANES, 1 << max(0, round(math.log2(step / length))))


def rate_for(tokens: float) -> float:
    """Return the learning rate of a run over ``tokens`` (docs/study.md, "The learning rate of short runs")."""
    wanted: float = MOST_RATE * (MOST_RATE_UP_TO / tokens) ** 0.5
    return round(min(MOST_RATE, max(DEFAULTS.optimizer.learning_rate, wanted)), 4)


def decay_for(epochs: float, steps: float, rate: float) -> float:
    """Return the weight decay for a text that is read ``epochs`` times in ``steps`` at the learning rate ``rate``.

    What decay takes in one pass, ``rate * decay * steps / epochs``, is in proportion to the passes (docs/study.md,
    "Many passes"): far above the usual where a text is small, as Kim et al. 2025 (arXiv 2509.14786) find too.
    """
    wanted = DECAY_PER_PASS * epochs / (rate * steps / epochs)
    return round(min(MOST_DECAY, max(LEAST_DECAY, wanted)), 2)


def dropout_for(epochs: float) -> float:
    """Return the dropout for a text that is read ``epochs`` times, beside the decay (docs/study.md, "Many passes")."""
    return 0.0 if epochs < DROPOUT_FROM else round(min(MOST_DROPOUT, DROPOUT_PER_PASS * epochs), 2)


def turn(
    recipe: Recipe,
    text: Text,
    measure: Measure,
    processes: int = 1,
    buildable: Buildable = lambda _: True,
    given: set[str] | None = None,
) -> Turned:
    """Return ``recipe`` with what it leaves open, and in a few lines what was chosen and why.

    ``measure`` tells the seconds that a training token takes with a recipe, infinite where memory does not hold it; it
    is asked where the budget is time, and several times for each recipe, of which the fastest counts. ``buildable``
    tells whether there is a model of the size that a recipe asks for. ``given`` are the keys that somebody gave (by
    default those that are set in ``recipe``). Raises UserError where memory holds no model at all.
    """
    given = recipe.given() if given is None else given
    if not (left := left_open(recipe)):
        return Turned(recipe, [])
    plan = _plan(recipe, text, _Machine(measure, buildable, processes), left)
    training = recipe.replace({BATCH_SIZE: plan.lanes}).training
    steps = plan.tokens / (training.batch.step_tokens * processes)
    rate = rate_for(plan.tokens) if LEARNING_RATE in left else training.optimizer.learning_rate
    chosen = {
        SIZE: plan.size,
        LEARNING_RATE: rate,
        WEIGHT_DECAY: decay_for(plan.epochs, steps, rate),
        BATCH_SIZE: plan.lanes,
        DROPOUT: dropout_for(plan.epochs),
    }
    turned = recipe.replace({key: value for key, value in chosen.items() if key in left})
    pace = plan.tokens / (60 * training.minutes) if training.minutes else None
    return Turned(turned, _explain(plan, turned, text, left, given), pace)


def left_open(recipe: Recipe) -> set[str]:
    """Return the keys of what the dial may turn."""
    model, training = recipe.model, recipe.training
    left = {BATCH_SIZE, WEIGHT_DECAY, LEARNING_RATE, DROPOUT} - recipe.given()
    if training.optimizer.name == "adamw":  # the rate of short runs was measured with Muon's steps
        left.discard(LEARNING_RATE)
    if training.steps or training.batch.accumulation > 1:  # the step is asked for, in other words
        left.discard(BATCH_SIZE)
    if model.parameters is None and model.hidden_size is None:
        left.add(SIZE)
    return left


class _Machine(NamedTuple):
    """What trains: how fast, which sizes there are, and how many processes together."""

    measure: Measure
    buildable: Buildable
    processes: int


def _plan(recipe: Recipe, text: Text, machine: _Machine, left: set[str]) -> Plan:
    """Return what a run will do; lanes change a machine's pace, so that it is measured with others until they fit."""
    plans: dict[int, Plan] = {}  # by their lanes
    while True:
        training = recipe.training
        plan = _budget(recipe, text, machine, SIZE in left)
        if plan.cramped and plans and training.batch.batch_size > max(plans):  # rather fewer lanes than a smaller model
            return plans[max(plans)]
        if not plan.tokens:
            raise UserError(
                f"Memory does not hold a training step of {training.batch.batch_size} segments of "
                f"{training.batch.sequence_length} tokens: set training.batch.batch_size or "
                "training.batch.sequence_length lower, or training.checkpoint_activations=true."
            )
        plans[plan.lanes] = plan
        wanted = plan.lanes
        if BATCH_SIZE in left:
            wanted = min(text.lanes, lanes_for(plan.tokens, training.batch.sequence_length * machine.processes))
        if wanted in plans:  # the same, or back and forth between two
            return plans[min(wanted, plan.lanes)]
        recipe = recipe.replace({BATCH_SIZE: wanted})


def _budget(recipe: Recipe, text: Text, machine: _Machine, size_open: bool) -> Plan:
    """Return what a run with the lanes of ``recipe`` will do: no tokens where memory does not hold it."""
    training, size = recipe.training, recipe.model.parameters

    def sized(size: int) -> Recipe:
        return recipe.replace({SIZE: size})

    def buildable(size: int) -> bool:
        return machine.buildable(sized(size))

    cramped = False
    if tokens := float(training.tokens or (training.steps or 0) * training.batch.step_tokens * machine.processes):
        size = next_buildable(size_for_text(text.bytes), buildable) if size_open else size
    else:
        seconds = 60 * (training.minutes or DEFAULT_MINUTES)
        if size_open:
            pace = Pace(lambda size: machine.measure(sized(size)))
            size, cramped = size_for_time(pace, seconds, text, buildable), math.isfinite(pace.too_large)
            tokens = seconds / pace.at(size) if size else 0.0
        else:
            tokens = seconds / min(machine.measure(recipe) for _ in range(TURNS))
            cramped = not tokens
    return Plan(size, tokens, tokens / text.tokens, training.batch.batch_size, cramped)


def _explain(plan: Plan, recipe: Recipe, text: Text, left: set[str], given: set[str]) -> list[str]:
    """Say what a run will be, and why; what was given is called so, what is neither open nor given is as usual."""
    model, training = recipe.model, recipe.training

    def told(key: str, what: str) -> str:
        if key in left:
            return what
        return f"{what} ({'given' if key in given else 'as usual'})"

    lines = []
    if plan.size is not None and SIZE in left:
        why = f"the best in {training.budget} here" if training.minutes else f"for {words.size(text.bytes)} of text"
        lines.append(f"Size: {plan.size / 1e6:.3g}M parameters, {why}; --parameters sets another.")
    about = "about " if training.minutes else ""
    times = f"{plan.epochs:.2g}" if plan.epochs < 100 else f"{plan.epochs:,.0f}"
    decay = told(WEIGHT_DECAY, f"weight decay {training.optimizer.weight_decay:g}")
    dropout = told(DROPOUT, f"dropout {model.dropout or 0:g}")
    lanes = told(BATCH_SIZE, f"{training.batch.batch_size} segments of {training.batch.sequence_length} tokens")
    rate = told(LEARNING_RATE, f"learning rate {training.optimizer.learning_rate:g}")
    return [
        *lines,
        f"Reading: {about}{plan.tokens / 1e6:.3g}M tokens, {times} times the text; against learning it by heart "
        f"{decay}, {dropout}.",
        f"Steps: {lanes}, {rate}, which suit so many tokens; --set changes any value.",
    ]
