"""Going on with a run: what is read of it before its text is, and what is put right before it trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weft.config import merge
from weft.data import DataConfig, PreparedData, Tokenizer
from weft.errors import DamagedError, UserError
from weft.files import set_aside
from weft.pretrained import WEIGHTS
from weft.recall import MEMORY, load_memory
from weft.recall.text_memory import TRAINING_TEXT
from weft.records import CHECKPOINTS, METRICS, RECIPE, RESULTS
from weft.training.checkpoint import Checkpoint, discard, has_checkpoint, read_checkpoint
from weft.training.listener import read_metrics
from weft.training.recipe import Recipe, differences, flat, load_recipe, make_recipe, nested
from weft.training.result import TrainingResult, read_result
from weft.training.run_folder import (
    check_not_lost,
    lost_best,
    mend,
    raw_recipe,
    saved_recipe,
    saved_tokenizer,
    was_overwriting,
    write_recipe,
)
from weft.training.texts import places_of, require_texts
from weft.training.trainer import Trainer

Tell = Callable[[str], None]
SECTIONS = ("model", "data", "training")  # that every run has written; memory came later


@dataclass(frozen=True)
class Earlier:
    """A run that is to be gone on with, as its folder tells of it.

    ``recipe`` is its own, with the budget that is asked for now, and ``data`` is that of the recipe with the names
    under which its texts were found. It goes on from ``checkpoint``, as newer ones are ``damaged``; where there is no
    checkpoint yet it begins again, and may have another ``tokenizer``. ``summary`` and ``rule`` are the words on the
    text that were said when it began.
    """

    recipe: Recipe
    data: DataConfig
    summary: str
    rule: str
    checkpoint: Checkpoint | None = None
    damaged: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None

    def as_told(self, prepared: PreparedData) -> PreparedData:
        """Return ``prepared`` with the words on the text that were said when the run began.

        The resolved recipe splits the text in the same way, but does not tell any more how that was chosen.
        """
        return replace(prepared, summary=self.summary or prepared.summary, rule=self.rule or prepared.rule)


def find_earlier(values: Mapping[str, Any], out: Path, tell: Tell) -> Earlier:
    """Read the run in ``out``, which ``values`` may ask for another budget; UserError where it cannot go on."""
    recipe = _resumed_recipe(values, out)
    said = raw_recipe(out)
    data = require_texts(out, recipe.data, places_of(said))
    text = said.get("text")
    rule = text.get("rule") if isinstance(text, dict) else None
    earlier = Earlier(recipe, data, summary=str(said.get("prepared") or ""), rule=str(rule or ""))
    begun = has_checkpoint(out / CHECKPOINTS) and not was_overwriting(out)
    if not begun:
        check_not_lost(out, saved_recipe(out).training.logging.checkpoint_every)
        tell("There is no checkpoint yet: this run begins again, from its recipe.")
        return earlier
    found = read_checkpoint(out / CHECKPOINTS)
    assert found, "a run that has begun has a checkpoint"
    checkpoint, damaged = found
    return replace(earlier, checkpoint=checkpoint, damaged=tuple(damaged), tokenizer=saved_tokenizer(out))


def _resumed_recipe(values: Mapping[str, Any], out: Path) -> Recipe:
    """Return the saved recipe with a new budget, if one is given; refuse other changes."""
    raw = raw_recipe(out)
    if made_by := raw.get("made_by"):
        raise UserError(
            f"'{out}' was made by '{made_by}', not trained: train on from it with training.start.run={out}."
        )
    # What is not there would be at its default, unsaid.
    if missing := {*SECTIONS, "weft_version"} - raw.keys():
        raise DamagedError(
            f"'{out / RECIPE}' is damaged, it lacks {', '.join(sorted(missing))}: restore it, or start again with "
            "overwrite=True."
        )
    saved = saved_recipe(out)
    asked = make_recipe(load_recipe(out / RECIPE), _not_settled(_decided(values), raw.get("asked")))
    if changed := differences(saved, asked):
        raise UserError(
            f"A run goes on with the recipe that it began with, but this changed: {', '.join(changed)}; leave it out "
            f"(weft.train(out='{out}', resume=True) is enough), or start another run."
        )
    return asked


def _decided(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` without what is left to the corpus, which the run has settled."""
    decided: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            decided[key] = _decided(value)
        elif value is not None and value != "auto":
            decided[key] = value
    return decided


def _not_settled(values: dict[str, Any], asked: object) -> dict[str, Any]:
    """Return ``values`` without what a run was asked for when it began, and settled otherwise: it stays as settled."""
    if not isinstance(asked, Mapping):
        return values
    kept: dict[str, Any] = {}
    for key, value in flat(values).items():
        if key not in asked or asked[key] != value:
            kept = merge(kept, nested(key, value))
    return kept


def rejoin(trainer: Trainer, earlier: Earlier) -> None:
    """Make folder and trainer agree: drop what was written after the checkpoint, mend files, and say what changed.

    All processes do this; the main one alone writes, once all have seen the folder as it was.
    """
    out = trainer.folder
    tell = trainer.listener.message
    lost = lost_best(out, trainer.model)
    trainer.processes.wait()

    # The files that describe the run.
    if trainer.main:
        for line in mend(out, trainer.model, trainer.prepared.tokenizer):
            tell(line)

    # Checkpoints, and the log of what the run did after the one that it goes on from.
    for name in earlier.damaged:
        tell(f"The checkpoint {name} is damaged: went back to the one before it.")
    if trainer.main:
        for line in trainer.metrics.truncate(trainer.step):
            tell(line)
        if trainer.step >= trainer.config.logging.log_every and not read_metrics(trainer.metrics.path).records:
            tell(f"{METRICS} holds nothing of the steps up to {trainer.step}: it begins there.")
        discard(out / CHECKPOINTS, list(earlier.damaged))
    trainer.processes.wait()

    # The processes.
    assert earlier.checkpoint
    before = earlier.checkpoint.progress["processes"]
    now = trainer.processes.count
    if before != now:
        tell(
            f"Saved by {before} and resumed by {now}: each process now has a batch of "
            f"{trainer.config.batch.batch_size}; the same run up to rounding, not bit for bit."
        )

    # The best model so far.
    if lost and trainer.best_step:
        path = out / WEIGHTS
        aside = f", now '{set_aside(path).name}'," if trainer.main and path.exists() else ""
        tell(
            f"'{path}'{aside} is {lost}, and with it the best model so far, of step {trainer.best_step}: the best from "
            f"step {trainer.step} on takes its place."
        )
        trainer.forget_best()


def finished_result(trainer: Trainer) -> TrainingResult | None:
    """Return the result of a run whose budget is used and which has been scored; None where there is work to do."""
    if trainer.done < 1 or not trainer.best_step or not (trainer.folder / RESULTS).is_file():
        return None
    tell = trainer.listener.message
    try:
        result = read_result(trainer.folder)
    except DamagedError as damage:
        tell(f"{damage} They are made anew.")
        return None
    tell("This run is finished: nothing to do (ask for more with training.steps, training.tokens or training.minutes).")
    return result


def prolong(trainer: Trainer, earlier: Earlier) -> None:
    """Write the recipe with the budget of now, and remove the results of the shorter run."""
    out = trainer.folder
    budget = earlier.recipe.training.budget
    if budget != saved_recipe(out).training.budget:
        trainer.listener.message(
            f"For {budget} now; size, learning rate, weight decay, dropout and the tokens of a step stay as they were "
            "chosen when the run began."
        )
    if not trainer.main:
        return
    said = raw_recipe(out)
    write_recipe(
        earlier.recipe,
        out,
        earlier.data,
        trainer.prepared,
        chosen=said.get("chosen") or (),
        asked=said.get("asked") or {},
    )
    if others := _remembered_beside(out, trainer):
        trainer.listener.message(
            f"The memory is made anew, of the training text alone. Add {', '.join(others)} again with "
            f"weft.remember('{out}') when the training has ended."
        )
    (out / MEMORY).unlink(missing_ok=True)  # its shares are of the model before
    (out / RESULTS).unlink(missing_ok=True)  # they would be taken for those of the longer run


def _remembered_beside(out: Path, trainer: Trainer) -> list[str]:
    """Return the names of the texts that the memory of a run holds beside its training text."""
    try:
        memory = load_memory(out, trainer.prepared.tokenizer)
    except UserError:
        return []
    return [part.name for part in memory.parts if part.name != TRAINING_TEXT] if memory else []
