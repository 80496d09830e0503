"""The demonstration: the whole way from text to numbers, on the Northern Sami corpus that comes with the package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weft.api import evaluate, pack
from weft.evaluation.compressors import COMPRESSORS, Packed
from weft.evaluation.metrics import Metrics
from weft.files import write_atomic
from weft.generation import Sampling, generate
from weft.pretrained import load_model, load_tokenizer
from weft.records import RESULTS
from weft.reports.run.finish import finish_run
from weft.training.listener import Listener
from weft.training.run import TrainingResult, train
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
        print_beside(console, self.packed, title, result.test.bits_per_byte, self.adaptive.bits_per_byte)
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
    values = {"data": {"sources": [CORPUS]}, "training": budget | {"logging": {"validations": 4}}}
    shown: list[Demonstration] = []
    train(
        values,
        out,
        overwrite=overwrite,
        listener=listener,
        finish=lambda result: shown.append(_demonstrate(result, out, listener)),
    )
    return shown[0]


def _demonstrate(result: TrainingResult, out: Path, listener: Listener) -> Demonstration:
    """Compare the run in ``out`` with compressors, let it adapt and write, and leave the figures with its results."""
    listener.message("Compressing with xz and PPMd ...")
    packed = pack(out)
    listener.message("Dynamic evaluation ...")
    adaptive = evaluate(out, adapt=True)
    sample = generate(load_model(out), load_tokenizer(out), [PROMPT], max_new_tokens=100, sampling=Sampling(seed=1))[0]
    told = result.to_json() | {"test_adaptive": adaptive.to_json()} | packed.to_json()
    write_atomic(out / RESULTS, json.dumps(told, indent=2) + "\n")
    report = finish_run(out)
    return Demonstration(result=result, adaptive=adaptive, packed=packed, sample=sample, report=report)
