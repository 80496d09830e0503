"""How far the losses of one seed come apart: between two revisions, and by the order of summation alone.

    python -m benchmarks.rounding --against REVISION
    python -m benchmarks.rounding --text FILE --size 10M --steps 100

The default step of ``weft train`` reads the same batches from the same seed, each time in a process of its own: as it
is; with the rows of each batch in the opposite order, on one thread, and with the other width of vectors
(``WEFT_VECTOR``), all of which only change the order in which numbers are added up; and at another revision. The table
has the difference of the losses by that of the first, for each step, and the largest of all steps at its end. A change
that only rounds otherwise stays within what these orders do.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import machine
from benchmarks.default_step import Batches
from benchmarks.revisions import NoRevisionError, StepProcess, checked_out

DOCUMENT = 512  # tokens, on average, from one reset to the next


class Way(NamedTuple):
    """One way to compute the losses."""

    name: str
    tree: Path
    threads: int
    batches: Batches
    environment: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the losses in each way, print how far they are apart, and write them where that is asked for."""
    given = _parser().parse_args(arguments)
    batches = batches_of(_text(given.text), steps=given.steps, batch=given.batch, context=given.context)
    found: dict[str, dict[str, list[float]]] = {}
    with ExitStack() as stack:
        ways = orders(batches, given.threads)
        if given.against:
            try:
                tree = stack.enter_context(checked_out(given.against))
            except NoRevisionError as error:
                print(error, file=sys.stderr)
                return 2
            ways.append(Way(given.against, tree, given.threads, batches, {}))
        for precision in given.precision.split(","):
            settings = {"size": given.size, "vocab_size": given.vocabulary, "precision": precision}
            found[precision] = {way.name: losses(way, settings, given.steps) for way in ways}
            _print(precision, found[precision])
    if given.out:
        record = {"command": machine.command("benchmarks.rounding"), "machine": machine.describe("cpu")}
        given.out.write_text(json.dumps(record | {"losses": found}, indent=1) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="", help="a revision whose losses are compared, too")
    parser.add_argument("--size", default="2M")
    parser.add_argument("--precision", default="bf16,fp32", help="with commas between")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--text", type=Path, help="whose bytes are the tokens (the bundled corpus)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--out", type=Path, help="a file for all losses, as JSON")
    return parser


def _text(path: Path | None) -> bytes:
    if path is None:
        return lzma.decompress((files("weft") / "corpora" / "sewiki.txt.xz").read_bytes())
    return path.read_bytes()


def batches_of(text: bytes, *, steps: int, batch: int, context: int) -> Batches:
    """Return consecutive segments (B, T) of ``batch`` parts of a text, whose bytes are the tokens, for each step.

    A text that is too short is read again. Resets are random.
    """
    needed = batch * (steps * context + 1)
    text = text * (-(-needed // len(text)))
    tokens_BL = torch.tensor(list(text[:needed])).view(batch, -1)
    generator = torch.Generator().manual_seed(0)
    batches = []
    for start in range(0, steps * context, context):
        tokens_BT = tokens_BL[:, start : start + context].contiguous()
        targets_BT = tokens_BL[:, start + 1 : start + context + 1].contiguous()
        reset_BT = torch.rand(batch, context, generator=generator) < 1 / DOCUMENT
        batches.append((tokens_BT, targets_BT, reset_BT))
    return batches


def orders(batches: Batches, threads: int) -> list[Way]:
    """Return the ways to compute the losses at this revision, the one that others are compared with first."""
    from weft.ops.cpu.constants import VECTOR

    here = machine.ROOT
    reversed_rows = [(tokens.flip(0), targets.flip(0), reset.flip(0)) for tokens, targets, reset in batches]
    other_width = 8 if VECTOR == 16 else 16
    return [
        Way("as it is", here, threads, batches, {}),
        Way("rows reversed", here, threads, reversed_rows, {}),
        Way("1 thread" if threads > 1 else "2 threads", here, 1 if threads > 1 else 2, batches, {}),
        Way(f"WEFT_VECTOR={other_width}", here, threads, batches, {"WEFT_VECTOR": str(other_width)}),
    ]


def losses(way: Way, settings: dict[str, Any], steps: int) -> list[float]:
    """Return the loss of each step, in nats."""
    with StepProcess(way.tree, way.batches, settings, threads=way.threads, environment=way.environment) as process:
        return process.take(steps)["losses"]


def differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Return by how much losses differ, by those of ``first``."""
    return [abs(other - one) / abs(one) for one, other in zip(first, second, strict=True)]


def _print(precision: str, found: dict[str, list[float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    (_, first), *others = found.items()
    apart = {name: differences(first, other) for name, other in others}
    table = Table("step", "nats", *apart, title=f"{precision}: difference from the loss as it is", title_justify="left")
    for step, nats in enumerate(first):
        table.add_row(str(step + 1), f"{nats:.5f}", *(f"{values[step]:.1e}" for values in apart.values()))
    table.add_section()
    table.add_row("largest", "", *(f"{max(values):.1e}" for values in apart.values()))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
