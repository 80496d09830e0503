"""What a recipe leaves to the corpus, and the model that it then describes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from weft import words
from weft.baselines import baseline, model_type_in, source
from weft.config import ModelConfig
from weft.data import DataConfig, PreparedData, Tokenizer
from weft.data.tokenizers import MIN_VOCAB_SIZE, NUM_SPECIAL
from weft.errors import DamagedError, UserError
from weft.language_model import LanguageModel
from weft.memory import TooLargeError, check_memory
from weft.model import WeftModel, build
from weft.model_recipe import ModelRecipe
from weft.pretrained import WEIGHTS, load_config, load_into, load_tokenizer, load_weights
from weft.sizing import TOLERANCE, count_parameters, drafted, of_recipes_width, sized_recipe
from weft.training.dial import BATCH_SIZE, Corpus, left_open, sentences, turn
from weft.training.methods import teachers
from weft.training.parallel import Processes
from weft.training.recipe import DEFAULT_MINUTES, LEAST_ENDS, BatchConfig, Recipe, TrainingConfig
from weft.training.throughput import seconds_per_token
from weft.training.transfer import candidates, laid_over, transferred


class Resolved(NamedTuple):
    """A recipe with every value that it left to the corpus and the machine, as a run saves it.

    ``chosen`` says in sentences what was chosen and why. ``tokens_per_second`` is what the choice counts
    on; None where nothing was timed.
    """

    recipe: Recipe
    chosen: tuple[str, ...] = ()
    tokens_per_second: float | None = None


def resolve_recipe(
    recipe: Recipe,
    prepared: PreparedData,
    processes: Processes | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Resolved:
    """Fill in the tokenizer, the vocabulary, the budget, the batch, and what the dial turns (:mod:`.dial`).

    A few steps of training are timed on ``processes`` where that depends on the time; ``tell`` hears what is going on.
    For a run that starts from another's model the dial turns nothing: it was measured from random weights.
    """
    processes = processes or Processes()
    train = prepared.train
    tokenizer = prepared.tokenizer
    _check_tokenizer(recipe, tokenizer)
    asked = recipe.given()
    vocabulary_is_given = recipe.data.vocab_size is not None

    # What the text has settled, and the budget.
    known = {"tokenizer": tokenizer.kind, "vocab_size": tokenizer.vocab_size, **prepared.settled}
    values: dict[str, Any] = {f"data.{key}": value for key, value in known.items()}
    training = recipe.training
    if training.predict_boundary is None:
        values["training.predict_boundary"] = train.ending_documents >= LEAST_ENDS
    if training.steps is None and training.tokens is None and training.minutes is None:
        values["training.minutes"] = DEFAULT_MINUTES
    recipe = recipe.replace(values)

    # What the dial will turn, and the batch, which a small text may not fill.
    starts_from = training.start.run
    left = set() if starts_from else left_open(recipe)
    batch = fit_batch(training.batch, prepared, processes.count)
    recipe = recipe.replace({"training.batch.sequence_length": batch.sequence_length})
    if BATCH_SIZE not in left:
        recipe = recipe.replace({BATCH_SIZE: batch.batch_size})
    if starts_from:
        optimizer = training.optimizer
        tell(
            f"Going on from '{starts_from}': omitted options keep their defaults (learning rate "
            f"{optimizer.learning_rate:g}, weight decay {optimizer.weight_decay:g}), not made to fit the text."
        )
        return Resolved(recipe)

    # The dial, which asks how fast this machine trains where the budget is time.
    if left and recipe.training.minutes:
        tell("Timing a few steps of training ...")
    most_batch_size = max(1, train.lanes_that_fit(batch.sequence_length) // processes.count)
    corpus = Corpus(train.bytes, train.lanes_that_fit(1), most_batch_size)
    measure = partial(_measured, prepared=prepared, processes=processes)
    buildable = partial(_buildable, prepared=prepared)
    turned = turn(recipe, corpus, measure, processes.count, buildable, asked)

    # What was chosen, in words. The vocabulary comes first: all else was chosen for it.
    chosen = sentences(turned)
    if chosen:
        why = "as given" if vocabulary_is_given else f"for {words.size(train.bytes)} of training text"
        chosen.insert(0, f"Vocabulary: {tokenizer.vocab_size:,} tokens ({tokenizer.kind}), {why}.")
    return Resolved(turned.recipe, tuple(chosen), turned.tokens_per_second)


def _check_tokenizer(recipe: Recipe, tokenizer: Tokenizer) -> None:
    """Raise UserError where a recipe asks for another tokenizer than that of the run that it starts or learns from."""
    other = _other_tokenizer(recipe.data, tokenizer)
    for field, run in _runs_of(recipe).items():
        if other:
            raise UserError(f"{field} takes the tokenizer of '{run}' as it is: leave out {other}.")


def _other_tokenizer(data: DataConfig, tokenizer: Tokenizer) -> str:
    """Name what ``data`` asks for and ``tokenizer`` is not, in a recipe's words."""
    other = []
    if data.tokenizer not in ("auto", tokenizer.kind):
        other.append("data.tokenizer")
    if data.vocab_size not in (None, tokenizer.vocab_size):
        other.append("data.vocab_size")
    return ", ".join(other)


def _measured(recipe: Recipe, prepared: PreparedData, processes: Processes) -> float:
    """Return the seconds that a token of the training of ``recipe`` takes; infinite where memory does not hold it."""
    try:
        check_step(recipe, prepared, None)
    except TooLargeError:
        return math.inf
    model = make_model(recipe, prepared, None)
    return seconds_per_token(model, recipe.training, processes)


def _buildable(recipe: Recipe, prepared: PreparedData) -> bool:
    """Tell whether there is a model of the size that ``recipe`` asks for, with the vocabulary of ``prepared``."""
    try:
        if recipe.model.baseline:
            _baseline_config(recipe, prepared)
        else:
            _model_config(recipe, prepared, None)
    except UserError:
        return False
    return True


def check_given(recipe: Recipe, out: Path, *, begun: bool) -> None:
    """Refuse a recipe that no run in ``out`` can have, before any text is read; UserError.

    One without texts; for an architecture, pattern or preset that there is not; and, unless the run has ``begun``, one
    that starts from or learns from the run which it would take the place of.
    """
    if not recipe.data.sources:
        raise UserError("There is nothing to train on: name files, folders or globs of text.")
    model = recipe.model
    if not model.baseline:
        drafted(model, model.parameters or 1e6)
    if not begun:
        for field, run in _runs_of(recipe).items():
            if Path(run).resolve() == out.resolve():
                raise UserError(f"{field} and out are one folder, '{out}': choose another folder for the new run.")


def given_tokenizer(recipe: Recipe) -> Tokenizer | None:
    """Return the tokenizer of the runs that are started from and learned from, which must be one; None without such."""
    runs = [Path(run) for run in _runs_of(recipe).values()]
    given = [load_tokenizer(run) for run in runs]
    if len({tokenizer.to_json() for tokenizer in given}) > 1:
        which = " and ".join(f"'{run}'" for run in runs)
        raise UserError(f"The runs {which} have different tokenizers: choose such as have the same.")
    return given[0] if given else None


def _runs_of(recipe: Recipe) -> dict[str, str]:
    """Return the runs that a recipe starts from and learns from, by the fields that name them."""
    start = recipe.training.start.run
    started = {"training.start.run": start} if start else {}
    return started | teachers(recipe.training.methods)


def deal_batch(
    training: TrainingConfig, prepared: PreparedData, processes: int, together: int | None
) -> TrainingConfig:
    """Return ``training`` with the batch of each process: no more than a small text can fill.

    A run that goes on keeps its batch of ``together`` rows, and shares it among the processes that there are now.
    """
    batch = fit_batch(training.batch, prepared, processes)
    if together is not None:
        if together % processes:
            raise UserError(
                f"This run has a batch of {together}, which {processes} processes cannot share evenly: resume it with "
                f"a number of processes that divides {together}."
            )
        batch = batch.replace({"batch_size": together // processes})
    return training.replace({"batch": batch})


def fit_batch(batch: BatchConfig, prepared: PreparedData, processes: int) -> BatchConfig:
    """Return ``batch``, or as much of it as each of ``processes`` can fill where the text is small."""
    train = prepared.train
    length = batch.sequence_length
    while length > 8 and train.lanes_that_fit(length) < 2 * processes:
        length //= 2
    most = max(1, train.lanes_that_fit(length) // processes)
    return batch.replace({"batch_size": min(batch.batch_size, most), "sequence_length": length})


def make_checked_model(recipe: Recipe, prepared: PreparedData, tell: Callable[[str], None]) -> LanguageModel:
    """Return the model that a resolved recipe starts from; UserError where memory does not hold a training step."""
    origin = Path(recipe.training.start.run) if recipe.training.start.run else None
    check_step(recipe, prepared, origin)
    return make_model(recipe, prepared, origin, tell)


def make_model(
    recipe: Recipe, prepared: PreparedData, origin: Path | None, tell: Callable[[str], None] = lambda _: None
) -> LanguageModel:
    """Return the model to start from: freshly initialised, or that (or blocks) of the run ``origin``."""
    seed = recipe.training.seed
    block = recipe.training.start.block
    if recipe.model.baseline:
        config = _baseline_config(recipe, prepared)
        return baseline(recipe.model.baseline).build(config, seed=seed)
    if origin and block is not None:
        fitting = candidates(_unchanged(origin, recipe), recipe.model, origin)
        return transferred(fitting, origin, block, prepared, seed, tell)
    model = build(_model_config(recipe, prepared, origin), seed=seed)
    if origin:
        load_into(model, load_weights(origin / WEIGHTS), origin / WEIGHTS)
    return model


def check_step(recipe: Recipe, prepared: PreparedData, origin: Path | None) -> None:
    """Raise UserError where memory does not hold a training step, by the least that it can need.

    That are the weights, their gradients and one average of them; what each block reads; and the state of each row of
    the batch before and after. A device that is not the CPU tells by itself when its memory is full, so that only the
    weights count, which are made here.
    """
    with torch.device("meta"):  # which has sizes and no memory
        if recipe.model.baseline:
            model = baseline(recipe.model.baseline).build(_baseline_config(recipe, prepared), seed=0)
        else:
            model = WeftModel(_model_config(recipe, prepared, origin))
    batch = recipe.training.batch
    weights = 4.0 * model.parameter_count  # bytes, in float32
    needed = weights
    if not torch.accelerator.is_available():
        tokens = batch.batch_size * batch.sequence_length
        needed = 3 * weights
        needed += 4.0 * tokens * model.config.hidden_size * model.depth  # what each block reads
        if model.context is None:  # its state is carried
            needed += 2.0 * batch.batch_size * model.state_bytes(model.window)
    check_memory(
        needed,
        f"Training {model.parameter_count:,} parameters on {batch.batch_size} segments of "
        f"{batch.sequence_length} tokens",
        "ask for fewer parameters, a smaller training.batch.batch_size, or a shorter training.batch.sequence_length or "
        "model.attention.window",
    )


def resumed_model(out: Path, recipe: Recipe, prepared: PreparedData) -> LanguageModel:
    """Return the model of a run that has begun, which the weights of a checkpoint fit.

    It is as its ``config.json`` says; where that is missing or damaged, as the recipe does.
    """
    seed = recipe.training.seed
    try:
        return source(model_type_in(out)).fresh_model(out, seed=seed)
    except DamagedError:
        origin = Path(recipe.training.start.run) if recipe.training.start.run else None
        return make_model(recipe, prepared, origin)


def name_of(recipe: Recipe) -> str:
    """Say in a word what is trained."""
    if recipe.model.baseline:
        return recipe.model.baseline
    if recipe.training.start.run:
        return "continued"
    return "pattern" if recipe.model.pattern else recipe.model.architecture


def _baseline_config(recipe: Recipe, prepared: PreparedData) -> Any:
    """Return the configuration of a baseline; UserError for settings that only models of our own have."""
    model = recipe.model
    training = recipe.training
    given = set()
    for key in ("pattern", "preset", *model.settings()):
        value = getattr(model, key, None)
        if value is not None and value != {} and key != "dropout":
            given.add(key)
    if training.start.run:
        given.add("training.start.run")
    given |= teachers(training.methods).keys()  # it learns from its own loss alone
    if given:
        what = ", ".join(sorted(given))
        raise UserError(f"A baseline is built by its own rules: leave out {what}, or leave out model.baseline.")
    assert model.baseline is not None
    assert model.parameters is not None
    return baseline(model.baseline).sized(
        parameters=model.parameters,
        vocab_size=prepared.tokenizer.vocab_size,
        context=training.batch.sequence_length,
        dropout=model.dropout or 0.0,
    )


def _model_config(recipe: Recipe, prepared: PreparedData, origin: Path | None) -> ModelConfig:
    """Return the model's configuration, with the tokenizer's special tokens in it."""
    if origin:
        return _started_from(origin, recipe)
    tokenizer = prepared.tokenizer
    special = {"boundary_id": tokenizer.boundary_id, "padding_id": tokenizer.padding_id}
    return described_model(recipe.model, tokenizer.vocab_size, special)


def known_vocabulary(data: DataConfig) -> int | None:
    """Return the vocabulary that a recipe's data are sure to have, special tokens counted; None where texts decide."""
    if data.vocab_size is not None:
        return data.vocab_size
    if data.tokenizer_kind == "bytes":
        return MIN_VOCAB_SIZE
    published = data.published
    if published is None or published.vocabulary is None or data.tokenizer_kind != published.tokenizer:
        return None
    return published.vocabulary + NUM_SPECIAL


def described_model(model: ModelRecipe, vocab_size: int, special: dict[str, int] | None = None) -> ModelConfig:
    """Return the configuration that a recipe describes; UserError where it leaves the size to the corpus."""
    if model.parameters is not None:
        return sized_recipe(model, model.parameters, vocab_size, special)
    if model.hidden_size is None:
        raise UserError("This recipe leaves the model's size to the corpus: give it model.parameters or hidden_size.")
    return of_recipes_width(model, vocab_size, special)


def _started_from(origin: Path, recipe: Recipe) -> ModelConfig:
    """Return the model of another run, in which only what has no parameters may change; or one with some blocks of it.

    Of all that have some of its blocks it is the first.
    """
    after = _unchanged(origin, recipe)
    if recipe.training.start.block is None:
        return after
    return next(iter(candidates(after, recipe.model, origin).values()))


def _unchanged(origin: Path, recipe: Recipe) -> ModelConfig:
    """Return the model of another run with what the recipe may change; UserError where it changes more."""
    model = recipe.model
    some_blocks = recipe.training.start.block is not None
    if some_blocks and not model.pattern:
        raise UserError(
            "training.start.block takes blocks for another pattern: give it, such as model.pattern='[qf]3'."
        )
    before = load_config(origin)
    asked = model
    if some_blocks:  # the pattern is that of the new model: candidates() looks for its blocks
        asked = model.model_copy(update={"pattern": None, "letters": {}})
    after, changed = laid_over(before, asked)
    if model.parameters:
        off = abs(count_parameters(before) / model.parameters - 1)
        if some_blocks or off > TOLERANCE:  # blocks have the run's width, whatever their number
            changed.append("model.parameters")
    if changed:
        instead = ", or take some of its blocks by training.start.block=best" if "model.pattern" in changed else ""
        what = ", ".join(changed) + instead
        raise UserError(f"training.start.run takes the model of '{origin}' as it is: leave out {what}.")
    return after
