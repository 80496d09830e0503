"""The folder that ``weft export`` writes: both programs, the tokenizer, and ``export.json``, which describes them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Any

import torch

from weft.data import Tokenizer
from weft.errors import UserError
from weft.export.check import Check, check_program
from weft.export.programs import OPSET, ProgramName, input_names, output_names, write_program
from weft.export.states import StateLayout
from weft.files import alone_in, disk_errors, sweep, sync_folder, temporary, write_atomic
from weft.model import WeftModel
from weft.pretrained import load_model, load_tokenizer
from weft.version import __version__

FORMAT = 1
DESCRIPTION = "export.json"
PROGRAMS: tuple[ProgramName, ...] = ("step", "sequence")
_FILES = {DESCRIPTION, "tokenizer.json", "tokenizer_config.json"}
_FILES |= {f"{name}.onnx" for name in PROGRAMS}
_FILES |= {f"{name}.onnx.data" for name in PROGRAMS}  # weights that were too large for the file itself


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written where, and how it compared to the model."""

    folder: Path
    checks: tuple[Check, ...]

    @property
    def files(self) -> dict[str, int]:
        """The size of each file, in bytes."""
        return {path.name: path.stat().st_size for path in sorted(self.folder.iterdir())}

    def to_json(self) -> dict[str, Any]:
        """Return what ``weft export --json`` prints."""
        return {"folder": str(self.folder), "files": self.files, "checks": [asdict(check) for check in self.checks]}


def export_folder(run: Path, out: Path, progress: Callable[[str], None]) -> Exported:
    """Export the run to ``out``; see :func:`weft.export.export`."""
    if out.resolve() == Path.cwd():
        raise UserError("The present folder cannot be exchanged for an export: choose a folder inside it.")
    _check_place(out)
    model = load_model(run).requires_grad_(False)
    tokenizer = load_tokenizer(run)
    layout = StateLayout(model)
    checks: list[Check] = []
    with disk_errors(out), alone_in(out, make=True), _aside(out) as folder:
        _check_place(out)  # nobody was quicker
        for name in PROGRAMS:
            path = folder / f"{name}.onnx"
            progress(f"Exporting {path.name}")
            with disk_errors(path):
                write_program(name, model, layout, path)
            progress(f"Checking {path.name}")
            checks += check_program(name, model, layout, path)
        tokenizer.save(folder)
        description = _describe(model, tokenizer, layout, checks)
        write_atomic(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")
    return Exported(folder=out, checks=tuple(checks))


def _check_place(out: Path) -> None:
    """Refuse a place that holds anything but an earlier export."""
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"'{out}' is a file: choose a folder.")
    names = {path.name for path in out.iterdir()}
    foreign = names - _FILES
    if names and (DESCRIPTION not in names or foreign):
        other = min(foreign, default=min(names))
        raise UserError(f"'{out}' holds something else than an export ('{other}'): choose another folder.")


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """Give a new folder that takes the place of ``out`` when all went well, and is removed otherwise."""
    new = temporary(out)
    old = temporary(out.with_name(f"{out.name}.before"))
    sweep(out.parent, escape(out.name))  # what an export left that was killed
    try:
        new.mkdir(parents=True)
        yield new
        # Contents before names: after a power cut, a folder under its final name must not hold empty files.
        for path in new.iterdir():
            _sync(path)
        sync_folder(new)
        if out.exists():  # a folder cannot take the place of another that is not empty
            out.rename(old)
        new.rename(out)
        sync_folder(out.parent)
        sweep(out.parent, escape(f"{out.name}.before"))  # of a process that was killed between the renames
    finally:
        if old.exists() and not out.exists():  # stopped between the two renames
            old.rename(out)
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Flush a file that another library wrote to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _describe(model: WeftModel, tokenizer: Tokenizer, layout: StateLayout, checks: list[Check]) -> dict[str, Any]:
    """Return the content of ``export.json``."""
    config = model.config
    differences = dict.fromkeys(PROGRAMS, 0.0)
    for check in checks:
        differences[check.program] = max(differences[check.program], check.largest_difference)
    return {
        "weft_export": FORMAT,
        "weft_version": __version__,
        "onnx_opset": OPSET,
        "pattern": config.pattern,
        "vocab_size": config.vocab_size,
        "window": model.window,
        "boundary_id": tokenizer.boundary_id,
        "padding_id": tokenizer.padding_id,
        "programs": {
            name: {
                "file": f"{name}.onnx",
                "inputs": input_names(name, layout),
                "outputs": output_names(layout),
                "largest_difference": differences[name],
            }
            for name in PROGRAMS
        },
        # `initial` is the value of every element at the start of a text.
        "state": [
            {
                "input": f"state.{tensor.name}",
                "output": f"next_state.{tensor.name}",
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": ["batch", *tensor.shape],
                "initial": False if tensor.dtype == torch.bool else 0.0,
            }
            for tensor in layout.tensors
        ],
    }
