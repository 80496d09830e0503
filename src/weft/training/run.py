"""A run from start to end: a folder of text in, a run directory with a model, its numbers and its checkpoints out.

:func:`train` reads from top to bottom as the way of a run. What a run that is resumed needs beside is in
:mod:`weft.training.resuming`, who may write in its folder in :mod:`weft.training.run_folder`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from weft import words
from weft.baselines import load_any
from weft.config import merge
from weft.data import StreamedSplit, TokenizedSplit, prepare
from weft.errors import Interrupted, UserError
from weft.evaluation.evaluate import Scores, metrics_of, score_split
from weft.evaluation.metrics import unlike_parts
from weft.evaluation.scoring import first_part
from weft.files import disk_errors, write_atomic
from weft.language_model import LanguageModel
from weft.launch import is_main
from weft.pretrained import WEIGHTS
from weft.recall import MemoryConfig, make_memory, save_memory
from weft.recall.text_memory import TRAINING_TEXT
from weft.records import RESULTS
from weft.settings import renamed
from weft.signals import stop_signals
from weft.training.allocation import keep_memory
from weft.training.listener import Listener, Silent
from weft.training.parallel import Processes
from weft.training.recipe import Recipe, make_recipe
from weft.training.resolve import (
    Resolved,
    check_given,
    deal_batch,
    given_tokenizer,
    make_checked_model,
    name_of,
    resolve_recipe,
    resumed_model,
)
from weft.training.result import TrainingResult
from weft.training.resuming import Earlier, find_earlier, finished_result, prolong, rejoin
from weft.training.run_folder import begin, begin_again, hold
from weft.training.trainer import Trainer
from weft.training.validation import LONG


def train(
    values: Mapping[str, Any],
    out: Path,
    *,
    init_from: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    finish: Callable[[TrainingResult], object] | None = None,
) -> TrainingResult:
    """Train the model of the recipe ``values`` (nested, as in YAML) and leave everything in the folder ``out``.

    ``init_from`` starts from the model and tokenizer of another run. ``resume`` goes on from the last checkpoint in
    ``out``, with the values saved there; ``overwrite`` replaces the run in ``out`` once the new one is ready to start.
    ``out`` is held from before anything is written until ``finish`` (which the main process calls) has the result.
    Raises :class:`UserError` for what a user can put right, and :class:`Interrupted` when SIGINT or SIGTERM came.
    """
    listener = listener if listener and is_main() else Silent()
    values = renamed(values)
    if init_from:
        values = merge(values, {"training": {"start": {"run": str(init_from)}}})
    most_steps = _most_steps()

    # From here on the folder is ours alone.
    with disk_errors(out), hold(out, resume=resume, overwrite=overwrite, tell=listener.message):
        # The recipe as it is given: that of the values, or what a run in the folder says of itself.
        earlier = None
        if resume:
            earlier = find_earlier(values, out, listener.message)
            given = earlier.recipe
        else:
            given = make_recipe(values)

        # From the recipe to a trainer, and to a folder from which the run can be resumed.
        run = _start(given, earlier, out, most_steps, listener)

        # Training, and what it has come to.
        with _memory_errors(out):
            result = _train(run)
        if finish and run.trainer.main:
            finish(result)
        return result


class _Started(NamedTuple):
    """A run that is ready to train: its resolved recipe, and the earlier run that it goes on with, if it does."""

    trainer: Trainer
    recipe: Recipe
    earlier: Earlier | None


def _start(given: Recipe, earlier: Earlier | None, out: Path, most_steps: int | None, listener: Listener) -> _Started:
    """Read the text, resolve the recipe, make the model and the trainer, and write or mend what a run begins with."""
    tell = listener.message
    checkpoint = earlier.checkpoint if earlier else None
    check_given(given, out, begun=checkpoint is not None)

    # The text, which the first process prepares and all find in the cache.
    tokenizer = earlier.tokenizer if earlier else None
    if tokenizer is None:
        tokenizer = given_tokenizer(given)
    processes = Processes()
    if processes.device.type == "cpu":
        keep_memory()
    data = earlier.data if earlier else given.data
    with processes.main_first():
        prepared = prepare(data, tokenizer=tokenizer, progress=tell)
    if earlier:
        prepared = earlier.as_told(prepared)

    # The recipe as it is resolved, and its model. A run that goes on has both already.
    if checkpoint:
        resolved = Resolved(given)
        model = resumed_model(out, given, prepared)
    else:
        resolved = resolve_recipe(given, prepared, processes, tell)
        for line in resolved.chosen:
            tell(line)
        model = make_checked_model(resolved.recipe, prepared, tell)
    if processes.sharded:
        check_sharded(model)
    together = checkpoint.progress["lanes"] if checkpoint else None
    short = _shortened(resolved.recipe, most_steps)
    training = deal_batch(short.training, prepared, processes.count, together)

    # The trainer, as of the first step or of the checkpoint.
    with _memory_errors(out if checkpoint else None):
        trainer = Trainer(
            training, model, prepared, out, listener, processes, planned_tokens_per_second=resolved.tokens_per_second
        )
        if checkpoint:
            trainer.load_state_dict(checkpoint)

    # The folder: a run begins in it, begins again, or goes on. A run that is resumed keeps its own budget.
    if earlier and checkpoint:
        rejoin(trainer, earlier)
        return _Started(trainer, given, earlier)
    recipe = resolved.recipe if earlier else short
    processes.wait()  # all have seen the folder as it was
    if trainer.main and earlier:
        begin_again(out, recipe, data, model, prepared)
    elif trainer.main:
        begin(out, given, recipe, model, prepared, resolved.chosen)
    return _Started(trainer, recipe, None)


def check_sharded(model: LanguageModel) -> None:
    """Raise UserError where the parameters of ``model`` cannot be shared among processes."""
    if model.data_parallel_only:
        raise UserError(f"{model.data_parallel_only} train data-parallel only: launch without the FSDP configuration.")


@contextmanager
def _memory_errors(out: Path | None) -> Iterator[None]:
    """Turn a device that runs out of memory into a UserError; ``out`` is the folder of a run that has begun."""
    try:
        yield
    except torch.OutOfMemoryError:
        go_on = f"go on with weft.train(out='{out}', resume=True) and" if out else "start again with"
        raise UserError(
            f"The device ran out of memory: {go_on} training.checkpoint_activations=true, or start another run "
            "with a smaller training.batch.batch_size or fewer model.parameters."
        ) from None


def _train(run: _Started) -> TrainingResult:
    """Train until the budget is used, score the best model, and write the results."""
    trainer = run.trainer
    out = trainer.folder
    listener = trainer.listener
    precision = "bf16" if trainer.learner.bf16 else "fp32"
    together = f", {trainer.processes.count} processes" if trainer.processes.count > 1 else ""
    listener.message(
        f"{name_of(run.recipe)}: {trainer.model.shape}, {trainer.model.parameter_count:,} parameters, on "
        f"{trainer.device.type} in {precision}{together}"
    )
    if run.earlier:
        if result := finished_result(trainer):
            return result
        prolong(trainer, run.earlier)

    # Training.
    with stop_signals(trainer.request_stop) as received:
        try:
            finished = trainer.run()
        finally:
            listener.finish()
    if not finished:
        number = received[0] if received else signal.SIGTERM  # another process was told
        go_on = f"weft.train(out='{out}', resume=True)"
        raise Interrupted(f"Stopped at step {trainer.step}; go on with: {go_on}", number)
    if not (out / WEIGHTS).is_file():
        raise UserError(
            "The validation loss was never finite, so there is no model: start again with a lower learning rate."
        )
    trainer.processes.wait()  # the best model is on the disk

    # What it has come to.
    result = _score(trainer, run.recipe.memory, listener)
    validation = result.validation.bits_per_byte_of_weights
    if told := unlike_parts(validation, result.test.bits_per_byte_of_weights):
        listener.message(told)
    if trainer.main:
        write_atomic(out / RESULTS, json.dumps(result.to_json(), indent=2) + "\n")
    trainer.processes.wait()  # whoever returns finds the results
    return result


def _score(trainer: Trainer, memory: MemoryConfig, listener: Listener) -> TrainingResult:
    """Evaluate the best model on validation and test, with a memory of its training text, which is left in the run."""
    model = load_any(trainer.folder).to(trainer.device)
    prepared = trainer.prepared
    scores: dict[str, Scores] = {}
    for name in ("validation", "test"):
        split: TokenizedSplit = getattr(prepared, name)
        seconds = split.scored_tokens * trainer.scoring_seconds_per_token  # NaN where no validation was timed
        about = f" (about {words.duration(seconds)})" if seconds >= LONG else ""
        listener.message(f"Scoring the {name} text{about} ...")
        watch = partial(listener.scoring, f"the {name} text")
        try:
            scores[name] = score_split(model, split, boundary_id=prepared.tokenizer.boundary_id, watch=watch)
        finally:
            listener.finish()
    if trainer.main and memory.enabled:
        try:
            scores = _remember(trainer, memory, scores, listener)
        except (MemoryError, UserError) as error:  # the weights stand without it
            why = str(error) or "there was not enough memory to make it."
            listener.message(f"The run has no memory of its training text: {why}")
    return TrainingResult(
        run=trainer.folder,
        parameters=model.parameter_count,
        body_parameters=model.body_parameter_count,
        steps=trainer.step,
        tokens=trainer.tokens,
        seconds=trainer.seconds,
        tokens_per_second=trainer.tokens / max(trainer.seconds, 1e-9),
        best_step=trainer.best_step,
        text=prepared.told(),
        validation=metrics_of(scores["validation"], prepared.validation),
        test=metrics_of(scores["test"], prepared.test),
    )


def _remember(
    trainer: Trainer, config: MemoryConfig, scores: Mapping[str, Scores], listener: Listener
) -> dict[str, Scores]:
    """Leave a memory of the training text in the run, and return the scores with it."""
    prepared = trainer.prepared
    train = prepared.train
    if isinstance(train, StreamedSplit):
        raise UserError("the text streams and is not kept.")
    started = time.perf_counter()
    tokenizer = prepared.tokenizer
    text = first_part(train, config.most_tokens, tokenizer)
    memory = make_memory([(TRAINING_TEXT, text)], vocab_size=tokenizer.vocab_size, boundary_id=tokenizer.boundary_id)

    # How far it is to be trusted is read off the validation text, whose own figure is that of a fit to other parts.
    validation_N = scores["validation"].frozen_N
    crossed_N = memory.cross_fitted(validation_N, prepared.validation)
    memory = memory.fitted(validation_N, prepared.validation)
    test_N = memory.mix(scores["test"].frozen_N, prepared.test)
    save_memory(memory, trainer.folder, tokenizer)
    seconds = time.perf_counter() - started
    size = words.size(memory.bytes)
    listener.message(f"Memory of the training text: {memory.tokens:,} tokens, {size}, made in {seconds:.1f} seconds.")
    return {
        "validation": scores["validation"]._replace(memory_N=crossed_N),
        "test": scores["test"]._replace(memory_N=test_N),
    }


def _most_steps() -> int | None:
    """Return $WEFT_MAX_STEPS, where that is set: a way to try commands and recipes out."""
    most = os.environ.get("WEFT_MAX_STEPS")
    if not most:
        return None
    if not most.isdecimal() or int(most) < 1:
        raise UserError(f"WEFT_MAX_STEPS is '{most}': set it to a number of steps, or unset it.")
    return int(most)


def _shortened(recipe: Recipe, most_steps: int | None) -> Recipe:
    """Cap the budget, and leave all else as the whole one has it."""
    if not most_steps:
        return recipe
    steps = min(most_steps, recipe.training.steps or most_steps)
    update = {"steps": steps, "tokens": None, "minutes": None}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=update)})
