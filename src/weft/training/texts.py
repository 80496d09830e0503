"""The texts of a run, found again: from any folder, and only as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weft.data import DataConfig, PreparedData, SplitName, StreamedSplit, TokenizedSplit, Tokenizer, prepare
from weft.data.config import BUNDLED
from weft.data.record import TextRecord, located, record
from weft.data.sources import resolve_sources
from weft.errors import UserError
from weft.files import write_atomic
from weft.records import TEXTS

FOUND_AT = "found_at"  # in the recipe, beside the sections
_MOST_FILES = 3  # that are told
Tell = Callable[[str], None]


def save_texts(run: Path, found: DataConfig, prepared: PreparedData) -> None:
    """Write what the run remembers of its texts; the names of ``found`` lead to them."""
    write_atomic(run / TEXTS, json.dumps(record(found, prepared).to_json(), ensure_ascii=False) + "\n")


def read_texts(run: Path) -> TextRecord | None:
    """Return what the run remembers of its texts; None for one that was made before runs did."""
    try:
        return TextRecord.from_json(json.loads((run / TEXTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


def places_of(values: dict[str, Any]) -> dict[str, str]:
    """Return where the recipe with these values found its texts."""
    told = values.get(FOUND_AT)
    if not isinstance(told, dict):
        return {}
    return {str(name): place for name, place in told.items() if isinstance(place, str)}


def find_texts(run: Path, data: DataConfig, places: dict[str, str]) -> tuple[DataConfig, list[str]]:
    """Return ``data`` with names that lead to the texts of ``run``, and what is not as it was.

    Of the places where the run found them and those that the names lead to from here, the first is taken where all is
    as it was, else the first where there is anything.
    """
    remembered = read_texts(run)
    candidates = list(dict.fromkeys([located(data, places), data]))
    if remembered is None:
        return next((one for one in candidates if _is_there(one)), data), []
    changes = [remembered.changes(data, one) for one in candidates]
    for one, changed in zip(candidates, changes, strict=True):
        if not changed:
            return one, []
    return candidates[0], changes[0]


def require_texts(run: Path, data: DataConfig, places: dict[str, str]) -> DataConfig:
    """Return ``data`` with names that lead to the texts of ``run``; UserError where these are not as they were."""
    found, changed = find_texts(run, data, places)
    if changed:
        raise UserError(
            f"The texts have changed since this run began ({'; '.join(changed)}): restore them, or start another run."
        )
    return found


def read_part(
    run: Path, data: DataConfig, places: dict[str, str], split: SplitName, tokenizer: Tokenizer, tell: Tell
) -> TokenizedSplit:
    """Return a part of the run's own texts, as they were when it began.

    What is there now is read where nothing has changed, else what the cache still has is taken. Raises UserError where
    neither is possible; ``tell`` hears what is read, and what could not be checked.
    """
    remembered = read_texts(run)
    found, changed = find_texts(run, data, places)
    what = f"The texts have changed since this run began ({'; '.join(changed)})"
    if remembered and (part := remembered.split(split, tokenizer)):
        if changed:
            tell(f"{what}: this is the {split} text as it was, which the cache still has.")
        return part
    if changed:
        raise UserError(
            f"{what}, and the cache has not kept the {split} text: restore them, or name the files to score."
        )
    for line in _told_of(found, remembered):
        tell(line)
    prepared = prepare(found, tokenizer=tokenizer)
    if remembered and isinstance(prepared.train, StreamedSplit) and prepared.train.identity != remembered.stream:
        raise UserError(
            "The dataset has changed since this run began, so that its parts are others now: name a revision of it, or "
            "text to score."
        )
    chosen: TokenizedSplit | StreamedSplit = getattr(prepared, split)
    if isinstance(chosen, StreamedSplit):
        raise UserError("The training text of this run streams and is not kept: name text to score instead.")
    return chosen


def _is_there(data: DataConfig) -> bool:
    """Tell whether every source leads to something; what is not of one's own files does."""
    if data.streamed or data.published:
        return True
    try:
        for names in filter(None, (data.sources, data.validation, data.test)):
            resolve_sources(names)
    except UserError:
        return False
    return True


def _told_of(data: DataConfig, remembered: TextRecord | None) -> list[str]:
    """Say which files are about to be read, and where it cannot be checked that they are the run's."""
    own = [name for name in (*data.sources, *data.validation, *data.test) if not name.startswith(BUNDLED)]
    if not own or data.streamed or data.published:
        return []
    files = [str(file.path.absolute()) for file in resolve_sources(own)]
    more = f" and {len(files) - _MOST_FILES:,} more" if len(files) > _MOST_FILES else ""
    lines = [f"Reading {', '.join(files[:_MOST_FILES])}{more}."]
    if remembered is None:
        lines.append(
            "This run does not remember its texts (it was made before runs did): whether they are the same cannot be "
            "checked."
        )
    return lines
