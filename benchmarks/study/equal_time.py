"""Does the hybrid beat the strongest Transformer in the same time? Each side tuned, at equal parameters.

    python -m benchmarks.study.equal_time pace                                    # on a quiet machine, all of its cores
    python -m benchmarks.study.equal_time tune weft:sewiki --name sewiki --jobs 2
    python -m benchmarks.study.equal_time tune SLV.txt --split lines --name slv --jobs 2

``pace`` measures the tokens a second of every candidate, in turn, and takes medians. The hybrid then reads TOKENS, and
the others what they read in the same time, so that equal time does not ask for a quiet machine while it trains, and can
go on on another. ``tune`` goes through SEARCH for each candidate, one change at a time, and keeps a change that the
validation text likes; then the best of each is trained from other seeds. What the result file holds is not run again.
``--like NAME`` searches nothing: it takes the best settings that NAME has in equal time, or with "itself" those of each
candidate. With ``--same-tokens`` every candidate reads TOKENS; the hybrid's runs, which are the same, are taken from
equal time.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.machine import describe, revision
from benchmarks.paces import paces
from weft.config import merge
from weft.experiments.ledger import Ledger
from weft.experiments.runner import Runner
from weft.settings import RENAMED
from weft.training.recipe import parse_settings
from weft.training.result import TrainingResult

RESULTS = Path(__file__).parents[1] / "results" / "study"
PACE = RESULTS / "equal-time-pace.json"
SIZE, VOCABULARY, LANES = "2M", 2048, 8
TOKENS = 2_673_300  # that the hybrid reads: about four minutes on two cores; the others as many as in the same time
Settings = dict[str, Any]

CANDIDATES: dict[str, Settings] = {
    "hybrid": {},
    "hybrid, gates spread": {"model.qrnn.forget_bias": "spread"},  # as was the default when rates were tuned
    "transformer": {"model.architecture": "transformer"},
    "transformer, memory 128": {"model.architecture": "transformer", "model.attention.window": 128},
    "llama": {"model.baseline": "llama"},
}
BEGIN: Settings = {
    "training.optimizer.learning_rate": 4e-3,
    "training.optimizer.weight_decay": 0.1,
    "model.dropout": 0.0,
}
# Twice the best rate where more was better, otherwise half of it.
FURTHER: Settings = {"training.optimizer.learning_rate": None}
SEARCH: tuple[Settings, ...] = (  # one after the other, each from the best so far
    {},
    {"training.optimizer.learning_rate": 8e-3},
    FURTHER,
    {"training.optimizer.weight_decay": 0.3},
    {"model.dropout": 0.1},
    {"training.optimizer.weight_decay": 1.0},
)


def main() -> None:
    """Measure paces, or tune."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pace", "tune"))
    parser.add_argument("source", nargs="?")
    parser.add_argument("--split", default="auto")
    parser.add_argument("--name", help="of the result, such as sewiki")
    parser.add_argument("--rounds", type=int, default=len(SEARCH), help="of the search; or of measurements")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--candidates", default=";".join(CANDIDATES), help="parted by semicolons")
    parser.add_argument("--like", help='settings of another candidate, or "itself", instead of a search')
    parser.add_argument("--same-tokens", action="store_true", help="tune at equal tokens, not in equal time")
    parser.add_argument("--work", type=Path, default=Path("runs/equal-time"))
    given = parser.parse_args()
    if given.what == "pace":
        measure_pace(given.rounds)
        return
    tuning = Tuning(given.source, given.split, given.name, given.work, given.jobs, given.same_tokens)
    names = given.candidates.split(";")
    if given.like:
        settled = {name: tuning.in_equal_time(name if given.like == "itself" else given.like) for name in names}
        for seed in range(given.seeds):
            tuning.run(settled, seed)
    else:
        for stage in range(given.rounds):
            tuning.run({name: tuning.proposal(name, stage) for name in names}, seed=0)
        for seed in range(1, given.seeds):
            tuning.run({name: tuning.best(name, given.rounds) for name in names}, seed)
    print(table(tuning.told))


def measure_pace(rounds: int) -> None:
    """Write the tokens a second of every candidate: medians over ``rounds``, each candidate once a round."""
    asked = {
        name: {"model.parameters": SIZE, "training.batch.batch_size": LANES} | BEGIN | of
        for name, of in CANDIDATES.items()
    }
    recipes = {name: [f"{key}={value}" for key, value in settings.items()] for name, settings in asked.items()}
    speeds = paces(recipes, VOCABULARY, rounds)
    told = {
        "command": f"python -m benchmarks.study.equal_time pace --rounds {rounds}",
        "machine": describe("cpu") | {"threads": torch.get_num_threads()},
        "revision": revision(),
        "tokens_per_second": {name: round(median(of)) for name, of in speeds.items()},
        "fastest_and_slowest": {name: [round(max(of)), round(min(of))] for name, of in speeds.items()},
    }
    PACE.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told["tokens_per_second"], indent=1))


class Tuning:
    """Training runs on one text, each in a process of its own with its share of the cores."""

    def __init__(self, source: str, split: str, name: str, work: Path, jobs: int, same_tokens: bool) -> None:
        self.source = source
        self.split = split
        self.equal_time = RESULTS / f"equal-time-{name}.json"
        self.path = RESULTS / f"equal-tokens-{name}.json" if same_tokens else self.equal_time
        self.runner = Runner(work / self.path.stem, at_once=jobs)
        self.ledger = Ledger(self.path)
        self.told = self.ledger.told
        self.told.setdefault("source", Path(source).name)
        self.told |= {"split": split, "parameters": SIZE}
        self.told["runs"] = by_name(self.told["runs"])
        self.pace: dict[str, int] = json.loads(PACE.read_text())["tokens_per_second"]
        if same_tokens:
            self.pace = dict.fromkeys(self.pace, self.pace["hybrid"])
            if self.equal_time.is_file():
                known = json.loads(self.equal_time.read_text())
                self.told["runs"] = by_name(runs_of(known, "hybrid")) | self.told["runs"]

    def proposal(self, candidate: str, stage: int) -> Settings:
        """Return the settings to try at a ``stage`` of the search: the best before it with its change."""
        return changed(self.best(candidate, stage), SEARCH[stage])

    def best(self, candidate: str, stages: int) -> Settings:
        """Return the best settings of the first ``stages``."""
        best, bits = dict(BEGIN), math.inf
        known = [(run["settings"], run["validation"]) for run in runs_of(self.told, candidate, 0)]
        for change in SEARCH[:stages]:  # gone through again, so that a search goes on where it was stopped
            tried = changed(best, change)
            found = next(validation for settings, validation in known if settings == tried)
            if found < bits:
                best, bits = tried, found
        return best

    def in_equal_time(self, candidate: str) -> Settings:
        """Return the best settings that a candidate has in equal time."""
        runs = runs_of(json.loads(self.equal_time.read_text()), candidate, 0)
        settings: Settings = min(runs, key=lambda run: run["validation"])["settings"]
        return settings

    def run(self, wanted: Mapping[str, Settings], seed: int) -> None:
        """Train every candidate with its settings; what is known is not trained again."""
        trials = {}
        for name, settings in wanted.items():
            trial = {"candidate": name, "settings": settings, "seed": seed}
            trials[name_of(trial)] = trial

        def record(name: str, result: TrainingResult) -> dict[str, Any]:
            print(f"{self.path.stem}: {name}: {result.validation.bits_per_byte_of_weights:.4f}", flush=True)
            return {
                **trials[name],
                "validation": result.validation.bits_per_byte_of_weights,
                "test": result.test.bits_per_byte_of_weights,
                "parameters": result.parameters,
                "tokens": result.tokens,
                "revision": revision(),
            }

        self.ledger.train(self.runner, {name: self._recipe(**trial) for name, trial in trials.items()}, record)

    def _recipe(self, candidate: str, settings: Settings, seed: int) -> dict[str, Any]:
        pace = self.pace["hybrid"] if candidate.startswith("hybrid") else self.pace[candidate]
        fixed = {
            "data.split": self.split,
            "data.vocab_size": VOCABULARY,
            "model.parameters": SIZE,
            "training.tokens": round(TOKENS * pace / self.pace["hybrid"]),
            "training.logging.samples": 0,
            "training.logging.validations": 3,
            "training.batch.batch_size": LANES,
            "training.seed": seed,
        }
        asked = fixed | CANDIDATES[candidate] | settings
        values = parse_settings(f"{key}={value}" for key, value in asked.items())
        return merge({"data": {"sources": [self.source]}}, values)


def name_of(run: Mapping[str, Any]) -> str:
    """Return the name of a run: who, with which settings, from which seed."""
    settings = ", ".join(f"{key} {value:g}" for key, value in run["settings"].items())
    return f"{run['candidate']}, {settings}, seed {run['seed']}"


def by_name(runs: Mapping[str, Any] | Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return runs by their names; the published files have lists of them, with the keys of version 0.1.0."""
    if isinstance(runs, Mapping):
        return dict(runs)
    named = {}
    for run in runs:
        settings = {RENAMED.get(key, key): value for key, value in run["settings"].items()}
        today = {**run, "settings": settings}
        named[name_of(today)] = today
    return named


def changed(best: Settings, change: Settings) -> Settings:
    """Return the ``best`` settings so far with a ``change``; FURTHER follows the rate in the direction that gained."""
    if change is FURTHER:
        rate, begun = best["training.optimizer.learning_rate"], BEGIN["training.optimizer.learning_rate"]
        change = {"training.optimizer.learning_rate": 2 * rate if rate > begun else rate / 2}
    return best | change


def runs_of(told: Mapping[str, Any], candidate: str, seed: int | None = None) -> list[dict[str, Any]]:
    """Return the runs of a candidate, from one seed or all."""
    return [
        run for run in by_name(told["runs"]).values() if run["candidate"] == candidate and seed in (None, run["seed"])
    ]


def table(told: Mapping[str, Any]) -> str:
    """Return the Markdown table of a text: the best settings of each candidate, means over their seeds."""
    return "\n".join(_rows(told))


def _rows(told: Mapping[str, Any]) -> Iterator[str]:
    yield "| | validation | test | tokens | learning rate | decay | dropout | tried | seeds |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for name in CANDIDATES:
        if not (tried := runs_of(told, name, 0)):
            continue
        settings = min(tried, key=lambda run: run["validation"])["settings"]
        runs = [run for run in runs_of(told, name) if run["settings"] == settings]
        numbers = f"{mean(r['validation'] for r in runs):.4f} | {mean(r['test'] for r in runs):.4f}"
        values = " | ".join(f"{settings[key]:g}" for key in BEGIN)
        yield f"| {name} | {numbers} | {runs[0]['tokens'] / 1e6:.2f}M | {values} | {len(tried)} | {len(runs)} |"


if __name__ == "__main__":
    main()
