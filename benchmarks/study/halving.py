"""Is the dial as good as a search by hand? ``weft train --minutes M`` against a grid, by successive halving.

python -m benchmarks.study.halving SOURCE --split lines --minutes 5 --name slv-5 --work runs/halving

Every configuration is trained for a third of the minutes; the best half (on the validation text; ``--keep`` says how
many) for all of them, and so is the dial, which is told the minutes and nothing else. The best of the grid is chosen on
the validation text. With ``--jobs 2`` two train at once, each with half of the cores, the dial like the rest.
Given again, the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, revision
from weft.config import merge
from weft.experiments.ledger import Ledger
from weft.experiments.runner import Runner
from weft.records import RECIPE
from weft.training.recipe import parse_settings
from weft.training.result import TrainingResult

SHARE = 3
GRID: dict[str, tuple[str, ...]] = {
    "500k": ("model.parameters=500k", "data.vocab_size=1024"),
    "1M": ("model.parameters=1M",),
    "1M, vocabulary 1024": ("model.parameters=1M", "data.vocab_size=1024"),
    "1M, vocabulary 4096": ("model.parameters=1M", "data.vocab_size=4096"),
    "1M, rate 8e-3": ("model.parameters=1M", "training.optimizer.learning_rate=8e-3"),
    "1.5M": ("model.parameters=1.5M",),
    "2M": ("model.parameters=2M",),
    "2M, vocabulary 4096": ("model.parameters=2M", "data.vocab_size=4096"),
    "2M, rate 8e-3, dropout 0.1": ("model.parameters=2M", "training.optimizer.learning_rate=8e-3", "model.dropout=0.1"),
    "2M, 4 lanes": ("model.parameters=2M", "training.batch.batch_size=4"),
    "3M, dropout 0.1": ("model.parameters=3M", "model.dropout=0.1"),
    "4M": ("model.parameters=4M",),
    "4M, dropout 0.1, decay 0.3": ("model.parameters=4M", "model.dropout=0.1", "training.optimizer.weight_decay=0.3"),
}
BY_HAND = (  # what a configuration has where it says nothing else: the dial turns none of it
    "data.vocab_size=2048",
    "model.dropout=0",
    "training.optimizer.weight_decay=0.1",
    "training.batch.batch_size=8",
)
DIAL = "the dial"


def main() -> None:
    """Run what is not there yet; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--split", default="auto")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--name", required=True, help="of the result, such as sewiki-5")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep", type=int, default=(len(GRID) + 1) // 2, help="how many are trained to the end")
    parser.add_argument("--only-dial", action="store_true", help="leave the grid out")
    parser.add_argument("--work", type=Path, default=Path("runs/halving"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/study"))
    given = parser.parse_args()
    search = Search(given.source, given.split, given.work / given.name, given.jobs)
    short, final = given.minutes / SHARE, given.minutes
    first = search.run({} if given.only_dial else GRID, short)
    best = sorted(first, key=lambda name: first[name]["validation"])[: given.keep]
    last = search.run({DIAL: (), **{name: GRID[name] for name in best}}, final)
    told = {
        "command": " ".join(["python -m benchmarks.study.halving", *sys.argv[1:]]),
        "machine": describe("cpu") | {"threads": search.runner.threads, "jobs": given.jobs},
        "revision": revision(),
        "minutes": given.minutes,
        "short": first,
        "whole": last,
    }
    (given.out / f"dial-{given.name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(table(told))


class Search:
    """Training runs on one text, each in a process of its own."""

    def __init__(self, source: str, split: str, work: Path, jobs: int) -> None:
        self.source = source
        self.split = split
        self.runner = Runner(work, at_once=jobs)
        self.ledger = Ledger(work / "ledger.json")

    def run(self, configurations: Mapping[str, Sequence[str]], minutes: float) -> dict[str, dict[str, Any]]:
        """Return what each configuration comes to in ``minutes``; those that are known are not run again."""
        trials = {f"{name}, {minutes:.3g} minutes": name for name in configurations}
        settings = {}
        for trial, name in trials.items():
            by_hand = () if name == DIAL else BY_HAND
            settings[trial] = [
                "training.logging.samples=0",
                "training.logging.validations=4",
                *by_hand,
                *configurations[name],
            ]

        def record(trial: str, result: TrainingResult) -> dict[str, Any]:
            print(f"{trial}: {result.validation.bits_per_byte_of_weights:.4f}", flush=True)
            told = {
                "settings": settings[trial],
                "validation": result.validation.bits_per_byte_of_weights,
                "test": result.test.bits_per_byte_of_weights,
                "adaptive": None,
                "parameters": result.parameters,
                "tokens": result.tokens,
                "recipe": None,
            }
            if trials[trial] == DIAL:
                told["adaptive"] = adaptive_bits(result.run, self.runner.threads)
                told["recipe"] = (result.run / RECIPE).read_text()
            return told

        shared = {"data": {"sources": [self.source], "split": self.split}, "training": {"minutes": minutes}}
        recipes = {trial: merge(shared, parse_settings(each)) for trial, each in settings.items()}
        self.ledger.train(self.runner, recipes, record)
        return {name: self.ledger.runs[trial] for trial, name in trials.items()}


def adaptive_bits(run: Path, threads: int) -> float:
    """Return the bits per byte of the test text with dynamic evaluation, in a process with so many threads."""
    command = [sys.executable, "-m", "weft", "evaluate", str(run), "--adapt", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout)["bits_per_byte"])


def table(told: dict[str, Any]) -> str:
    """Return the Markdown table of a search."""
    whole = told["whole"]
    lines = ["| | validation | test | adaptive | parameters | tokens |", "|---|---:|---:|---:|---:|---:|"]
    for name, run in sorted(whole.items(), key=lambda item: item[1]["validation"]):
        adaptive = f"{run['adaptive']:.4f}" if run["adaptive"] else ""
        lines.append(
            f"| {name} | {run['validation']:.4f} | {run['test']:.4f} | {adaptive} | {run['parameters']:,} | "
            f"{run['tokens']:,} |"
        )
    others = [run for name, run in whole.items() if name != DIAL]
    if others:
        best, dial = min(others, key=lambda run: run["validation"]), whole[DIAL]
        lines.append(
            f"\nThe dial over the best of the grid: {dial['validation'] / best['validation']:.4f} on the validation "
            f"text, {dial['test'] / best['test']:.4f} on the test text."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
