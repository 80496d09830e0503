"""A run from start to end: a folder of text in, a run directory with a model, its numbers and its checkpoints out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.config import ModelConfig, merge
from weft.data import PreparedData, Tokenizer, max_lanes, prepare
from weft.errors import Interrupted, UserError
from weft.evaluation.evaluate import evaluate_split
from weft.evaluation.figures import Figures
from weft.files import disk_errors, write_atomic
from weft.folder import (
    WEIGHTS,
    load_config,
    load_into,
    load_model,
    load_tokenizer,
    load_weights,
    read_config,
    save_config,
)
from weft.model import WeftModel, build
from weft.sizing import configure, resolve, size_of_width, sized
from weft.training.checkpoint import has_checkpoint
from weft.training.listener import Listener, Silent
from weft.training.loop import Trainer
from weft.training.recipe import Recipe, differences, flat, load_recipe, make_recipe, save_recipe
from weft.training.schedule import DEFAULT_MINUTES
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
    listener = listener or Silent()
    if init_from:
        values = merge(values, {"training": {"init_from": str(init_from)}})
    with disk_errors(out):
        recipe = _shortened(_resumed_recipe(values, out) if resume else make_recipe(values))
        _check_out(out, resume, overwrite)
        if not recipe.data.sources:
            raise UserError("There is nothing to train on: name files, folders or globs of text.")
        begun = resume and has_checkpoint(out / "checkpoints")
        origin = Path(recipe.training.init_from) if recipe.training.init_from and not begun else None
        tokenizer = Tokenizer.load(out) if begun else load_tokenizer(origin) if origin else None
        prepared = prepare(recipe.data, tokenizer=tokenizer, progress=listener.message)
        recipe = recipe if begun else _fit(recipe, prepared)
        config = read_config(out) if begun else _model_config(recipe, prepared, origin)
        model = build(config, seed=recipe.training.seed)
        if origin:
            load_into(model, load_weights(origin / WEIGHTS), origin / WEIGHTS)
        trainer = _trainer(recipe, model, prepared, out, listener)
        if not begun and trainer.main:
            _begin(out, recipe, config, prepared, overwrite)
        trainer.accelerator.wait_for_everyone()
        if begun:
            _go_back(trainer)
        return _train(trainer, recipe, resumed=begun)


def _trainer(recipe: Recipe, model: WeftModel, prepared: PreparedData, out: Path, listener: Listener) -> Trainer:
    """Return the trainer, with no more lanes than a small text can fill."""
    lanes, length = _lanes(prepared, recipe.training.lanes, recipe.training.length)
    training = recipe.training.model_copy(update={"lanes": lanes, "length": length})
    return Trainer(training, model, prepared, out, listener)


def _go_back(trainer: Trainer) -> None:
    """Go back to the last whole checkpoint."""
    for name in restore_snapshot(trainer):
        trainer.listener.message(f"The checkpoint {name} is damaged: went back to the one before it.")


def _train(trainer: Trainer, recipe: Recipe, *, resumed: bool) -> TrainingResult:
    out, listener, config = trainer.folder, trainer.listener, trainer.model.config
    listener.message(
        f"{recipe.model.architecture if not recipe.training.init_from else 'continued'}: {config.pattern}, width "
        f"{config.hidden_size}, {trainer.model.parameter_count:,} parameters, on {trainer.device.type} in "
        f"{'bf16' if trainer.bf16 else 'fp32'}"
    )
    if resumed and trainer.done >= 1 and (out / RESULTS).is_file():
        listener.message("This run is finished: nothing to do (ask for more with --steps, --tokens or --minutes).")
        return read_result(out)
    if resumed and trainer.main:
        save_recipe(recipe, out / RECIPE, prepared=trainer.prepared.summary)
        (out / RESULTS).unlink(missing_ok=True)  # they would be taken for those of the longer run
    with _stop_on_signals(trainer) as received:
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
    result = _score(trainer, listener)
    if trainer.main:
        write_atomic(out / RESULTS, json.dumps(result.to_json(), indent=2) + "\n")
    return result


def _score(trainer: Trainer, listener: Listener) -> TrainingResult:
    """Evaluate the best model on validation and test."""
    model = load_model(trainer.folder).to(trainer.device)
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
    asked = make_recipe(load_recipe(out / RECIPE), _decided(values))
    if changed := differences(saved, asked):
        raise UserError(
            f"A run is resumed with the recipe that it began with, but {', '.join(changed)} changed: leave that out, "
            "or start another run."
        )
    return asked


def _decided(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` without what is left to the corpus, which the run has settled."""
    nested = {key: _decided(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in nested.items() if value is not None and value != "auto"}


def _shortened(recipe: Recipe) -> Recipe:
    """Cap the budget at $WEFT_MAX_STEPS steps, where that is set: a way to try commands and recipes out."""
    most = os.environ.get("WEFT_MAX_STEPS")
    if not most:
        return recipe
    if not most.isdecimal() or int(most) < 1:
        raise UserError(f"WEFT_MAX_STEPS is '{most}': set it to a number of steps, or unset it.")
    steps = min(int(most), recipe.training.steps or int(most))
    update = {"steps": steps, "tokens": None, "minutes": None}
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=update)})


def _check_out(out: Path, resume: bool, overwrite: bool) -> None:
    """Refuse an ``out`` that holds something which nobody asked to resume or replace."""
    if resume and overwrite:
        raise UserError("--resume and --overwrite exclude each other: keep one.")
    if not out.exists() or resume:
        return
    if not out.is_dir():
        raise UserError(f"'{out}' is a file: give --out a folder.")
    if not any(out.iterdir()):
        return
    if not (out / RECIPE).is_file():
        raise UserError(f"'{out}' holds something that is not a run: give --out another folder.")
    if not overwrite:
        raise UserError(f"'{out}' already holds a run: add --resume to go on with it, or --overwrite to replace it.")


def _fit(recipe: Recipe, prepared: PreparedData) -> Recipe:
    """Fill in what the recipe left to the corpus: the tokenizer, the vocabulary, the model's size."""
    data, training = recipe.data, recipe.training
    tokenizer = prepared.tokenizer
    data = data.model_copy(update={"tokenizer": tokenizer.kind, "vocab_size": tokenizer.vocab_size})
    update: dict[str, Any] = {}
    if training.steps is None and training.tokens is None and training.minutes is None:
        update["minutes"] = DEFAULT_MINUTES
    model = recipe.model
    if model.parameters is None and model.hidden_size is None and not training.init_from:
        model = model.model_copy(update={"parameters": default_parameters(prepared.train.bytes)})
    return Recipe(model=model, data=data, training=training.model_copy(update=update))


def default_parameters(training_bytes: int) -> int:
    """Return the size that fits a corpus: 2M parameters at 2 MB, growing with its square root, at most 5M."""
    return int(min(5e6, max(1e5, 2e6 * (training_bytes / 2e6) ** 0.5)))


def _lanes(prepared: PreparedData, lanes: int, length: int) -> tuple[int, int]:
    """Return lanes and length that a small text can fill."""
    while length > 8 and max_lanes(prepared.train, length) < 2:
        length //= 2
    return max(1, min(lanes, max_lanes(prepared.train, length))), length


def _model_config(recipe: Recipe, prepared: PreparedData, origin: Path | None) -> ModelConfig:
    """Return the model's configuration, with the tokenizer's special tokens in it."""
    model, tokenizer = recipe.model, prepared.tokenizer
    special = {"boundary_id": tokenizer.boundary_id, "padding_id": tokenizer.padding_id}
    if origin:
        return _started_from(origin, model.settings())
    name, settings = model.pattern or model.architecture, model.settings() | special
    if model.parameters is None:
        pattern, settings = resolve(name, size_of_width(model.hidden_size or 0), model.preset, settings)
        return configure(pattern, tokenizer.vocab_size, settings)
    return sized(
        name,
        parameters=model.parameters,
        vocab_size=tokenizer.vocab_size,
        preset=model.preset,
        settings=settings,
    )


def _started_from(origin: Path, settings: dict[str, Any]) -> ModelConfig:
    """Return the model of another run, in which only what has no parameters may change."""
    before, after = load_config(origin), load_config(origin, settings)
    free = {"dropout", "zoneout", "memory"}
    old, new = flat(before.model_dump()), flat(after.model_dump())
    if changed := [key for key in new if new[key] != old[key] and key.split(".")[-1] not in free]:
        raise UserError(f"--init-from takes the model of '{origin}' as it is: leave out {', '.join(changed)}.")
    return after


def _begin(out: Path, recipe: Recipe, config: ModelConfig, prepared: PreparedData, overwrite: bool) -> None:
    """Make the run directory: recipe first, so that whatever happens later can be resumed."""
    if overwrite and out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    save_recipe(recipe, out / RECIPE, prepared=prepared.summary)
    save_config(config, out)
    prepared.tokenizer.save(out)


@contextmanager
def _stop_on_signals(trainer: Trainer) -> Iterator[list[int]]:
    """Let SIGINT and SIGTERM end the loop after the present step; a second one acts as usual."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def stop(number: int, _frame: object) -> None:
        received.append(number)
        trainer.stop_requested = True
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
