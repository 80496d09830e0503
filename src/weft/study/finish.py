"""What the commands leave in a run directory beside the model: the report and the model card."""

from __future__ import annotations

from pathlib import Path

from weft.study.card import write_card
from weft.study.report import write_report


def finish_run(run: Path) -> Path:
    """Write ``report.html`` and ``README.md`` from what the run directory holds; return the report's path."""
    write_card(run)
    return write_report(run)
