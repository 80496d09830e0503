"""The folder of a run: who may write there, how a run begins in it, and what a killed or damaged one is mended with.

Whoever writes holds the folder (:func:`weft.files.alone_in`) from before the first byte. The recipe is the first file
of a run and the last of the one before it, so that at any moment the folder holds one run that can be resumed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from weft.baselines import source
from weft.data import DataConfig, PreparedData, Tokenizer
from weft.data.record import found_at
from weft.errors import DamagedError, UserError
from weft.files import alone_in, remove, set_aside, sweep, temporaries
from weft.language_model import LanguageModel
from weft.launch import is_main
from weft.layers.maps import is_guide
from weft.plain_yaml import read_yaml
from weft.pretrained import CONFIG, GENERATION, SHIM, TOKENIZER, WEIGHTS, load_weights
from weft.recall import MEMORY
from weft.records import CARD, CHECKPOINTS, METRICS, RECIPE, REPORT, RESULTS, TENSORBOARD, TEXTS
from weft.training.checkpoint import sweep_checkpoints
from weft.training.listener import read_metrics
from weft.training.recipe import Recipe, load_recipe, make_recipe, save_recipe, settled
from weft.training.texts import save_texts

# What training and its report write, beside the checkpoints.
_FILES = (
    RECIPE,
    TEXTS,
    CONFIG,
    GENERATION,
    SHIM,
    WEIGHTS,
    TOKENIZER,
    "tokenizer_config.json",
    METRICS,
    MEMORY,
    RESULTS,
)
_PAGES = (REPORT, CARD)


@contextmanager
def hold(out: Path, *, resume: bool, overwrite: bool, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the folder of a run as its only writer, for as long as the context lasts; UserError where that cannot be.

    What killed processes left half written is removed, and before a run is resumed what stands in the place of its
    files is set aside, which ``tell`` hears of.
    """
    check_request(out, resume=resume, overwrite=overwrite)
    with alone_in(out, make=not resume) if is_main() else nullcontext():
        check_contents(out, resume=resume, overwrite=overwrite)
        if is_main():
            sweep(out, *_FILES, *_PAGES)
            sweep_checkpoints(out / CHECKPOINTS)
            for line in clear_places(out) if resume else ():
                tell(line)
        yield


def check_request(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse what cannot be, before a folder is made; UserError."""
    if resume and overwrite:
        raise UserError("resume=True and overwrite=True exclude each other: keep one.")
    if resume:
        if not (out / RECIPE).is_file():
            raise UserError(f"There is no run to resume in '{out}': leave resume=True out to start one.")
    elif not out.exists():
        _check_place(out)
    elif not out.is_dir():
        raise UserError(f"'{out}' is a file: choose a folder.")


def check_contents(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuse an ``out`` that holds something which nobody asked to resume or replace; UserError.

    What it holds can be told only by the one who holds it.
    """
    check_request(out, resume=resume, overwrite=overwrite)
    if resume or not out.exists() or not set(out.iterdir()) - set(temporaries(out, *_FILES, *_PAGES)):
        return
    if not (out / RECIPE).is_file():
        raise UserError(f"'{out}' holds something that is not a run: choose another folder.")
    if not overwrite:
        raise UserError(
            f"'{out}' already holds a run: add resume=True to go on with it, or overwrite=True to replace it."
        )


def _check_place(out: Path) -> None:
    """Refuse a place where no folder can be made, before anything is read."""
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UserError(f"'{out}' cannot be made: '{above}' is a file; choose another place.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"'{out}' cannot be made: nothing can be written in '{above}'; choose another place.")


def raw_recipe(run: Path) -> dict[str, Any]:
    """Return all that the recipe of a run says, also what is beside the recipe itself."""
    path = run / RECIPE
    values = read_yaml(path, missing=f"There is no recipe '{path}'", broken=f"'{path}' is not YAML")
    if not isinstance(values, dict) or not values:
        raise DamagedError(f"'{path}' is damaged, it holds no recipe: restore it, or start again with overwrite=True.")
    return values


def saved_recipe(run: Path) -> Recipe:
    """Return the resolved recipe of a run directory."""
    if not (run / RECIPE).is_file():
        raise UserError(f"'{run}' is not a run directory: it has no {RECIPE}.")
    raw_recipe(run)
    return make_recipe(load_recipe(run / RECIPE))


def was_overwriting(run: Path) -> bool:
    """Tell whether the run was killed before all of the one that it replaces was gone."""
    return bool(raw_recipe(run).get("overwriting"))


def begin(
    out: Path, given: Recipe, recipe: Recipe, model: LanguageModel, prepared: PreparedData, chosen: Sequence[str]
) -> None:
    """Write what a run begins with in place of all that is in ``out``, the resolved ``recipe`` first.

    ``given`` is the recipe as it was given. From when the recipe stands, the run can be resumed; it says so where the
    rest of an earlier one is still there.
    """
    data = given.data
    asked = settled(given, recipe)
    others = [path for path in out.iterdir() if path.name != RECIPE]
    if others:
        write_recipe(recipe, out, data, prepared, chosen=chosen, asked=asked, overwriting=True)
    _write_start(others, out, recipe, data, model, prepared, chosen, asked)


def begin_again(out: Path, recipe: Recipe, data: DataConfig, model: LanguageModel, prepared: PreparedData) -> None:
    """Begin a run anew that was killed before its first checkpoint; what is not of it stays.

    ``data`` is that of ``recipe`` with the names under which its texts were found.
    """
    said = raw_recipe(out)
    own = (*_FILES, *_PAGES, CHECKPOINTS, TENSORBOARD)
    others = [path for path in out.iterdir() if path.name != RECIPE and (said.get("overwriting") or path.name in own)]
    _write_start(others, out, recipe, data, model, prepared, said.get("chosen") or (), said.get("asked") or {})


def _write_start(
    others: Sequence[Path],
    out: Path,
    recipe: Recipe,
    data: DataConfig,
    model: LanguageModel,
    prepared: PreparedData,
    chosen: Sequence[str],
    asked: Mapping[str, Any],
) -> None:
    for path in others:
        remove(path)
    write_recipe(recipe, out, data, prepared, chosen=chosen, asked=asked)
    save_texts(out, data, prepared)
    source(model.model_type).save_config(model.config, out)
    prepared.tokenizer.save(out)


def write_recipe(
    recipe: Recipe,
    out: Path,
    data: DataConfig,
    prepared: PreparedData,
    *,
    chosen: Sequence[str],
    asked: Mapping[str, Any],
    overwriting: bool = False,
) -> None:
    """Write the recipe of a run, with what is known of its texts; ``data`` has the names that lead to them."""
    save_recipe(
        recipe,
        out / RECIPE,
        prepared=prepared.summary,
        text=prepared.told(),
        chosen=chosen,
        asked=asked,
        found_at=found_at(recipe.data, data),
        overwriting=overwriting,
    )


def check_not_lost(out: Path, checkpoint_every: int) -> None:
    """Refuse to begin a run again that has come far, but has lost its checkpoints; UserError."""
    if was_overwriting(out):  # what is there is of the run before
        return
    steps = [record["step"] for record in read_metrics(out / METRICS).records if isinstance(record.get("step"), int)]
    if (out / RESULTS).is_file() or max(steps, default=0) > checkpoint_every:
        raise UserError(
            f"The checkpoints of '{out}' are gone: train on from its model with training.start.run={out}, or start "
            "again with overwrite=True."
        )


def clear_places(out: Path) -> Iterator[str]:
    """Set aside what stands where a file or folder of a run belongs and is none; yield what there is to tell."""
    for name in (*_FILES, *_PAGES, CHECKPOINTS):
        path = out / name
        wrong = not path.is_dir() if name == CHECKPOINTS else not path.is_file()
        if wrong and os.path.lexists(path):
            kind = "folder" if name == CHECKPOINTS else "file"
            yield f"'{path}' was no {kind}: it is now '{set_aside(path).name}'."


def saved_tokenizer(out: Path) -> Tokenizer | None:
    """Return the tokenizer of a run that has begun; None where its files are missing or damaged."""
    try:
        return Tokenizer.load(out)
    except UserError:
        return None


def lost_best(out: Path, model: LanguageModel) -> str | None:
    """Say what is wrong with the best model of a run whose model is like ``model``; None where nothing is."""
    path = out / WEIGHTS
    if not path.is_file():
        return "missing"
    try:
        found = {name: tensor.shape for name, tensor in load_weights(path).items()}
    except DamagedError:
        return "damaged"
    wanted = {name: parameter.shape for name, parameter in model.named_parameters() if not is_guide(name)}
    return None if found == wanted else "damaged"


def mend(out: Path, model: LanguageModel, tokenizer: Tokenizer) -> Iterator[str]:
    """Write what describes a run that has begun where that is missing or damaged; yield what there is to tell."""
    kind = source(model.model_type)
    if not kind.is_described(out):
        kind.save_config(model.config, out)
        yield f"{CONFIG}, or what belongs to it, was missing or damaged: it was made anew."
    if saved_tokenizer(out) is None:
        tokenizer.save(out)
        yield f"{TOKENIZER}, or what belongs to it, was missing or damaged: it was made anew."
