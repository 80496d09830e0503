"""A run from start to end: a folder of text in, a run directory with a model, its numbers and its checkpoints out."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from weft import words
from weft.baselines import load_any
from weft.config import merge
from weft.data import DataConfig, PreparedData, TokenizedSplit, Tokenizer, prepare
from weft.errors import DamagedError, Interrupted, UserError
from weft.evaluation.evaluate import evaluate_split
from weft.evaluation.metrics import unlike_parts
from weft.files import alone_in, disk_errors, set_aside, write_atomic
from weft.language_model import LanguageModel
from weft.launch import is_main
from weft.pretrained import WEIGHTS, load_tokenizer
from weft.records import METRICS, RESULTS
from weft.records import RECIPE as RECIPE
from weft.settings import renamed
from weft.signals import stop_signals
from weft.training.allocation import keep_memory
from weft.training.checkpoint import CHECKPOINTS, Checkpoint, discard, has_checkpoint, read_checkpoint
from weft.training.listener import Listener, Silent, read_metrics
from weft.training.methods import teachers
from weft.training.parallel import Processes
from weft.training.recipe import (
    Recipe,
    TrainingConfig,
    differences,
    flat,
    load_recipe,
    make_recipe,
    nested,
    settled,
)
from weft.training.resolve import (
    Resolved,
    check_model,
    check_step,
    fit_batch,
    make_model,
    name_of,
    resolve_recipe,
    resumed_model,
)
from weft.training.result import TrainingResult as TrainingResult
from weft.training.result import read_result as read_result
from weft.training.run_folder import (
    as_told,
    begin,
    begin_again,
    check_apart,
    check_contents,
    check_not_lost,
    check_request,
    clear_places,
    lost_best,
    mend,
    raw_recipe,
    saved_tokenizer,
    sweep_run,
    was_overwriting,
    write_recipe,
)
from weft.training.texts import places_of, require_texts
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
    with disk_errors(out):
        check_request(out, resume=resume, overwrite=overwrite)
        with alone_in(out, make=not resume) if is_main() else nullcontext():
            check_contents(out, resume=resume, overwrite=overwrite)
            if is_main():
                sweep_run(out)
                for line in clear_places(out) if resume else ():
                    listener.message(line)
            started = _start(values, out, resume, listener)
            with _memory_errors(out):
                result = _train(started)
            if finish and started.trainer.main:
                finish(result)
            return result


class _Started(NamedTuple):
    """A run that is ready to train.

    ``data`` is that of ``recipe`` with the names under which its texts were found. A run that has begun goes on from
    ``checkpoint``, as newer ones are ``damaged``; ``lost`` says what is wrong with its best model.
    """

    trainer: Trainer
    recipe: Recipe
    data: DataConfig
    checkpoint: Checkpoint | None
    damaged: list[str]
    lost: str | None


def _start(values: Mapping[str, Any], out: Path, resume: bool, listener: Listener) -> _Started:
    """Read the text, make the model, and write or mend what a run begins with."""
    most_steps = _most_steps()
    recipe = _resumed_recipe(values, out) if resume else make_recipe(values)
    if not recipe.data.sources:
        raise UserError("There is nothing to train on: name files, folders or globs of text.")
    check_model(recipe.model)
    data = require_texts(out, recipe.data, places_of(raw_recipe(out))) if resume else recipe.data
    begun = resume and has_checkpoint(out / CHECKPOINTS) and not was_overwriting(out)
    if not begun:
        check_apart(recipe, out)
    if resume and not begun:
        check_not_lost(out, saved_recipe(out).training.logging.checkpoint_every)
        listener.message("There is no checkpoint yet: this run begins again, from its recipe.")
    origin = Path(recipe.training.start.run) if recipe.training.start.run else None
    tokenizer = saved_tokenizer(out) if begun else None
    if tokenizer is None:
        tokenizer = _given_tokenizer(origin, teachers(recipe.training.methods))
    processes = Processes()
    if processes.device.type == "cpu":
        keep_memory()
    with processes.main_first():
        prepared = prepare(data, tokenizer=tokenizer, progress=listener.message)
    if resume:
        prepared = as_told(out, prepared)

    # The recipe as it was given becomes the one that is saved: a run that goes on has it already.
    as_given = recipe
    resolved = Resolved(recipe)
    if begun:
        model = resumed_model(out, recipe, prepared)
    else:
        resolved = resolve_recipe(recipe, prepared, processes, listener.message)
        for line in resolved.chosen:
            listener.message(line)
        recipe = resolved.recipe
        if not resume:  # a run that is resumed keeps its own budget
            recipe = _shortened(recipe, most_steps)
        check_step(recipe, prepared, origin)
        model = make_model(recipe, prepared, origin, listener.message)
    if processes.sharded:
        check_sharded(model)
    lost = lost_best(out, model) if begun else None
    checkpoint, damaged = (begun and read_checkpoint(out / CHECKPOINTS)) or (None, [])
    now = _shortened(recipe, most_steps)  # a run that is resumed keeps its own budget
    with _memory_errors(out if begun else None):
        training = _dealt(now.training, prepared, checkpoint, processes.count)
        trainer = Trainer(training, model, prepared, out, listener, processes, planned_pace=resolved.pace)
        if checkpoint:
            trainer.load_state_dict(checkpoint)
    started = _Started(trainer, recipe, data, checkpoint, damaged, lost)
    processes.wait()  # all have seen the folder as it was
    if not trainer.main:
        return started
    if begun:
        for line in mend(out, model, prepared.tokenizer):
            listener.message(line)
    elif resume:
        begin_again(out, recipe, data, model, prepared)
    else:
        begin(out, recipe, data, model, prepared, resolved.chosen, settled(as_given, recipe))
    return started


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
        go_on = f"go on with weft train --out {out} --resume" if out else "start again with"
        raise UserError(
            f"The device ran out of memory: {go_on} --set training.checkpoint_activations=true, or start another run "
            "with a smaller training.batch.batch_size or fewer --parameters."
        ) from None


def _given_tokenizer(origin: Path | None, teachers: Mapping[str, str]) -> Tokenizer | None:
    """Return the tokenizer of the runs that are started from and learned from, which must be one; None without such."""
    runs = [*([origin] if origin else []), *map(Path, teachers.values())]
    given = [load_tokenizer(run) for run in runs]
    if len({tokenizer.to_json() for tokenizer in given}) > 1:
        which = " and ".join(f"'{run}'" for run in runs)
        raise UserError(f"The runs {which} have different tokenizers: choose such as have the same.")
    return given[0] if given else None


def _dealt(
    training: TrainingConfig, prepared: PreparedData, checkpoint: Checkpoint | None, processes: int
) -> TrainingConfig:
    """Return ``training`` with the batch of each process: no more than a small text can fill.

    A run that goes on keeps its batch, and shares it among the processes that there are now.
    """
    batch = fit_batch(training.batch, prepared, processes)
    if checkpoint:
        together = checkpoint.progress["lanes"]
        if together % processes:
            raise UserError(
                f"This run has {together} lanes, which {processes} processes cannot share evenly: resume it with a "
                f"number of processes that divides {together}."
            )
        batch = batch.replace({"batch_size": together // processes})
    return training.replace({"batch": batch})


def _train(started: _Started) -> TrainingResult:
    trainer, recipe, resumed = started.trainer, started.recipe, started.checkpoint is not None
    out, listener = trainer.folder, trainer.listener
    if started.checkpoint:
        _tell_of_resuming(trainer, started.checkpoint, started.damaged)
        if started.lost and trainer.best_step:
            _forget_best(trainer, started.lost)
    together = f", {trainer.processes.count} processes" if trainer.processes.count > 1 else ""
    listener.message(
        f"{name_of(recipe)}: {trainer.model.shape}, {trainer.model.parameter_count:,} parameters, on "
        f"{trainer.device.type} in {'bf16' if trainer.learner.bf16 else 'fp32'}{together}"
    )
    if resumed and trainer.done >= 1 and trainer.best_step and (out / RESULTS).is_file():
        try:
            result = read_result(out)
        except DamagedError as damage:
            listener.message(f"{damage} They are made anew.")
        else:
            listener.message("This run is finished: nothing to do (ask for more with --steps, --tokens or --minutes).")
            return result
    if resumed and recipe.training.budget != saved_recipe(out).training.budget:
        listener.message(
            f"For {recipe.training.budget} now; size, learning rate, weight decay, dropout and the tokens of a step "
            "stay as they were chosen when the run began."
        )
    if resumed and trainer.main:
        said = raw_recipe(out)
        write_recipe(
            recipe, out, started.data, trainer.prepared, chosen=said.get("chosen") or (), asked=said.get("asked") or {}
        )
        (out / RESULTS).unlink(missing_ok=True)  # they would be taken for those of the longer run
    with stop_signals(trainer.request_stop) as received:
        try:
            finished = trainer.run()
        finally:
            listener.finish()
    if not finished:
        number = received[0] if received else signal.SIGTERM  # another process was told
        raise Interrupted(f"Stopped at step {trainer.step}; go on with: weft train --out {out} --resume", number)
    if not (out / WEIGHTS).is_file():
        raise UserError(
            "The validation loss was never finite, so there is no model: start again with a lower learning rate."
        )
    trainer.processes.wait()  # the best model is on the disk
    result = _score(trainer, listener)
    if told := unlike_parts(result.validation.bits_per_byte, result.test.bits_per_byte):
        listener.message(told)
    if trainer.main:
        write_atomic(out / RESULTS, json.dumps(result.to_json(), indent=2) + "\n")
    return result


def _tell_of_resuming(trainer: Trainer, checkpoint: Checkpoint, damaged: list[str]) -> None:
    """Drop what was written after ``checkpoint``, and say what is not as it was."""
    tell = trainer.listener.message
    for name in damaged:
        tell(f"The checkpoint {name} is damaged: went back to the one before it.")
    if trainer.main:
        for line in trainer.metrics.truncate(trainer.step):
            tell(line)
        if trainer.step >= trainer.config.logging.log_every and not read_metrics(trainer.metrics.path).records:
            tell(f"{METRICS} holds nothing of the steps up to {trainer.step}: it begins there.")
        discard(trainer.folder / CHECKPOINTS, damaged)
    trainer.processes.wait()
    before, now = checkpoint.progress["processes"], trainer.processes.count
    if before != now:
        tell(
            f"Saved by {before} and resumed by {now}: each process now has {trainer.config.batch.batch_size} lanes; "
            "the same run up to rounding, not bit for bit."
        )


def _forget_best(trainer: Trainer, lost: str) -> None:
    """Let a later model take the place of the best one, with whose file something is wrong: ``lost`` says what."""
    path = trainer.folder / WEIGHTS
    aside = f", now '{set_aside(path).name}'," if trainer.main and path.exists() else ""
    trainer.listener.message(
        f"'{path}'{aside} is {lost}, and with it the best model so far, of step {trainer.best_step}: the best from "
        f"step {trainer.step} on takes its place."
    )
    trainer.forget_best()


def _score(trainer: Trainer, listener: Listener) -> TrainingResult:
    """Evaluate the best model on validation and test."""
    model = load_any(trainer.folder).to(trainer.device)
    scored = {}
    for name in ("validation", "test"):
        split: TokenizedSplit = getattr(trainer.prepared, name)
        seconds = split.scored_tokens * trainer.scoring_pace  # NaN where no validation was timed
        about = f" (about {words.duration(seconds)})" if seconds >= LONG else ""
        listener.message(f"Scoring the {name} text{about} ...")
        watch = partial(listener.scoring, f"the {name} text")
        try:
            scored[name] = evaluate_split(model, trainer.prepared.tokenizer, split, watch=watch)
        finally:
            listener.finish()
    return TrainingResult(
        run=trainer.folder,
        parameters=model.parameter_count,
        body_parameters=model.body_parameter_count,
        steps=trainer.step,
        tokens=trainer.tokens,
        seconds=trainer.seconds,
        tokens_per_second=trainer.tokens / max(trainer.seconds, 1e-9),
        best_step=trainer.best_step,
        text=trainer.prepared.told(),
        **scored,
    )


def saved_recipe(run: Path) -> Recipe:
    """Return the resolved recipe of a run directory."""
    if not (run / RECIPE).is_file():
        raise UserError(f"'{run}' is not a run directory: it has no {RECIPE}.")
    raw_recipe(run)
    return make_recipe(load_recipe(run / RECIPE))


def _resumed_recipe(values: Mapping[str, Any], out: Path) -> Recipe:
    """Return the saved recipe with a new budget, if one is given; refuse other changes."""
    raw = raw_recipe(out)
    if made_by := raw.get("made_by"):
        raise UserError(f"'{out}' was made by '{made_by}', not trained: train on from it with --init-from {out}.")
    if missing := {*Recipe.model_fields, "weft_version"} - raw.keys():  # what is not there would be as usual, unsaid
        raise DamagedError(
            f"'{out / RECIPE}' is damaged, it lacks {', '.join(sorted(missing))}: restore it, or start again with "
            "--overwrite."
        )
    saved = saved_recipe(out)
    asked = make_recipe(load_recipe(out / RECIPE), _not_settled(_decided(values), raw.get("asked")))
    if changed := differences(saved, asked):
        raise UserError(
            f"A run goes on with the recipe that it began with, but this changed: {', '.join(changed)}; leave it out "
            f"(weft train --out {out} --resume is enough), or start another run."
        )
    return asked


def _decided(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` without what is left to the corpus, which the run has settled."""
    nested = {key: _decided(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in nested.items() if value is not None and value != "auto"}


def _not_settled(values: dict[str, Any], asked: object) -> dict[str, Any]:
    """Return ``values`` without what a run was asked for when it began, and settled otherwise: it stays as settled."""
    if not isinstance(asked, Mapping):
        return values
    kept: dict[str, Any] = {}
    for key, value in flat(values).items():
        if key not in asked or asked[key] != value:
            kept = merge(kept, nested(key, value))
    return kept


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
    update = {"steps": min(most_steps, recipe.training.steps or most_steps), "tokens": None, "minutes": None}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=update)})
