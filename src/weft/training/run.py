"""A run from start to end: a folder of text in, a run directory with a model, its numbers and its checkpoints out."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weft.config import merge
from weft.data import PreparedData, Tokenizer, prepare
from weft.errors import Interrupted, UserError
from weft.evaluation.evaluate import evaluate_split
from weft.evaluation.figures import Figures
from weft.files import alone_in, disk_errors, write_atomic
from weft.folder import WEIGHTS, load_tokenizer
from weft.launch import is_main
from weft.peers import LanguageModel, Peer, load_any
from weft.signals import stop_signals
from weft.training.allocation import keep_memory
from weft.training.checkpoint import has_checkpoint
from weft.training.fitting import (
    check_model,
    fit,
    fit_lanes,
    make_model,
    name_of,
    resumed_model,
    save_description,
    shape_of,
)
from weft.training.listener import Listener, Silent
from weft.training.loop import Trainer
from weft.training.parallel import Processes
from weft.training.recipe import Recipe, differences, load_recipe, make_recipe, read_yaml, save_recipe
from weft.training.snapshot import restore_snapshot

RECIPE = "recipe.yaml"
RESULTS = "results.json"


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run has come to. ``tokens_per_second`` and ``seconds`` are of training alone."""

    run: Path
    parameters: int
    body_parameters: int
    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    best_step: int
    validation: Figures
    test: Figures

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``results.json``."""
        return {
            "parameters": self.parameters,
            "body_parameters": self.body_parameters,
            "training_steps": self.steps,
            "training_tokens": self.tokens,
            "training_seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "best_step": self.best_step,
            "validation": self.validation.to_json(),
            "test": self.test.to_json(),
        }


def train(
    values: Mapping[str, Any],
    out: Path,
    *,
    init_from: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> TrainingResult:
    """Train the model of the recipe ``values`` (nested, as in YAML) and leave everything in the folder ``out``.

    ``init_from`` starts from the model and tokenizer of another run. ``resume`` goes on from the last checkpoint in
    ``out``, with the values saved there; ``overwrite`` replaces the run in ``out`` once the new one is ready to start.
    Raises :class:`UserError` for what a user can put right, and :class:`Interrupted` when SIGINT or SIGTERM came.
    """
    listener = listener if listener and is_main() else Silent()
    most_steps = _most_steps()
    if init_from:
        values = merge(values, {"training": {"init_from": str(init_from)}})
    with disk_errors(out):
        _check_out(out, resume, overwrite)
        recipe = _resumed_recipe(values, out) if resume else make_recipe(values)
        if not recipe.data.sources:
            raise UserError("There is nothing to train on: name files, folders or globs of text.")
        check_model(recipe.model)
        begun = resume and has_checkpoint(out / "checkpoints")
        origin = Path(recipe.training.init_from) if recipe.training.init_from and not begun else None
        teacher = recipe.training.teacher
        tokenizer = Tokenizer.load(out) if begun else _given_tokenizer(origin, Path(teacher.run) if teacher else None)
        processes = Processes()
        if processes.device.type == "cpu":
            keep_memory()
        with processes.main_first():
            prepared = prepare(recipe.data, tokenizer=tokenizer, progress=listener.message)
        told = Told(listener)
        if not begun:
            recipe = _shortened(fit(recipe, prepared, processes, told.message), most_steps)
        if begun:
            model = resumed_model(out, recipe.training.seed)
        else:
            model = make_model(recipe, prepared, origin, listener.message)
        if processes.sharded:
            check_sharded(model)
        now = _shortened(recipe, most_steps)  # a run that is resumed keeps its own budget
        trainer = _trainer(now, model, prepared, out, listener, processes)
        processes.wait()  # all have seen the folder as it was
        if trainer.main and not begun:
            _begin(out, recipe, model, prepared, overwrite, [] if origin else told.lines)
        with alone_in(out) if trainer.main else nullcontext(), _memory_errors(out):
            if begun:
                for news in restore_snapshot(trainer):
                    listener.message(news)
            else:
                trainer.wrap()
            return _train(trainer, recipe, resumed=begun)


def check_sharded(model: LanguageModel) -> None:
    """Raise UserError where the parameters of ``model`` cannot be shared among processes."""
    what = None
    if isinstance(model, Peer):
        what = "A peer trains"
    elif model.ngrams and model.ngrams.remembers:
        what = "Latent bigrams train"
    elif model.config.centrals:
        what = "Blocks in '{ }' train"
    if what:
        raise UserError(f"{what} data-parallel only: launch without the FSDP configuration.")


@contextmanager
def _memory_errors(out: Path) -> Iterator[None]:
    """Turn a device that runs out of memory into a UserError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"The device ran out of memory: go on with weft train --out {out} --resume --set "
            "training.checkpoint_activations=true, or start another run with fewer training.lanes or --parameters."
        ) from None


def _given_tokenizer(origin: Path | None, teacher: Path | None) -> Tokenizer | None:
    """Return the tokenizer of the runs that are started from and learned from, which must be one; None without such."""
    given = [load_tokenizer(run) for run in (origin, teacher) if run]
    if len({tokenizer.to_json() for tokenizer in given}) > 1:
        raise UserError(f"'{origin}' and the teacher '{teacher}' have different tokenizers: choose two with the same.")
    return given[0] if given else None


def _trainer(
    recipe: Recipe, model: LanguageModel, prepared: PreparedData, out: Path, listener: Listener, processes: Processes
) -> Trainer:
    """Return the trainer, with no more lanes than a small text can fill."""
    lanes, length = fit_lanes(prepared, recipe.training.lanes, recipe.training.length, processes.count)
    training = recipe.training.model_copy(update={"lanes": lanes, "length": length})
    return Trainer(training, model, prepared, out, listener, processes)


def _train(trainer: Trainer, recipe: Recipe, *, resumed: bool) -> TrainingResult:
    out, listener = trainer.folder, trainer.listener
    together = f", {trainer.processes.count} processes" if trainer.processes.count > 1 else ""
    listener.message(
        f"{name_of(recipe)}: {shape_of(trainer.model)}, {trainer.model.parameter_count:,} parameters, on "
        f"{trainer.device.type} in {'bf16' if trainer.bf16 else 'fp32'}{together}"
    )
    if resumed and trainer.done >= 1 and (out / RESULTS).is_file():
        listener.message("This run is finished: nothing to do (ask for more with --steps, --tokens or --minutes).")
        return read_result(out)
    if resumed and recipe.training.budget != saved_recipe(out).training.budget:
        listener.message(
            f"For {recipe.training.budget} now; size, learning rate, weight decay, dropout and the tokens of a step "
            "stay as they were chosen when the run began."
        )
    if resumed and trainer.main:
        chosen = _raw_recipe(out).get("chosen") or ()
        save_recipe(recipe, out / RECIPE, prepared=trainer.prepared.summary, chosen=chosen)
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
    if trainer.main:
        write_atomic(out / RESULTS, json.dumps(result.to_json(), indent=2) + "\n")
    return result


def _score(trainer: Trainer, listener: Listener) -> TrainingResult:
    """Evaluate the best model on validation and test."""
    model = load_any(trainer.folder).to(trainer.device)
    scored = {}
    for name in ("validation", "test"):
        listener.message(f"Scoring the {name} text ...")
        scored[name] = evaluate_split(model, trainer.prepared.tokenizer, getattr(trainer.prepared, name))
    return TrainingResult(
        run=trainer.folder,
        parameters=model.parameter_count,
        body_parameters=model.body_parameter_count,
        steps=trainer.step,
        tokens=trainer.tokens,
        seconds=trainer.seconds,
        tokens_per_second=trainer.tokens / max(trainer.seconds, 1e-9),
        best_step=trainer.best_step,
        **scored,
    )


def read_result(run: Path) -> TrainingResult:
    """Return the result of a finished run."""
    path = run / RESULTS
    if not path.is_file():
        raise UserError(f"'{run}' has no results yet: finish its training with --resume.")
    told = json.loads(path.read_text(encoding="utf-8"))
    return TrainingResult(
        run=run,
        parameters=told["parameters"],
        body_parameters=told["body_parameters"],
        steps=told["training_steps"],
        tokens=told["training_tokens"],
        seconds=told["training_seconds"],
        tokens_per_second=told["tokens_per_second"],
        best_step=told["best_step"],
        validation=Figures(**told["validation"]),
        test=Figures(**told["test"]),
    )


def saved_recipe(run: Path) -> Recipe:
    """Return the resolved recipe of a run directory."""
    if not (run / RECIPE).is_file():
        raise UserError(f"'{run}' is not a run directory: it has no {RECIPE}.")
    return make_recipe(load_recipe(run / RECIPE))


def _resumed_recipe(values: Mapping[str, Any], out: Path) -> Recipe:
    """Return the saved recipe with a new budget, if one is given; refuse other changes."""
    if not (out / RECIPE).is_file():
        raise UserError(f"There is no run to resume in '{out}': leave --resume out to start one.")
    saved = saved_recipe(out)
    if made_by := _raw_recipe(out).get("made_by"):
        raise UserError(f"'{out}' was made by '{made_by}', not trained: train on from it with --init-from {out}.")
    asked = make_recipe(load_recipe(out / RECIPE), _decided(values))
    if changed := differences(saved, asked):
        raise UserError(
            f"A run goes on with the recipe that it began with, but this changed: {', '.join(changed)}; leave it out "
            f"(weft train --out {out} --resume is enough), or start another run."
        )
    return asked


def _raw_recipe(out: Path) -> dict[str, Any]:
    """Return all that the recipe of a run says, also what is beside the recipe itself."""
    path = out / RECIPE
    values: dict[str, Any] = read_yaml(path, missing=f"There is no recipe '{path}'", broken=f"'{path}' is not YAML")
    return values


class Told:
    """Passes on what is said, and keeps what was chosen: all but the lines that announce that something takes time."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.lines: list[str] = []

    def message(self, line: str) -> None:
        """Pass a line on."""
        self.listener.message(line)
        if not line.endswith("..."):
            self.lines.append(line)


def _decided(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` without what is left to the corpus, which the run has settled."""
    nested = {key: _decided(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in nested.items() if value is not None and value != "auto"}


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


def _check_out(out: Path, resume: bool, overwrite: bool) -> None:
    """Refuse an ``out`` that holds something which nobody asked to resume or replace."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: keep one.")
    if resume:
        return
    if not out.exists():
        _check_place(out)
        return
    if not out.is_dir():
        raise UserError(f"'{out}' is a file: give --out a folder.")
    if not any(out.iterdir()):
        return
    if not (out / RECIPE).is_file():
        raise UserError(f"'{out}' holds something that is not a run: give --out another folder.")
    if not overwrite:
        raise UserError(f"'{out}' already holds a run: add --resume to go on with it, or --overwrite to replace it.")


def _check_place(out: Path) -> None:
    """Refuse a place where no folder can be made, before anything is read."""
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"'{out}' cannot be made: '{above}' is a file; choose another place.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"'{out}' cannot be made: nothing can be written in '{above}'; choose another place.")


def _begin(
    out: Path, recipe: Recipe, model: LanguageModel, prepared: PreparedData, overwrite: bool, chosen: list[str]
) -> None:
    """Make the run directory: recipe first, so that whatever happens later can be resumed."""
    if overwrite and out.exists():
        with alone_in(out):
            shutil.rmtree(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # a file system that makes no folders, such as /proc
        raise UserError(f"'{out}' cannot be made: choose another place.") from None
    save_recipe(recipe, out / RECIPE, prepared=prepared.summary, chosen=chosen)
    save_description(model, out)
    prepared.tokenizer.save(out)
