"""Read the data files that lie beside the tasks, wherever lm-eval is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets import Dataset


def rolling(**_: Any) -> dict[str, Dataset]:
    """Return the documents of the task `sewiki_rolling`."""
    return _read("sewiki_rolling.jsonl")


def continuation(**_: Any) -> dict[str, Dataset]:
    """Return the questions of the task `sewiki_continuation`."""
    return _read("sewiki_continuation.jsonl")


def _read(name: str) -> dict[str, Dataset]:
    lines = (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}
