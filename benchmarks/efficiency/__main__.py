"""Train the contenders of a question at equal tokens or in equal time, each at its best learning rate.

    python -m benchmarks.efficiency structured slv.txt --split lines --vocab-size 2048 --name slv --tokens 2M \
        --rates 2e-3,4e-3,8e-3 --jobs 2

With --equal-time the first contender reads --tokens, and the others what they read in the same time: by their paces,
measured in turn at the beginning, when the machine has to be quiet, and kept in the result file. Every rate is trained
with the first seed, the best with the others. What the result file holds is not trained again; the runs of contenders
that others start from stay in --work.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from benchmarks.efficiency.questions import QUESTIONS
from benchmarks.efficiency.rates import at_best_rate
from benchmarks.machine import commands, describe, revision
from benchmarks.paces import paces
from weft.config import merge
from weft.experiments.ledger import Ledger, folder_name
from weft.experiments.runner import Runner
from weft.pattern import parse_count
from weft.training.recipe import parse_settings
from weft.training.result import TrainingResult

RESULTS = Path(__file__).parents[1] / "results" / "efficiency"
FIXED = (
    "training.logging.samples=0",
    "training.logging.validations=4",
    "training.batch.batch_size=8",
    "training.optimizer.weight_decay=0.1",
    "model.dropout=0",
)
BYTES = 258  # the vocabulary of bytes
ROUNDS = 7


def main() -> None:
    """Train what is missing; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=tuple(QUESTIONS))
    parser.add_argument("source")
    parser.add_argument("--name", required=True, help="of the text, such as slv")
    parser.add_argument("--split", default="auto")
    parser.add_argument("--tokenizer")
    parser.add_argument("--vocab-size", type=int)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--equal-time", action="store_true")
    parser.add_argument("--rates", default="4e-3")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", help="contenders, separated by semicolons")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="more settings of all")
    parser.add_argument("--work", type=Path, default=Path("runs/efficiency"))
    given = parser.parse_args()
    budget = f"{given.tokens}-{'time' if given.equal_time else 'tokens'}"
    question = Question(given, RESULTS / f"{given.question}-{given.name}-{budget}.json")
    names = given.only.split(";") if given.only else list(QUESTIONS[given.question])
    question.run(names, given.rates.split(","), given.seeds)
    print(question.table())


class Question:
    """The runs of one question on one text with one budget, in one result file."""

    def __init__(self, given: argparse.Namespace, path: Path) -> None:
        self.given = given
        self.contenders = QUESTIONS[given.question]
        self.runner = Runner(given.work / path.stem, at_once=given.jobs)
        self.ledger = Ledger(path)
        self.ledger.told |= {
            "commands": commands(self.ledger.told.get("commands", ()), "benchmarks.efficiency"),
            "machine": describe("cpu") | {"threads": self.runner.threads, "jobs": given.jobs},
            "revision": revision(),
        }

    def run(self, names: list[str], rates: list[str], seeds: int) -> None:
        """Train the contenders ``names``, those first that others start from."""
        for name in names:
            after = self.contenders[name].after
            if after and self.given.equal_time:
                raise SystemExit(f"{name} comes after {after}, so there is no equal time: leave out --equal-time.")
            if after and after not in names and not any(run["contender"] == after for run in self._runs()):
                raise SystemExit(f"{name} comes after {after}: name that in --only too.")
        if self.given.equal_time:
            known = self.ledger.told.setdefault("paces", {})
            if missing := [name for name in names if name not in known]:
                known |= self._paces(missing)
        for later in (False, True):
            now = [name for name in names if bool(self.contenders[name].after) is later]
            self._all([(name, rate, 0) for name in now for rate in rates])
            self._all([(name, self.best_rate(name), seed) for name in now for seed in range(1, seeds)])

    def _runs(self) -> list[dict[str, Any]]:
        return list(self.ledger.runs.values())

    def _paces(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """Return the tokens a second of contenders, ROUNDS times, and their median over the first contender's."""
        first = next(iter(self.contenders))
        settings = {
            name: [*FIXED, *self.given.set, *self.contenders[name].settings] for name in dict.fromkeys([first, *names])
        }
        vocabulary = BYTES if self.given.tokenizer == "bytes" else self.given.vocab_size
        torch.set_num_threads(self.runner.threads)
        speeds = paces(settings, vocabulary, ROUNDS)
        ratios = {name: median(each) / median(speeds[first]) for name, each in speeds.items()}
        print({name: f"{median(each):.0f}, {ratios[name]:.3f}" for name, each in speeds.items()}, flush=True)
        return {name: {"tokens_per_second": speeds[name], "over_the_first": ratios[name]} for name in settings}

    def _tokens(self, name: str) -> int:
        """Return the budget of a contender."""
        tokens = parse_count(self.given.tokens) * self.contenders[name].budget
        return round(tokens * self.ledger.told["paces"][name]["over_the_first"] if self.given.equal_time else tokens)

    def _all(self, wanted: list[tuple[str, str, int]]) -> None:
        """Train contenders, each with a rate and a seed."""
        trials = {f"{name} | {rate} | {seed}": (name, rate, seed) for name, rate, seed in wanted}
        recipes = {key: self._recipe(*trial) for key, trial in trials.items()}
        parents = {one.after for one in self.contenders.values()}
        keep = {key for key, (name, _, _) in trials.items() if name in parents}

        def record(key: str, result: TrainingResult) -> dict[str, Any]:
            name, rate, seed = trials[key]
            print(
                f"{key}: {result.validation.bits_per_byte_of_weights:.4f} ({result.test.bits_per_byte_of_weights:.4f})",
                flush=True,
            )
            return {
                "parameters": result.parameters,
                "body_parameters": result.body_parameters,
                "training_tokens": result.tokens,
                "training_seconds": result.seconds,
                "contender": name,
                "rate": rate,
                "seed": seed,
                "validation": result.validation.bits_per_byte_of_weights,
                "test": result.test.bits_per_byte_of_weights,
                "validation_nats_per_token": math.log(result.validation.perplexity_per_token),
            }

        self.ledger.train(self.runner, recipes, record, keep)

    def _recipe(self, name: str, rate: str, seed: int) -> dict[str, Any]:
        """Return the recipe of a contender; one that comes after another starts from its best run, with its tokens."""
        given = self.given
        contender = self.contenders[name]
        data: dict[str, Any] = {"sources": [given.source], "split": given.split}
        run = ""
        if contender.after is None:
            if given.tokenizer:
                data["tokenizer"] = given.tokenizer
            if given.vocab_size:
                data["vocab_size"] = given.vocab_size
        else:
            best = f"{contender.after} | {self.best_rate(contender.after)} | 0"
            run = str(self.runner.run_of(folder_name(best)))
        settings = [*FIXED, f"training.optimizer.learning_rate={rate}", f"training.seed={seed}", *given.set]
        settings += [one.replace("{run}", run) for one in contender.settings]
        return merge({"data": data, "training": {"tokens": self._tokens(name)}}, parse_settings(settings))

    def best_rate(self, name: str) -> str:
        """Return the rate with the best validation figure, seed 0."""
        return str(at_best_rate(self._runs())[name][0]["rate"])

    def table(self) -> str:
        """Return the Markdown table, each contender at its best rate, means over seeds."""
        lines = [
            "| | rate | validation | test | nats a token | parameters | without embeddings | tokens | seconds |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for name, runs in at_best_rate(self._runs()).items():
            of = {key: mean(run[key] for run in runs) for key, value in runs[0].items() if not isinstance(value, str)}
            lines.append(
                f"| {name} | {runs[0]['rate']} | {of['validation']:.4f} | {of['test']:.4f} | "
                f"{of['validation_nats_per_token']:.4f} | {of['parameters']:,.0f} | {of['body_parameters']:,.0f} | "
                f"{of['training_tokens']:,.0f} | {of['training_seconds']:,.0f} |"
            )
        return "\n".join(lines)


if __name__ == "__main__":
    main()
