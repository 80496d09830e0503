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
import shutil
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, revision
from benchmarks.study.runs import share_of_cores, weft

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
        "machine": describe("cpu") | {"threads": search.threads, "jobs": given.jobs},
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
        self.source, self.split, self.work, self.jobs = source, split, work, jobs
        self.threads = share_of_cores(jobs)
        work.mkdir(parents=True, exist_ok=True)

    def run(self, configurations: dict[str, Sequence[str]], minutes: float) -> dict[str, dict[str, Any]]:
        """Return what each configuration comes to in ``minutes``; those that are known are not run again."""
        with ThreadPoolExecutor(self.jobs) as pool:
            found = pool.map(lambda name: self._one(name, configurations[name], minutes), configurations)
            return dict(zip(configurations, found, strict=True))

    def _one(self, name: str, settings: Iterable[str], minutes: float) -> dict[str, Any]:
        plain = "".join(letter if letter.isalnum() else "-" for letter in name)
        path = self.work / f"{plain}-{minutes:.3g}.json"
        if not path.is_file():
            path.write_text(json.dumps(self._train(plain, name, list(settings), minutes), indent=1))
            print(f"{name}, {minutes:.3g} minutes: {json.loads(path.read_text())['validation']:.4f}", flush=True)
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def _train(self, plain: str, name: str, settings: list[str], minutes: float) -> dict[str, Any]:
        folder = self.work / plain
        if name != DIAL:
            settings = [*BY_HAND, *settings]
        command = ["train", self.source, "--split", self.split, "--minutes", f"{minutes:g}", "--out", str(folder)]
        for setting in ("training.logging.samples=0", "training.logging.validations=4", *settings):
            command += ["--set", setting]
        told = weft([*command, "--overwrite", "--json", "--no-compressors"], self.threads)
        adaptive = weft(["evaluate", str(folder), "--adapt", "--json"], self.threads) if name == DIAL else {}
        recipe = (folder / "recipe.yaml").read_text()
        shutil.rmtree(folder)
        return {
            "settings": settings,
            "validation": told["validation"]["bits_per_byte"],
            "test": told["test"]["bits_per_byte"],
            "adaptive": adaptive.get("bits_per_byte"),
            "parameters": told["parameters"],
            "tokens": told["training_tokens"],
            "recipe": recipe if name == DIAL else None,
        }


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
