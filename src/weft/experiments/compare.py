"""Compare architectures side by side: equal parameters, equal budget, each at its best learning rate.

Every run is a run directory of its own under ``runs/``, trained by ``weft train`` in a process of its own. What is done
is never done again: the same command goes on where it stopped, and may add architectures, rates and seeds.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from weft.data import DataConfig, PreparedData, prepare
from weft.errors import DamagedError, Interrupted, UserError
from weft.experiments.plan import PLAN, VARIANTS, Plan, Trial, check_folder, recipe_of, save_plan
from weft.experiments.results import CURVES, SPEED, measure_generation, read_results, write_results
from weft.experiments.runner import Job, run_jobs
from weft.files import alone_in, remove, sweep, write_atomic
from weft.records import number, section
from weft.reports.comparison.report import REPORT, TABLE, write_comparison
from weft.training.recipe import Recipe
from weft.training.resolve import fit, make_model
from weft.training.run import RESULTS, TrainingResult, read_result

FAILED = "failed.txt"


@dataclass(frozen=True)
class Listener:
    """Who hears of a comparison: words, and where each running job stands."""

    message: Callable[[str], None] = lambda _: None
    tick: Callable[[list[Job], int, int], None] = lambda *_: None


class Study:
    """A comparison in a folder."""

    def __init__(self, plan: Plan, folder: Path, listener: Listener | None = None) -> None:
        self.plan, self.folder = plan, folder
        self.listener = listener or Listener()
        self.threads = _threads(plan.jobs)
        self.summary = ""
        self._prepared: dict[str, PreparedData] = {}
        self._results: dict[Trial, TrainingResult] = {}  # of runs that have ended, which do not change any more
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """The time that the study took, with what it took before it was stopped."""
        return time.monotonic() - self.began

    def run(self, *, overwrite: bool = False) -> Path:
        """Train what is not trained yet, measure, and write results, table and report; return the report's path.

        Raises UserError for what a user can put right, Interrupted when a signal to stop came; then the results and
        the report tell what there is so far.
        """
        if not self.folder.is_dir():
            check_folder(self.plan, self.folder, overwrite=overwrite)  # it may be a file
        with alone_in(self.folder, make=True):
            sweep_study(self.folder)
            return self._run(overwrite)

    def _run(self, overwrite: bool) -> Path:
        check_folder(self.plan, self.folder, overwrite=overwrite)
        first = self.plan.seeds[0]
        trials = [Trial(c, rate, first) for c in self.plan.contenders for rate in self.plan.learning_rates]
        self.summary = self._prepare(self._recipe(trials[0]).data).summary
        self._tell_sizes()  # before anything is trained or replaced
        if overwrite:  # the folder stays, as it is held; the plan goes last, as it says what the rest is
            for path in sorted(self.folder.iterdir(), key=lambda path: path.name == PLAN):
                remove(path)
        self._go_on()
        save_plan(self.plan, self.folder)
        try:
            self._train(trials)
            self._train([Trial(c, self.best_rate(c), seed) for c in self._leaders() for seed in self.plan.seeds[1:]])
            measure_generation(self)
        except Interrupted:
            self._write()
            raise
        return self._write()

    def _write(self) -> Path:
        write_results(self)
        return write_comparison(self.folder)

    def _prepare(self, data: DataConfig) -> PreparedData:
        """Return the text as ``data`` wants it, read once."""
        key = data.model_dump_json()
        if key not in self._prepared:
            self._prepared[key] = prepare(data, progress=self.listener.message)
        return self._prepared[key]

    def _recipe(self, trial: Trial) -> Recipe:
        """Return the recipe of a trial; UserError where it names no text."""
        recipe = recipe_of(self.plan, trial)
        if not recipe.data.sources:
            raise UserError("There is nothing to train on: name files, folders or globs of text.")
        return recipe

    def _go_on(self) -> None:
        """Take up the time of an earlier session; UserError where it read another text."""
        before = read_results(self.folder)
        corpus = section(before, "settings").get("corpus") or self.summary
        if corpus != self.summary:
            raise UserError(
                f"'{self.folder}' holds a comparison on another text ({corpus} then, {self.summary} now): give --out "
                "another folder, or --overwrite."
            )
        self.began -= number(before.get("seconds_total")) or 0.0

    def _tell_sizes(self) -> None:
        """Build every model once, without storage, and say how large it is: a budget that cannot be met shows now."""
        for contender in self.plan.contenders:
            recipe = self._recipe(Trial(contender, self.plan.learning_rates[0], self.plan.seeds[0]))
            prepared = self._prepare(recipe.data)  # a variant may have other tokens
            recipe = fit(recipe, prepared)
            with torch.device("meta"):
                model = make_model(recipe, prepared, None)
            self.listener.message(
                f"{contender}: {model.parameter_count:,} parameters, {model.body_parameter_count:,} without embeddings"
            )

    def run_of(self, trial: Trial) -> Path:
        """Return the run directory of a trial."""
        return self.folder / "runs" / trial.name

    def _train(self, trials: Sequence[Trial]) -> None:
        """Train those that have neither results nor failed."""
        jobs, of_job = [], {}
        for trial in trials:
            if self.result(trial) or self.failure(trial) is not None:
                continue
            jobs.append(Job(trial.name, self.run_of(trial), self._options(trial), self.threads))
            of_job[trial.name] = trial
        if len(jobs) < len(trials):
            self.listener.message(f"{len(trials) - len(jobs)} of {len(trials)} runs are done already.")
        done = [0]

        def ended(job: Job, code: int) -> None:
            done[0] += 1
            self._ended(job, code, of_job[job.name])

        run_jobs(jobs, self.plan.jobs, ended, lambda running: self.listener.tick(running, done[0], len(jobs)))

    def _options(self, trial: Trial) -> list[str]:
        run = self.run_of(trial)
        if (run / "recipe.yaml").is_file():
            return ["--resume"]
        recipe = self.folder / "recipes" / f"{trial.name}.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        values = self._recipe(trial).model_dump(mode="json")
        write_atomic(recipe, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        return ["--recipe", str(recipe)]

    def _ended(self, job: Job, code: int, trial: Trial) -> None:
        if result := self.result(trial):
            self.listener.message(
                f"{trial.contender}, learning rate {trial.learning_rate:g}, seed {trial.seed}: test "
                f"{result.test.bits_per_byte:.4f} bits per byte ({result.tokens:,} tokens in {result.seconds:.0f} s)"
            )
        else:
            complaint = job.complaint(code)
            job.run.mkdir(parents=True, exist_ok=True)
            write_atomic(job.run / FAILED, complaint + "\n")
            self.listener.message(
                f"{trial.contender}, learning rate {trial.learning_rate:g}, seed {trial.seed} failed: {complaint} "
                f"(delete '{job.run}' to try it again)"
            )
        write_results(self)

    def failure(self, trial: Trial) -> str | None:
        """Return why a trial failed; None where it did not."""
        path = self.run_of(trial) / FAILED
        return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else None

    def result(self, trial: Trial) -> TrainingResult | None:
        """Return what a trial has come to; None where it has not ended well."""
        path = self.run_of(trial) / RESULTS
        if trial in self._results or not path.is_file():
            return self._results.get(trial)
        try:
            return self._results.setdefault(trial, read_result(path.parent))
        except DamagedError:  # the run is resumed, which scores it again
            return None

    def best_rate(self, contender: str) -> float:
        """Return the learning rate with the fewest bits per byte on the validation text, with the first seed.

        NaN where no run has ended well.
        """
        found = {}
        for rate in self.plan.learning_rates:
            if result := self.result(Trial(contender, rate, self.plan.seeds[0])):
                found[rate] = result.validation.bits_per_byte
        return min(found, key=lambda rate: found[rate]) if found else math.nan

    def _leaders(self) -> list[str]:
        """Return the contenders that get more seeds, best first by the validation text."""
        found = {}
        for contender in self.plan.contenders:
            if result := self.result(Trial(contender, self.best_rate(contender), self.plan.seeds[0])):
                found[contender] = result.validation.bits_per_byte
        return sorted(found, key=lambda contender: found[contender])[: self.plan.top]

    def trials(self) -> list[Trial]:
        """Return every trial whose run is there, in the order of the plan."""
        asked = [
            Trial(c, rate, seed)
            for c in self.plan.contenders
            for rate in self.plan.learning_rates
            for seed in self.plan.seeds
        ]
        return [trial for trial in asked if self.result(trial) or self.failure(trial) is not None]

    def chosen(self) -> list[Trial]:
        """Return the trials at the best learning rates, which are the rows of the comparison."""
        return [t for t in self.trials() if self.result(t) and t.learning_rate == self.best_rate(t.contender)]


def sweep_study(folder: Path) -> None:
    """Remove what killed processes left half written in a comparison's folder; each run sweeps its own."""
    sweep(folder, PLAN, VARIANTS, RESULTS, CURVES, TABLE, REPORT)
    sweep(folder / "recipes", "*.yaml")
    for run in (folder / "runs").glob("*"):
        sweep(run, FAILED, SPEED)


def _threads(jobs: int) -> int:
    """Return how many threads each of ``jobs`` runs gets: as OMP_NUM_THREADS says, else its share of the cores."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdecimal() and int(told) else max(1, (os.cpu_count() or 1) // jobs)
