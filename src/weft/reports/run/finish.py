"""What the commands leave in a run directory beside the model: the report, the model card, compressors' figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from weft.evaluation.compressors import Packed
from weft.files import write_atomic
from weft.records import RESULTS
from weft.reports.run.card import write_card
from weft.reports.run.report import write_report


def finish_run(run: Path) -> Path:
    """Write ``report.html`` and ``README.md`` from what the run directory holds; return the report's path."""
    write_card(run)
    return write_report(run)


def read_compressors(run: Path) -> Packed | None:
    """Return what ``results.json`` of ``run`` tells of compressors on the test text; None where it tells nothing."""
    try:
        return Packed.from_json(_results(run))
    except (KeyError, TypeError):
        return None


def save_compressors(run: Path, packed: Packed) -> None:
    """Add what compressors need for the test text to ``results.json`` of ``run``."""
    write_atomic(run / RESULTS, json.dumps(_results(run) | packed.to_json(), indent=2) + "\n")


def _results(run: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((run / RESULTS).read_text(encoding="utf-8"))
    return results
