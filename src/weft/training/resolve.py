"""What a recipe leaves to the corpus, and the model that it then describes."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from weft import words
from weft.baselines.llama import (
    LanguageModel,
    Peer,
    build_peer,
    is_peer,
    load_peer_config,
    peer_config,
    save_peer_config,
)
from weft.config import ModelConfig
from weft.data import DataConfig, PreparedData, Tokenizer
from weft.data.tokenizers import MIN_VOCAB_SIZE, NUM_SPECIAL
from weft.description import state_bytes
from weft.errors import DamagedError, UserError
from weft.memory import TooLargeError, check_memory
from weft.model import WeftModel, build
from weft.pattern import expand
from weft.pretrained import WEIGHTS, load_config, load_into, load_weights, read_config, save_config
from weft.sizing import TOLERANCE, count_parameters, of_width, resolve, sized
from weft.training.dial import BATCH_SIZE, Text, left_open, turn
from weft.training.methods import teachers
from weft.training.parallel import Processes
from weft.training.recipe import DEFAULT_MINUTES, LEAST_ENDS, ModelRecipe, Recipe, flat
from weft.training.throughput import seconds_per_token
from weft.training.transfer import transferred

if TYPE_CHECKING:
    from transformers import LlamaConfig


def fit(
    recipe: Recipe,
    prepared: PreparedData,
    processes: Processes | None = None,
    tell: Callable[[str], None] = lambda _: None,
    planned: Callable[[float], None] = lambda _: None,
) -> Recipe:
    """Fill in the tokenizer, the vocabulary, the budget, and what the dial turns (:mod:`weft.training.dial`).

    A few steps of training are timed on ``processes`` where that depends on the time; ``tell`` hears what was chosen
    and why, ``planned`` the tokens a second that the choice counts on. For a run that starts from another's model the
    dial turns nothing: it was measured from random weights.
    """
    data, training = recipe.data, recipe.training
    tokenizer, vocabulary_given = prepared.tokenizer, recipe.data.vocab_size is not None
    given = teachers(training.methods) | {"--init-from": training.start.run}
    for option, run in given.items():
        if run and (other := _other_tokenizer(data, tokenizer)):
            raise UserError(f"{option} takes the tokenizer of '{run}' as it is: leave out {other}.")
    known = {"tokenizer": tokenizer.kind, "vocab_size": tokenizer.vocab_size}
    data = data.model_copy(update={**known, **prepared.settled})
    if training.predict_boundary is None:
        ends = prepared.train.ending_documents >= LEAST_ENDS
        training = training.model_copy(update={"predict_boundary": ends})
    if training.steps is None and training.tokens is None and training.minutes is None:
        training = training.model_copy(update={"minutes": DEFAULT_MINUTES})
    recipe = Recipe(model=recipe.model, data=data, training=training)
    if training.start.run:
        tell(
            f"Going on from '{training.start.run}': what is not given is as usual (learning rate "
            f"{training.optimizer.learning_rate:g}, weight decay {training.optimizer.weight_decay:g}), not made to fit "
            "the text."
        )
        return recipe
    processes = processes or Processes()

    def measure(recipe: Recipe) -> float:
        try:
            check_step(recipe, prepared, None)
        except TooLargeError:
            return math.inf
        return seconds_per_token(make_model(recipe, prepared, None), recipe.training, processes)

    train, left, asked = prepared.train, left_open(recipe), recipe.given()
    if left and training.minutes:
        tell("Timing a few steps of training ...")
    batch = training.batch
    lanes, length = fit_lanes(prepared, batch.batch_size, batch.sequence_length, processes.count)
    cut: dict[str, int] = {"training.batch.sequence_length": length}
    if BATCH_SIZE not in left:
        cut[BATCH_SIZE] = lanes
    recipe = recipe.replace(cut)
    text = Text(train.bytes, train.lanes_that_fit(1), max(1, train.lanes_that_fit(length) // processes.count))
    buildable = partial(_buildable, prepared=prepared)
    recipe, lines, pace = turn(recipe, text, measure, processes.count, buildable, asked)
    if pace:
        planned(pace)
    if lines:
        vocabulary = f"Vocabulary: {tokenizer.vocab_size:,} tokens ({tokenizer.kind})"
        tell(f"{vocabulary}, {'as given' if vocabulary_given else f'for {words.size(train.bytes)} of training text'}.")
    for line in lines:
        tell(line)
    as_asked = {"training.batch.sequence_length": batch.sequence_length}
    if BATCH_SIZE not in left:
        as_asked[BATCH_SIZE] = batch.batch_size
    return recipe.replace(as_asked)  # a run that is resumed is asked for the same


def _other_tokenizer(data: DataConfig, tokenizer: Tokenizer) -> str:
    """Name what ``data`` asks for and ``tokenizer`` is not, in a recipe's words."""
    kind = data.tokenizer not in ("auto", tokenizer.kind)
    size = data.vocab_size not in (None, tokenizer.vocab_size)
    return ", ".join(["data.tokenizer"] * kind + ["data.vocab_size"] * size)


def _buildable(recipe: Recipe, prepared: PreparedData) -> bool:
    """Tell whether there is a model of the size that ``recipe`` asks for, with the vocabulary of ``prepared``."""
    try:
        _peer_config(recipe, prepared) if recipe.model.peer else _model_config(recipe, prepared, None)
    except UserError:
        return False
    return True


def check_model(model: ModelRecipe) -> None:
    """Raise UserError for an architecture, pattern or preset that there is not, before any text is read."""
    if not model.peer:
        resolve(model.pattern or model.architecture, model.parameters or 1e6, model.preset, model.settings())


def fit_lanes(prepared: PreparedData, lanes: int, length: int, processes: int) -> tuple[int, int]:
    """Return lanes (for each process) and their length that a small text can fill."""
    while length > 8 and prepared.train.lanes_that_fit(length) < 2 * processes:
        length //= 2
    return max(1, min(lanes, prepared.train.lanes_that_fit(length) // processes)), length


def make_model(
    recipe: Recipe, prepared: PreparedData, origin: Path | None, tell: Callable[[str], None] = lambda _: None
) -> LanguageModel:
    """Return the model to start from: freshly initialised, or that (or blocks) of the run ``origin``."""
    seed, block = recipe.training.seed, recipe.training.start.block
    if recipe.model.peer:
        return build_peer(_peer_config(recipe, prepared), seed=seed)
    config = _model_config(recipe, prepared, origin)
    if origin and block is not None:
        return transferred(config, origin, block, prepared, seed, tell)
    model = build(config, seed=seed)
    if origin:
        load_into(model, load_weights(origin / WEIGHTS), origin / WEIGHTS)
    return model


def check_step(recipe: Recipe, prepared: PreparedData, origin: Path | None) -> None:
    """Raise UserError where memory does not hold a training step, by the least that it can need.

    That are the weights, their gradients and one average of them; what each block reads; and the state of each lane
    before and after. A device that is not the CPU tells by itself when its memory is full, so that only the weights
    count, which are made here.
    """
    with torch.device("meta"):
        if recipe.model.peer:
            model: LanguageModel = Peer(_peer_config(recipe, prepared))
        else:
            model = WeftModel(_model_config(recipe, prepared, origin))
    needed = 4.0 * model.parameter_count
    batch = recipe.training.batch
    lanes, length = fit_lanes(prepared, batch.batch_size, batch.sequence_length, 1)
    if not torch.accelerator.is_available():
        applied = model.schedule if isinstance(model, WeftModel) else range(len(model.blocks))
        needed = 3 * needed + 4.0 * lanes * length * model.config.hidden_size * len(applied)
        if isinstance(model, WeftModel):
            needed += 2.0 * lanes * state_bytes(model, model.config.attention.memory)
    check_memory(
        needed,
        f"Training {model.parameter_count:,} parameters on {lanes} segments of {length} tokens",
        "ask for fewer parameters, a smaller training.batch.batch_size, or a shorter training.batch.sequence_length or "
        "model.attention.memory",
    )


def resumed_model(out: Path, recipe: Recipe, prepared: PreparedData) -> LanguageModel:
    """Return the model of a run that has begun, which the weights of a checkpoint fit.

    It is as its ``config.json`` says; where that is missing or damaged, as the recipe does.
    """
    seed = recipe.training.seed
    try:
        return build_peer(load_peer_config(out), seed=seed) if is_peer(out) else build(read_config(out), seed=seed)
    except DamagedError:
        origin = Path(recipe.training.start.run) if recipe.training.start.run else None
        return make_model(recipe, prepared, origin)


def save_description(model: LanguageModel, out: Path) -> None:
    """Write the model's ``config.json``."""
    if isinstance(model, Peer):
        save_peer_config(model.config, out)
    else:
        save_config(model.config, out)


def name_of(recipe: Recipe) -> str:
    """Say in a word what is trained."""
    return recipe.model.peer or ("continued" if recipe.training.start.run else recipe.model.architecture)


def shape_of(model: LanguageModel) -> str:
    """Say in a few words what the model is made of."""
    if isinstance(model, Peer):
        return f"{model.config.num_hidden_layers} layers, width {model.config.hidden_size}"
    return f"{model.config.pattern}, width {model.config.hidden_size}"


def _peer_config(recipe: Recipe, prepared: PreparedData) -> LlamaConfig:
    model, training = recipe.model, recipe.training
    given = {key for key in ("pattern", "preset", *model.settings()) if getattr(model, key, None) not in (None, {})}
    given.discard("dropout")
    if training.start.run:
        given.add("training.start.run")
    if given:
        what = ", ".join(sorted(given))
        raise UserError(f"A peer is built by its own rules: leave out {what}, or leave out model.peer.")
    assert model.peer is not None
    assert model.parameters is not None
    return peer_config(
        model.peer,
        parameters=model.parameters,
        vocab_size=prepared.tokenizer.vocab_size,
        context=training.batch.sequence_length,
        dropout=model.dropout or 0.0,
    )


def _model_config(recipe: Recipe, prepared: PreparedData, origin: Path | None) -> ModelConfig:
    """Return the model's configuration, with the tokenizer's special tokens in it."""
    model, tokenizer = recipe.model, prepared.tokenizer
    special = {"boundary_id": tokenizer.boundary_id, "padding_id": tokenizer.padding_id}
    if origin:
        return _started_from(origin, recipe)
    return described_model(model, tokenizer.vocab_size, special)


def known_vocabulary(data: DataConfig) -> int | None:
    """Return the vocabulary that a recipe's data are sure to have, special tokens counted; None where texts decide."""
    if data.vocab_size is not None:
        return data.vocab_size
    if data.tokenizer_kind == "bytes":
        return MIN_VOCAB_SIZE
    words = data.published.vocabulary if data.published and data.tokenizer_kind == data.published.tokenizer else None
    return None if words is None else words + NUM_SPECIAL


def described_model(model: ModelRecipe, vocab_size: int, special: dict[str, int] | None = None) -> ModelConfig:
    """Return the configuration that a recipe describes; UserError where it leaves the size to the corpus."""
    name, settings = model.pattern or model.architecture, model.settings() | (special or {})
    if model.parameters is not None:
        return sized(name, parameters=model.parameters, vocab_size=vocab_size, preset=model.preset, settings=settings)
    if model.hidden_size is None:
        raise UserError("This recipe leaves the model's size to the corpus: give it model.parameters or hidden_size.")
    return of_width(name, vocab_size=vocab_size, preset=model.preset, settings=settings)


def _started_from(origin: Path, recipe: Recipe) -> ModelConfig:
    """Return the model of another run, in which only what has no parameters may change."""
    before, after = load_config(origin), load_config(origin, recipe.model.settings())
    free = {"dropout", "zoneout", "memory"}
    old, new, missing = flat(before.model_dump()), flat(after.model_dump()), object()
    changed = [f"model.{key}" for key in new if new[key] != old.get(key, missing) and key.split(".")[-1] not in free]
    model, block = recipe.model, recipe.training.start.block
    if block is not None and not model.pattern:
        raise UserError("--init-block takes blocks for another pattern: give it, such as --pattern '[qf]3'.")
    blocks_alone = block is not None  # which have the run's width, whatever their number
    if model.parameters and (blocks_alone or abs(count_parameters(before) / model.parameters - 1) > TOLERANCE):
        changed.append("model.parameters")
    if model.pattern and block is None and expand(model.pattern) != expand(before.pattern):
        changed.append("model.pattern")
    if changed:
        instead = ", or take some of its blocks by --init-block best" if "model.pattern" in changed else ""
        raise UserError(f"--init-from takes the model of '{origin}' as it is: leave out {', '.join(changed)}{instead}.")
    return after if block is None else after.model_copy(update={"pattern": model.pattern})
