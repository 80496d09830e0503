"""The rows of the table: each a function ``measure(sheet)`` in a module of its own, registered here by name."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from benchmarks.harness import Sheet


class Row(NamedTuple):
    """A row's module (under ``benchmarks.rows``), its title, and whether a GPU has one, too."""

    module: str
    title: str
    on_gpu: bool = True


ROWS: dict[str, Row] = {
    "recurrence": Row("recurrence", "Recurrence alone, against a plain copy of the same bytes"),
    "block": Row("block", "QRNN block forward and backward, over its own matrix products alone"),
    "scans": Row("scans", "Recurrence forward and backward, against other scans"),
    "loss": Row("loss", "Softmax and loss forward and backward, over its own matrix products alone", on_gpu=False),
    "step": Row("step", "The default step of weft train, 8 x 128 tokens", on_gpu=False),
    "train": Row("training", "Training step, against peers of as many parameters"),
    "decode": Row("decoding", "Writing one stream, greedy, 10M parameters"),
    "memory": Row("memory", "Peak memory of a training step, over that of peers"),
    "context": Row("context", "Time per token at 1k to 64k of context, fixed memory"),
    "help": Row("command", "weft --help, over importing typer and rich", on_gpu=False),
    "startup": Row("startup", "First calls of the kernels (for information)"),
}


def rows_of(device: str) -> list[str]:
    """Return the names of the rows that a device has."""
    return [name for name, row in ROWS.items() if row.on_gpu or device == "cpu"]


def measure(name: str, sheet: Sheet) -> None:
    """Measure the row ``name`` onto ``sheet``."""
    import_module(f"benchmarks.rows.{ROWS[name].module}").measure(sheet)
