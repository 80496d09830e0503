"""The folder of a model that was made of another: it can be evaluated, served, exported, and trained on from."""

from __future__ import annotations

from pathlib import Path

import yaml

from weft.errors import UserError
from weft.files import disk_errors, write_atomic
from weft.model import WeftModel
from weft.pretrained import load_tokenizer, save_model
from weft.recall import MEMORY
from weft.records import RECIPE, TEXTS
from weft.training.recipe import load_recipe
from weft.training.run_folder import raw_recipe
from weft.training.texts import FOUND_AT, places_of
from weft.version import __version__


def check_free(out: Path) -> None:
    """Raise UserError where ``out`` holds something."""
    if not out.exists():
        return
    if not out.is_dir() or any(out.iterdir()):
        raise UserError(f"'{out}' already holds something: choose another folder.")


def write_made(model: WeftModel, source: Path, out: Path, made_by: str) -> None:
    """Write ``model``, made of the run ``source``, with its tokenizer, its memory of text and what says where
    its texts are.

    ``made_by`` is the command. The recipe holds the texts alone: the new run was not
    trained, and cannot be resumed.
    """
    with disk_errors(out):
        save_model(model, load_tokenizer(source), out)
        if (source / RECIPE).is_file():
            data = load_recipe(source / RECIPE).get("data", {})
            values = {"data": data, "weft_version": __version__, "made_by": made_by}
            places = places_of(raw_recipe(source))
            if places:
                values[FOUND_AT] = places
            write_atomic(out / RECIPE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        if (source / TEXTS).is_file():
            write_atomic(out / TEXTS, (source / TEXTS).read_bytes())
        if (source / MEMORY).is_file():
            write_atomic(out / MEMORY, (source / MEMORY).read_bytes())
