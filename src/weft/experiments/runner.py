"""Trials as training runs: each a run directory of its own, and what has ended is never trained again.

A trial is a name and the values of a recipe. Comparisons, searches and the studies under ``benchmarks/`` make trials of
whatever they vary; here they are trained, a few at a time, and told what each came to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from weft.errors import DamagedError
from weft.experiments.jobs import Job, run_jobs
from weft.files import sweep, write_atomic
from weft.records import RECIPE, RESULTS
from weft.training.result import TrainingResult, read_result

FAILED = "failed.txt"  # in a run directory: why its training failed


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: with a result, or with a failure in one line."""

    run: Path
    result: TrainingResult | None = None
    failure: str | None = None


class Runner:
    """Trains trials into ``runs/NAME`` of a folder, each by ``weft train`` in a process of its own.

    ``at_once`` processes run side by side, each with its share of the cores. A trial that was stopped is resumed. The
    name of a trial must tell it from all others, as what has ended under it is taken for done.
    """

    def __init__(self, folder: Path, *, at_once: int = 1) -> None:
        self.folder = folder
        self.at_once = at_once
        self.threads = threads_of_each(at_once)
        self._results: dict[str, TrainingResult] = {}  # of runs that have ended, which do not change any more

    def run_of(self, name: str) -> Path:
        """Return the run directory of a trial."""
        return self.folder / "runs" / name

    def outcome(self, name: str) -> Outcome | None:
        """Return how a trial ended; None where it has not, or where its results are damaged: then it is resumed."""
        run = self.run_of(name)
        # Results come before a failure: a run that failed and was then resumed by hand has both.
        if name not in self._results and (run / RESULTS).is_file():
            with suppress(DamagedError):
                self._results[name] = read_result(run)
        if name in self._results:
            return Outcome(run, result=self._results[name])
        if (run / FAILED).is_file():
            return Outcome(run, failure=(run / FAILED).read_text(encoding="utf-8", errors="replace").strip())
        return None

    def train(
        self,
        recipes: Mapping[str, Mapping[str, Any]],
        ended: Callable[[str, Outcome], None],
        tick: Callable[[list[Job]], None] = lambda _: None,
    ) -> None:
        """Train the trials of ``recipes``, values by name, that have not ended; call ``ended`` as each one does.

        ``tick`` hears every so often of the jobs that are running. A signal to stop saves them and raises
        :class:`weft.errors.Interrupted`; the same call goes on.
        """
        jobs = []
        for name, values in recipes.items():
            if self.outcome(name) is None:
                jobs.append(Job(name, self.run_of(name), self._options(name, values), self.threads))

        def record(job: Job, code: int) -> None:
            outcome = self.outcome(job.name)
            if outcome is None:
                # It left no results: the failure is written down, so that it is not tried again each time.
                outcome = Outcome(job.run, failure=job.complaint(code))
                job.run.mkdir(parents=True, exist_ok=True)
                write_atomic(job.run / FAILED, f"{outcome.failure}\n")
            ended(job.name, outcome)

        run_jobs(jobs, self.at_once, record, tick)

    def _options(self, name: str, values: Mapping[str, Any]) -> list[str]:
        """Return the options of ``weft train``: a run that has begun is resumed, a new one has its recipe written."""
        if (self.run_of(name) / RECIPE).is_file():
            return ["--resume"]
        recipe = self.folder / "recipes" / f"{name}.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(recipe, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))
        return ["--recipe", str(recipe)]


def sweep_runs(folder: Path) -> None:
    """Remove what killed processes left half written beside the runs of a :class:`Runner` in ``folder``."""
    sweep(folder / "recipes", "*.yaml")
    for run in (folder / "runs").glob("*"):
        sweep(run, FAILED)


def threads_of_each(jobs: int) -> int:
    """Return how many threads each of ``jobs`` runs gets: as OMP_NUM_THREADS says, else its share of the cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told):
        return int(told)
    return max(1, (os.cpu_count() or 1) // jobs)
