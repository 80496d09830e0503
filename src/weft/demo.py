"""The demonstration: the whole way from text to numbers, on the Northern Sami corpus that comes with the package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.api import train
from weft.evaluation.compressors import COMPRESSORS, Packed
from weft.evaluation.metrics import Metrics
from weft.files import write_atomic
from weft.generation import Sampling
from weft.run import Run
from weft.training.listener import Listener
from weft.training.result import TrainingResult
from weft.words import valid_text

if TYPE_CHECKING:
    from rich.console import Console

CORPUS = "weft:sewiki"
PROMPT = "Ruoŧŧa"
TOKENS = 1_300_000  # twice through the text, so that a slow machine shows the same figures later


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """What the demo has to show."""

    result: TrainingResult
    adaptive: Metrics
    packed: Packed
    sample: str
    report: Path

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        told = self.result.to_json() | {"test_adaptive": self.adaptive.to_json()} | self.packed.to_json()
        return told | {"sample": self.sample, "report": str(self.report)}

    def print(self, console: Console) -> None:
        """Print the table that ends the demo."""
        from weft.terminal import print_beside

        result = self.result
        title = "Northern Sami Wikipedia, test text"
        print_beside(console, self.packed, title, result.test, self.adaptive)
        console.print(
            f"{result.parameters:,} parameters ({result.body_parameters:,} without embeddings), trained for "
            f"{result.seconds / 60:.1f} minutes at {result.tokens_per_second:,.0f} tokens per second",
            highlight=False,
        )
        console.print(f"\nA sample, from the prompt '{PROMPT}':\n", highlight=False)
        console.print(PROMPT + valid_text(self.sample), markup=False, highlight=False)
        console.print(f"\nThe report: {self.report}", highlight=False, soft_wrap=True)


def run_demo(out: Path, minutes: float | None, overwrite: bool, listener: Listener) -> Demonstration:
    """Train with the default recipe, score frozen and adaptively, compress beside, write the report."""
    for compressor in COMPRESSORS.values():
        compressor(b"a missing compressor should be told of before the training, not after it")
    budget = {"minutes": minutes} if minutes else {"tokens": TOKENS}
    settings = {"training": budget | {"logging": {"validations": 4}}}
    shown: list[Demonstration] = []

    def demonstrate(run: Run) -> None:
        """Compare the run with compressors, let it adapt and write, and leave the figures with its results."""
        result = run.results
        listener.message("Compressing with xz and PPMd ...")
        packed = run.pack()
        listener.message("Dynamic evaluation ...")
        adaptive = run.evaluate(adapt=True)
        sample = run.generate(PROMPT, max_new_tokens=100, sampling=Sampling(seed=1))
        told = result.to_json() | {"test_adaptive": adaptive.to_json()} | packed.to_json()
        write_atomic(run.results_file, json.dumps(told, indent=2) + "\n")
        shown.append(
            Demonstration(result=result, adaptive=adaptive, packed=packed, sample=sample, report=run.report),
        )

    train(CORPUS, out=out, settings=settings, overwrite=overwrite, listener=listener, finish=demonstrate)
    return shown[0]
