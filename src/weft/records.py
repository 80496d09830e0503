"""What a run directory holds, by which names, and read so that nothing missing, half written or unknown is an error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from weft.config import ModelConfig
from weft.errors import UserError
from weft.files import json_object
from weft.older import model_fields
from weft.plain_yaml import parse_yaml
from weft.recall import MEMORY
from weft.settings import renamed

# Files of a run directory, beside those of a model (weft.pretrained).
RECIPE = "recipe.yaml"
TEXTS = "texts.json"  # what a run remembers of its texts
METRICS = "metrics.jsonl"
RESULTS = "results.json"  # of a run, and of a study
REPORT = "report.html"  # as well
CARD = "README.md"
# Folders of a run directory.
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
# Files of a study beside those.
CURVES = "curves.json"
TABLE = "table.md"

Event = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunRecords:
    """The records of one run; whatever is not there is empty or None.

    ``train``, ``validation`` and ``samples`` are the events of ``metrics.jsonl`` in the order of their steps.
    """

    name: str
    config: ModelConfig | None
    recipe: Mapping[str, Any]
    results: Mapping[str, Any]
    train: tuple[Event, ...]
    validation: tuple[Event, ...]
    samples: tuple[Event, ...]
    holds_text: bool = False  # in a memory beside the weights

    @property
    def best(self) -> Event | None:
        """The validation with the fewest bits per byte."""
        measured = [event for event in self.validation if finite(event.get("bits_per_byte")) is not None]
        return min(measured, key=lambda event: float(event["bits_per_byte"]), default=None)


def read_run(run: Path) -> RunRecords:
    """Read the records of ``run``; UserError where there is no such directory."""
    if not run.is_dir():
        raise UserError(f"There is no run directory '{run}': give the folder that 'weft train' wrote.")
    recipe = _recipe(_text(run / RECIPE))
    events = read_events(run)
    return RunRecords(
        name=run.resolve().name,
        config=_config(_object(_text(run / "config.json"))),
        recipe=recipe,
        results=_object(_text(run / RESULTS)),
        train=_of_kind(events, "train"),
        validation=_of_kind(events, "validation"),
        samples=_of_kind(events, "sample"),
        holds_text=(run / MEMORY).is_file(),
    )


def read_events(run: Path) -> list[Event]:
    """Return the events of ``metrics.jsonl`` in the order of their steps, without what a resumed run did again."""
    return _without_undone(_events(_text(run / METRICS)))


def finite(value: object) -> float | None:
    """Return ``value`` as a float where it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number beyond all floats
        return None
    return found if math.isfinite(found) else None


def section(values: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return the nested section that ``names`` lead to; empty where there is none."""
    for name in names:
        inner = values.get(name)
        values = inner if isinstance(inner, Mapping) else {}
    return values


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _object(text: str) -> Mapping[str, Any]:
    return json_object(text) or {}


def _config(values: Mapping[str, Any]) -> ModelConfig | None:
    """Read a configuration; None where there is none that this version can read."""
    try:
        known = model_fields(values)
        return ModelConfig.parse(known) if known else None
    except UserError:
        return None


def _recipe(text: str) -> Mapping[str, Any]:
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        return {}
    if not isinstance(value, dict):
        return {}
    try:
        return renamed(value, warn=False)
    except UserError:  # nonsense, which whoever trains with it is told of
        return value


def _events(text: str) -> Iterator[Event]:
    """Yield the events that are whole and have a step."""
    for line in text.split("\n"):
        event = _object(line)
        if finite(event.get("step")) is not None:
            yield event


def _without_undone(events: Iterator[Event]) -> list[Event]:
    """Drop what a resumed run did again: where an event goes back, those after its step."""
    kept: list[Event] = []
    for event in events:
        while kept and kept[-1]["step"] > event["step"]:
            kept.pop()
        kept.append(event)
    return kept


def _of_kind(events: list[Event], kind: str) -> tuple[Event, ...]:
    """Return the events of a kind; of several at a step the last, but all samples."""
    chosen = [event for event in events if event.get("event") == kind]
    if kind == "sample":
        return tuple(chosen)
    return tuple({event["step"]: event for event in chosen}.values())
