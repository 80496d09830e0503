"""The JSON that results live in: one file a kind of machine, each row replaced when it is measured again."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import Bar, Line, Ratio, Sheet

FORMAT = 1


def row_record(sheet: Sheet, **about: Any) -> dict[str, Any]:
    """Return everything that one row measured, as plain data; ``about`` is when, where and how."""
    return {
        **about,
        "lines": [_line_record(line) for line in sheet.lines],
        "notes": sheet.notes,
        "facts": sheet.facts,
        "failures": {title: times.failures for title, times in sheet.races.items() if times.failures},
        "seconds": {title: times.to_json() for title, times in sheet.races.items()},
    }


def _line_record(line: Line) -> dict[str, Any]:
    record = asdict(line)
    if line.ratio:
        record["ratio"] = {key: _short(value) for key, value in asdict(line.ratio).items()}
    return record


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def read_line(record: dict[str, Any]) -> Line:
    """Return a line as it was recorded."""
    ratio, bar = record["ratio"], record["bar"]
    return Line(**record | {"ratio": ratio and Ratio(**ratio), "bar": bar and Bar(**bar)})


def read(path: Path) -> dict[str, Any]:
    """Return a file's results, empty where there is none."""
    if not path.is_file():
        return {"format": FORMAT, "rows": {}}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def merge(path: Path, rows: dict[str, Any], order: list[str]) -> dict[str, Any]:
    """Put ``rows`` in the place of those of their names, in the table's order, and write the file."""
    results = read(path)
    merged = results["rows"] | rows
    known = [name for name in order if name in merged]
    results["rows"] = {name: merged[name] for name in [*known, *(set(merged) - set(known))]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return results
