"""What the commands leave in a run directory beside the model: the report, the model card, compressors' figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weft.evaluation.compressors import Packed
from weft.files import write_atomic
from weft.study.card import write_card
from weft.study.report import write_report

RESULTS = "results.json"


def finish_run(run: Path) -> Path:
    """Write ``report.html`` and ``README.md`` from what the run directory holds; return the report's path."""
    write_card(run)
    return write_report(run)


def has_baselines(run: Path) -> bool:
    """Return whether ``results.json`` of ``run`` tells what compressors need for the test text."""
    return "baselines_about" in _results(run)


def save_baselines(run: Path, packed: Packed) -> None:
    """Add what compressors need for the test text to ``results.json`` of ``run``."""
    write_atomic(run / RESULTS, json.dumps(_results(run) | packed.to_json(), indent=2) + "\n")


def _results(run: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((run / RESULTS).read_text(encoding="utf-8"))
    return results
