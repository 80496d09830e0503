"""Which runs of a result file count: those at the rate that is best for their contender."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Run = Mapping[str, Any]  # contender, rate, seed, validation and more, as a result file has it


def at_best_rate(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return each contender's runs, of all seeds, at the rate with its best validation figure of seed 0."""
    by_contender: dict[str, list[Run]] = {}
    for run in runs:
        by_contender.setdefault(run["contender"], []).append(run)
    best = {}
    for name, tried in by_contender.items():
        rate = min((run for run in tried if run["seed"] == 0), key=lambda run: run["validation"])["rate"]
        best[name] = [run for run in tried if run["rate"] == rate]
    return best
