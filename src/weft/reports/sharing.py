"""What of a recipe is shown to others: everything but where things lie on one's own machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

_PRIVATE = ("found_at",)
_SCHEME = re.compile("hf:")
_PLACE = re.compile(r"(?<![\w.~*:/])[~/][^\s'\"]*/([^\s'\"/]+)")  # within a sentence or a command


def shareable(recipe: Mapping[str, Any]) -> str:
    """Return the text of a run's recipe as others may see it: of absolute places the last part; "" where it is none."""
    shown = {}
    for key, value in recipe.items():
        if key not in _PRIVATE:
            shown[key] = without_places(value)
    if not shown:
        return ""
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def without_places(value: Any) -> Any:
    """Return nested values with the last part of every absolute place in them."""
    if isinstance(value, Mapping):
        return {key: without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    return _without_place(value) if isinstance(value, str) else value


def _without_place(text: str) -> str:
    """Return ``text`` with the last part of the place that it is, or of those that it mentions."""
    scheme = _SCHEME.match(text)
    start = scheme.end() if scheme else 0
    place = PurePath(text[start:])
    if place.is_absolute() or text[start:].startswith("~"):
        return text[:start] + place.name
    return _PLACE.sub(r"\1", text)
