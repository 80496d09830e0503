"""Compare architectures side by side: equal parameters, equal budget, each at its best learning rate.

Every run is a run directory of its own under ``runs/``, trained by ``weft train`` in a process of its own. What is done
is never done again: the same command goes on where it stopped, and may add architectures, rates and seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from weft.data import DataConfig, PreparedData, prepare
from weft.errors import UserError
from weft.experiments.choice import best_rate, chosen, leaders
from weft.experiments.folder import PLAN, check_folder, read_results, save_plan, sweep_study
from weft.experiments.jobs import Job
from weft.experiments.plan import Plan, Trial, recipe_of
from weft.experiments.results import Session, measure_generation, write_results
from weft.experiments.runner import Outcome, Runner
from weft.files import alone_in, remove
from weft.records import finite, section
from weft.training.recipe import Recipe
from weft.training.resolve import make_model, resolve_recipe


@dataclass(frozen=True)
class StudyListener:
    """Who hears of a comparison: words, and where each running job stands."""

    message: Callable[[str], None] = lambda _: None
    tick: Callable[[list[Job], int, int], None] = lambda *_: None


class Study:
    """A comparison in a folder."""

    def __init__(self, plan: Plan, folder: Path, listener: StudyListener | None = None) -> None:
        self.plan = plan
        self.folder = folder
        self.listener = listener or StudyListener()
        self.runner = Runner(folder, at_once=plan.jobs)
        self.summary = ""
        self._prepared: dict[str, PreparedData] = {}
        self._began = time.monotonic()

    def run(self, *, overwrite: bool = False) -> None:
        """Train what is not trained yet, measure, and write the results.

        Raises UserError for what a user can put right, Interrupted when a signal to stop came; then the results tell
        what there is so far.
        """
        if not self.folder.is_dir():
            check_folder(self.plan, self.folder, overwrite=overwrite)  # it may be a file
        with alone_in(self.folder, make=True):
            sweep_study(self.folder)
            self._run(overwrite)

    def _run(self, overwrite: bool) -> None:
        check_folder(self.plan, self.folder, overwrite=overwrite)
        first = self.plan.seeds[0]
        trials = []
        for contender in self.plan.contenders:
            trials += [Trial(contender, rate, first) for rate in self.plan.learning_rates]
        self.summary = self._prepare(self._recipe(trials[0]).data).summary
        self._tell_sizes()  # before anything is trained or replaced
        if overwrite:
            # The folder itself stays, as it is held. The plan goes last: it says what the rest is, for the next time
            # where this is killed.
            for path in sorted(self.folder.iterdir(), key=lambda path: path.name == PLAN):
                remove(path)
        self._go_on()
        save_plan(self.plan, self.folder)
        try:
            self._train(trials)
            # The contenders that lead, each at its best rate, from the other seeds.
            finished = self.finished()
            more = []
            for contender in leaders(self.plan, finished):
                rate = best_rate(self.plan, finished, contender)
                more += [Trial(contender, rate, seed) for seed in self.plan.seeds[1:]]
            self._train(more)
            runs = [(t.contender, self.runner.run_of(t.name)) for t in chosen(self.plan, self.finished())]
            measure_generation(runs, self.runner.threads, self.listener.message)
        finally:
            self._write()

    def finished(self) -> dict[Trial, Outcome]:
        """Return how every trial ended that has, in the order of the plan."""
        found = {}
        for trial in self.plan.trials:
            outcome = self.runner.outcome(trial.name)
            if outcome is not None:
                found[trial] = outcome
        return found

    def _write(self) -> None:
        """Write what there is so far."""
        session = Session(self.summary, self.runner.threads, time.monotonic() - self._began)
        write_results(self.folder, self.plan, self.finished(), session)

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
                f"'{self.folder}' holds a comparison on another text ({corpus} then, {self.summary} now): choose "
                "another folder, or overwrite it."
            )
        self._began -= finite(before.get("seconds_total")) or 0.0

    def _tell_sizes(self) -> None:
        """Build every model once, without storage, and say how large it is: a budget that cannot be met shows now."""
        for contender in self.plan.contenders:
            recipe = self._recipe(Trial(contender, self.plan.learning_rates[0], self.plan.seeds[0]))
            prepared = self._prepare(recipe.data)  # a variant may have other tokens
            recipe = resolve_recipe(recipe, prepared).recipe
            with torch.device("meta"):
                model = make_model(recipe, prepared, None)
            self.listener.message(
                f"{contender}: {model.parameter_count:,} parameters, {model.body_parameter_count:,} without embeddings"
            )

    def _train(self, trials: Sequence[Trial]) -> None:
        """Train those that have not ended, and say how each one ends."""
        waiting = {trial.name: trial for trial in trials if self.runner.outcome(trial.name) is None}
        if len(waiting) < len(trials):
            self.listener.message(f"{len(trials) - len(waiting)} of {len(trials)} runs are done already.")
        done = 0  # of those that are trained now

        def ended(name: str, outcome: Outcome) -> None:
            nonlocal done
            done += 1
            self.listener.message(_told(waiting[name], outcome))
            self._write()  # so that a study can be looked at, and loses nothing when it is killed

        def tick(jobs: list[Job]) -> None:
            self.listener.tick(jobs, done, len(waiting))

        recipes = {name: self._recipe(trial).model_dump(mode="json") for name, trial in waiting.items()}
        self.runner.train(recipes, ended, tick)


def _told(trial: Trial, outcome: Outcome) -> str:
    """Say how a trial ended."""
    name = f"{trial.contender}, learning rate {trial.learning_rate:g}, seed {trial.seed}"
    if outcome.result is None:
        return f"{name} failed: {outcome.failure} (delete '{outcome.run}' to try it again)"
    result = outcome.result
    bits = f"{result.test.bits_per_byte_of_weights:.4f} bits per byte"
    return f"{name}: test {bits} ({result.tokens:,} tokens in {result.seconds:.0f} s)"
