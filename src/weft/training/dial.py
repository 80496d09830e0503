"""The dial: from a text and the time for it to every value that a recipe leaves open.

A model of N million parameters that reads T megabytes of text, of which U are different, is taken to need

    k (a N^-p + T'^-q) + c    bits per byte, with T' = U (1 + r (1 - exp(-(T / U - 1) / r))) for T > U, else T:

what is read again counts less, and in the end nothing (Hoffmann et al. 2022, arXiv 2203.15556; Muennighoff et
al. 2023, arXiv 2305.16264). k and c are a text's own and do not matter here; the rest was fitted to the runs
of docs/research/model-size.md by benchmarks/study/law.py. Of the sizes that it knows the dial takes the one
with the fewest bits, given how much this machine reads in the time, which it measures
(:mod:`weft.training.throughput`).

How often the text is then read says how much weight decay and dropout keep a model from learning it by heart, and
whether its weights are averaged; how much is read in all, how many tokens a step has and the learning rate. A value
that stands in a recipe or on the command line is never turned, and methods are added to none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from weft import words
from weft.errors import UserError
from weft.training.methods import MethodConfig, parse_methods
from weft.training.recipe import DEFAULT_MINUTES, Recipe, TrainingConfig
from weft.training.throughput import TURNS, ThroughputBySize

SIZE_SHARE = 0.206  # a
SIZE_POWER = 0.419  # p
TEXT_POWER = 0.484  # q
REPEATS = 2.85  # r

SIZES = tuple(round(1e6 * 2 ** (step / 2) / 1e4) * 10_000 for step in range(-6, 15))  # 120k to 128M, sqrt(2) apart
PROBE = 500_000  # measured at first, with one that is REACH times as large
MOST_PER_BYTE = 2.0  # parameters: what the law was fitted to goes no further
CLOSE = 1.5  # a throughput that was measured at a size as near as that is good enough
REACH = 4.0  # the next to be measured is at most so many times the largest that was: a step of a huge one takes long

DEFAULTS = TrainingConfig()
# Weight decay: measured up to 21 passes. What it takes in one pass grows with their number, up to a share that is best
# for 15 and for 21 (docs/research/epochs.md).
LEAST_DECAY = DEFAULTS.optimizer.weight_decay
DECAY_PER_PASS = 0.14
MOST_DECAY_IN_A_PASS = 0.8
MOST_DECAY = 3.0
# Dropout: measured at 7 and at 15 passes, beside that decay.
DROPOUT_FROM = 5.0  # passes
DROPOUT_PER_PASS = 0.007
MOST_DROPOUT = 0.1
# Averaged weights: measured at 7 and at 17 passes, beside that decay.
AVERAGE_FROM = 5.0  # passes
AVERAGE_DECAY = 0.995

# A short run learns faster with larger steps: the learning rate falls with the root of what is read, down to the usual.
MOST_RATE = 4 * DEFAULTS.optimizer.learning_rate
MOST_RATE_UP_TO = 2.5e5  # tokens of a run

# The tokens of a step grow from the default with the root of what is read.
STEP_TOKENS = DEFAULTS.batch.step_tokens
STEP_TOKENS_UP_TO = 4e6  # tokens of a run
MOST_BATCH_SIZE = 256

# The keys that the dial turns.
SIZE = "model.parameters"
DROPOUT = "model.dropout"
BATCH_SIZE = "training.batch.batch_size"
LEARNING_RATE = "training.optimizer.learning_rate"
WEIGHT_DECAY = "training.optimizer.weight_decay"
METHODS = "training.methods"

# Why a value is as it is, where the dial did not choose it.
GIVEN = "given"
DEFAULT = "default"

Measure = Callable[[Recipe], float]
Buildable = Callable[[Recipe], bool]


class Corpus(NamedTuple):
    """The training text that there is to learn from, and the largest batch of a process that it can fill."""

    bytes: int
    tokens: int
    most_batch_size: int = MOST_BATCH_SIZE

    def bits(self, size: float, tokens: float) -> float:
        """Return the expected bits of ``size`` parameters that read ``tokens``, on the law's scale."""
        return expected_bits(size, tokens * self.bytes / self.tokens, self.bytes)


class Outlook(NamedTuple):
    """What a run will do: the tokens that it reads, with how many parameters and what batch.

    ``size`` is None where a width says it. ``cramped`` says that memory did not hold all that was wanted.
    """

    size: int | None
    tokens: float
    epochs: float
    batch_size: int
    cramped: bool


class Choice(NamedTuple):
    """A value of a recipe that somebody or something decided: by its dotted key, and why it is as it is."""

    key: str
    value: Any
    why: str

    @property
    def by_dial(self) -> bool:
        """Whether the dial chose the value; else it was given, or is the default."""
        return self.why not in (GIVEN, DEFAULT)


class Turned(NamedTuple):
    """A recipe with what it left open, what was chosen and why, and what the run is then expected to do.

    Where nothing was open there is nothing chosen and no outlook.
    """

    recipe: Recipe
    choices: tuple[Choice, ...] = ()
    outlook: Outlook | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """The tokens a second that the choice counts on; None where nothing was timed."""
        minutes = self.recipe.training.minutes
        if self.outlook is None or minutes is None:
            return None
        return self.outlook.tokens / (60 * minutes)


def expected_bits(size: float, read: float, different: float) -> float:
    """Return what the law says for ``read`` bytes, ``different`` of them different, without k and c."""
    worth = min(read, different)
    if read > different:
        worth *= 1 + REPEATS * (1 - math.exp(-(read / different - 1) / REPEATS))
    bits: float = SIZE_SHARE * (size / 1e6) ** -SIZE_POWER + (worth / 1e6) ** -TEXT_POWER
    return bits


def size_for_time(
    throughput: ThroughputBySize,
    seconds: float,
    corpus: Corpus,
    buildable: Callable[[int], bool] = lambda _: True,
) -> int | None:
    """Return the size with the fewest expected bits after ``seconds`` of training, as ``throughput`` measures it.

    None where memory holds not even the smallest that can be built: a large vocabulary asks for some size.
    """
    smallest = next_buildable(SIZES[0], buildable)
    largest = MOST_PER_BYTE * corpus.bytes
    sizes = [smallest]
    sizes += [size for size in SIZES if smallest < size <= largest]

    # Two first measurements, as far apart as one may reach.
    probe = min(max(PROBE, sizes[0]), sizes[-1])
    throughput.learn(probe)
    throughput.learn(min(round(REACH * probe), sizes[-1]))

    def bits(size: int) -> float:
        return corpus.bits(size, seconds / throughput.seconds_per_token(size))

    while True:
        best = _best_size(throughput, sizes, bits)
        if best is None or not throughput.take_turns():  # known better, another may be the best
            return best


def _best_size(throughput: ThroughputBySize, sizes: Sequence[int], bits: Callable[[int], float]) -> int | None:
    """Return the size with the fewest ``bits``, near to one that was measured; None where memory holds none."""
    while sizes := [size for size in sizes if size < throughput.too_large]:
        if not throughput.measured:  # memory held no probe
            throughput.learn(sizes[0])
            continue
        within_reach = [size for size in sizes if size <= REACH * max(throughput.measured)]
        size = min(within_reach, key=bits)
        if any(1 / CLOSE < size / known < CLOSE for known in throughput.measured):
            return size
        throughput.learn(size)
    return None


def next_buildable(size: int, buildable: Callable[[int], bool]) -> int:
    """Return ``size``, or where it is too small for its vocabulary the smallest of the dial's sizes that is not."""
    for candidate in (size, *SIZES):
        if candidate >= size and buildable(candidate):
            return candidate
    return size


def size_for_text(training_bytes: int) -> int:
    """Return the size where no time is given: 2M parameters at 2 MB, growing with the root of the text, at most 5M.

    By the law alone larger ones would always be better; they only take longer.
    """
    by_root = 2e6 * (training_bytes / 2e6) ** 0.5
    return int(min(5e6, max(1e5, by_root)))


def batch_size_for(tokens: float, sequence_length: int) -> int:
    """Return the batch size of a run over ``tokens``, with segments of ``sequence_length``: a power of two.

    A step's tokens grow with the root of what is read in all, as the critical batch does (Zhang et al. 2024,
    arXiv 2410.21676).
    """
    step = STEP_TOKENS * max(1.0, tokens / STEP_TOKENS_UP_TO) ** 0.5
    doublings = max(0, round(math.log2(step / sequence_length)))
    return min(MOST_BATCH_SIZE, 1 << doublings)


def rate_for(tokens: float) -> float:
    """Return the learning rate of a run over ``tokens`` (docs/research/learning-rate.md)."""
    wanted: float = MOST_RATE * (MOST_RATE_UP_TO / tokens) ** 0.5
    return round(min(MOST_RATE, max(DEFAULTS.optimizer.learning_rate, wanted)), 4)


def decay_for(epochs: float, steps: float, rate: float) -> float:
    """Return the weight decay for a text that is read ``epochs`` times in ``steps`` at the learning rate ``rate``.

    What decay takes in one epoch, ``rate * decay * steps / epochs``, is in proportion to the epochs up to
    :data:`MOST_DECAY_IN_A_PASS` (docs/research/epochs.md): far above the usual where a text is small, as Kim et al.
    2025 (arXiv 2509.14786) find.
    """
    in_a_pass = min(DECAY_PER_PASS * epochs, MOST_DECAY_IN_A_PASS)
    wanted = in_a_pass / (rate * steps / epochs)
    return round(min(MOST_DECAY, max(LEAST_DECAY, wanted)), 2)


def dropout_for(epochs: float) -> float:
    """Return the dropout for a text that is read ``epochs`` times, beside the decay (docs/research/epochs.md)."""
    if epochs < DROPOUT_FROM:
        return 0.0
    return round(min(MOST_DROPOUT, DROPOUT_PER_PASS * epochs), 2)


def methods_for(epochs: float) -> dict[str, MethodConfig]:
    """Return the methods for a text that is read ``epochs`` times: averaged weights (docs/research/epochs.md)."""
    if epochs < AVERAGE_FROM:
        return {}
    return parse_methods({"average": {"decay": AVERAGE_DECAY}})


def turn(
    recipe: Recipe,
    corpus: Corpus,
    measure: Measure,
    processes: int = 1,
    buildable: Buildable = lambda _: True,
    given: set[str] | None = None,
) -> Turned:
    """Return ``recipe`` with what it leaves open, and what was chosen and why.

    ``measure`` tells the seconds that a training token takes with a recipe, infinite where memory does not
    hold it; it is asked where the budget is time, and several times for each recipe, of which the fastest
    counts. ``buildable`` tells whether there is a model of the size that a recipe asks for. ``given`` are the
    keys that somebody gave (by default those that are set in ``recipe``). Raises UserError where memory holds
    no model at all.
    """
    if given is None:
        given = recipe.given()
    left = left_open(recipe)
    if not left:
        return Turned(recipe)
    outlook = _look_ahead(recipe, corpus, _Machine(measure, buildable, processes), left)

    # The values that suit what the run will do; only those that were left open are taken.
    training = recipe.replace({BATCH_SIZE: outlook.batch_size}).training
    steps = outlook.tokens / (training.batch.step_tokens * processes)
    rate = training.optimizer.learning_rate
    if LEARNING_RATE in left:
        rate = rate_for(outlook.tokens)
    best = {
        SIZE: outlook.size,
        WEIGHT_DECAY: decay_for(outlook.epochs, steps, rate),
        DROPOUT: dropout_for(outlook.epochs),
        METHODS: methods_for(outlook.epochs),
        BATCH_SIZE: outlook.batch_size,
        LEARNING_RATE: rate,
    }
    turned = recipe.replace({key: value for key, value in best.items() if key in left})

    why = dict.fromkeys(left, "suits so many tokens")
    why |= dict.fromkeys({WEIGHT_DECAY, DROPOUT, METHODS} & left, "against learning the text by heart")
    if SIZE in left:
        best_in = f"the best in {training.budget} here"
        why[SIZE] = best_in if training.minutes else f"for {words.size(corpus.bytes)} of text"
    choices = []
    for key in best:
        value = attrgetter(key)(turned)  # of the dotted key
        default_or_given = GIVEN if key in given else DEFAULT
        choices.append(Choice(key, value, why.get(key, default_or_given)))
    return Turned(turned, tuple(choices), outlook)


def left_open(recipe: Recipe) -> set[str]:
    """Return the keys of what the dial may turn."""
    model, training = recipe.model, recipe.training
    left = {WEIGHT_DECAY, DROPOUT, METHODS, BATCH_SIZE, LEARNING_RATE} - recipe.given()
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


def _look_ahead(recipe: Recipe, corpus: Corpus, machine: _Machine, left: set[str]) -> Outlook:
    """Return what a run will do.

    The batch size changes a machine's throughput, and that how much is read, by which the batch size is
    chosen: so the throughput is measured with another until both fit.
    """
    outlooks: dict[int, Outlook] = {}  # by their batch sizes
    while True:
        batch = recipe.training.batch
        outlook = _with_this_batch(recipe, corpus, machine, SIZE in left)
        if outlook.cramped and outlooks and batch.batch_size > max(outlooks):
            return outlooks[max(outlooks)]  # rather a smaller batch than a smaller model
        if not outlook.tokens:
            raise UserError(
                f"Memory does not hold a training step of {batch.batch_size} segments of {batch.sequence_length} "
                f"tokens: set {BATCH_SIZE} or training.batch.sequence_length lower, or "
                "training.checkpoint_activations=true."
            )
        outlooks[outlook.batch_size] = outlook
        wanted = outlook.batch_size
        if BATCH_SIZE in left:
            wanted = batch_size_for(outlook.tokens, batch.sequence_length * machine.processes)
            wanted = min(wanted, corpus.most_batch_size)
        if wanted in outlooks:  # the same, or back and forth between two: then the smaller
            return outlooks[min(wanted, outlook.batch_size)]
        recipe = recipe.replace({BATCH_SIZE: wanted})


def _with_this_batch(recipe: Recipe, corpus: Corpus, machine: _Machine, size_open: bool) -> Outlook:
    """Return what a run with the batch size of ``recipe`` will do: no tokens where memory does not hold it."""
    training = recipe.training
    size = recipe.model.parameters

    def buildable(size: int) -> bool:
        return machine.buildable(recipe.replace({SIZE: size}))

    def measure(size: int) -> float:
        return machine.measure(recipe.replace({SIZE: size}))

    cramped = False
    tokens = float(training.tokens or (training.steps or 0) * training.batch.step_tokens * machine.processes)
    seconds = 60 * (training.minutes or DEFAULT_MINUTES)
    if tokens and size_open:
        size = next_buildable(size_for_text(corpus.bytes), buildable)
    elif not tokens and size_open:
        throughput = ThroughputBySize(measure)
        size = size_for_time(throughput, seconds, corpus, buildable)
        cramped = math.isfinite(throughput.too_large)
        if size:  # else memory holds no model at all, and nothing is read
            tokens = seconds / throughput.seconds_per_token(size)
    elif not tokens:
        fastest = min(machine.measure(recipe) for _ in range(TURNS))
        tokens = seconds / fastest
        cramped = not tokens  # the measurements are infinite where memory does not hold a step
    return Outlook(size, tokens, tokens / corpus.tokens, training.batch.batch_size, cramped)


def sentences(turned: Turned) -> list[str]:
    """Say what a run will be, and why: the size, what it reads, its steps."""
    outlook = turned.outlook
    if outlook is None:
        return []
    choices = {choice.key: choice for choice in turned.choices}
    size = choices[SIZE]
    lines = []
    if outlook.size is not None and size.by_dial:
        lines.append(f"Size: {outlook.size / 1e6:.3g}M parameters, {size.why}; model.parameters sets another.")

    told = {}
    length = turned.recipe.training.batch.sequence_length
    for key, what in (
        (WEIGHT_DECAY, "weight decay {:g}"),
        (DROPOUT, "dropout {:g}"),
        (BATCH_SIZE, f"{{}} segments of {length} tokens"),
        (LEARNING_RATE, "learning rate {:g}"),
    ):
        choice = choices[key]
        told[key] = what.format(choice.value or 0)  # the usual dropout is None
        if not choice.by_dial:
            told[key] += f" ({choice.why})"
    averaged = ""
    if choices[METHODS].by_dial and choices[METHODS].value:
        averaged = ", averaged weights"
    about = "about " if turned.recipe.training.minutes else ""
    epochs = f"{outlook.epochs:.2g}"
    if outlook.epochs >= 100:  # which .2g writes as 1e+02
        epochs = f"{outlook.epochs:,.0f}"
    lines.append(
        f"Reading: {about}{outlook.tokens / 1e6:.3g}M tokens, {epochs} times the text; against learning it by heart "
        f"{told[WEIGHT_DECAY]}, {told[DROPOUT]}{averaged}."
    )
    lines.append(f"Steps: {told[BATCH_SIZE]}, {told[LEARNING_RATE]}; a recipe may set others.")
    return lines
