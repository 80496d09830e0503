"""Checkpoints: everything needed to go on as if nothing had happened, written whole or not at all.

What is in one is :meth:`weft.training.trainer.Trainer.state_dict`. A checkpoint is a folder of safetensors
and JSON with a manifest of SHA-256 sums, written aside, flushed and renamed. The last two are kept; a damaged
one is skipped for the one before. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.optim import Optimizer

from weft.errors import UserError
from weft.files import disk_errors, json_object, sweep, sync_folder, temporary
from weft.layers.maps import is_guide
from weft.training.parallel import like

KEPT = 2
MANIFEST = "manifest.json"
FORMAT = 2
Tensors = dict[str, Tensor]


@dataclass
class Checkpoint:
    """Named groups of tensors (one file each) and plain data."""

    progress: dict[str, Any]
    groups: dict[str, Tensors] = field(default_factory=dict)


def write_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write ``checkpoint`` under ``folder`` and drop all but the last two; return its path."""
    final = folder / f"step-{step:08d}"
    aside = temporary(final)
    before = temporary(folder / f"{final.name}.before")
    with disk_errors(final):
        try:
            _write(aside, checkpoint)
            if final.exists():  # a folder cannot be renamed over another
                final.rename(before)
            aside.rename(final)
            sync_folder(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(before, ignore_errors=True)
    for old in _all(folder)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    if folder.exists():  # of a process that was killed, whose number this one has
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    files = {f"{name}.safetensors": _bytes(tensors) for name, tensors in checkpoint.groups.items()}
    files["progress.json"] = json.dumps({"format": FORMAT} | checkpoint.progress, indent=1).encode()
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[MANIFEST] = json.dumps(sums, indent=1).encode()

    # On the disk before the folder gets its name: a machine that loses power leaves a whole checkpoint or none.
    for name, data in files.items():
        with (folder / name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def _bytes(tensors: Tensors) -> bytes:
    """Return the file of ``tensors``. They are copied: safetensors refuses those that share memory."""
    return save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})


def read_checkpoint(folder: Path) -> tuple[Checkpoint, list[str]] | None:
    """Return the newest whole checkpoint under ``folder`` and the names of newer damaged ones.

    None where there is no checkpoint at all; UserError where all are damaged.
    """
    damaged: list[str] = []
    for path in reversed(_all(folder)):
        checkpoint = _read(path)
        if checkpoint is not None:
            return checkpoint, damaged
        damaged.append(path.name)
    if damaged:
        raise UserError(
            f"Every checkpoint in '{folder}' is damaged ({', '.join(damaged)}): start again with overwrite=True."
        )
    return None


def _read(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in ``folder``, None where anything in it is not as it was written."""
    try:
        sums = json_object((folder / MANIFEST).read_bytes()) or {}
        files = {name: (folder / name).read_bytes() for name in sums}
        for name, data in files.items():
            if hashlib.sha256(data).hexdigest() != sums[name]:
                return None
        progress = json.loads(files.pop("progress.json"))
        groups = {name.removesuffix(".safetensors"): load(data) for name, data in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if progress.get("format") == 1:
        return _upgraded(Checkpoint(progress, groups))
    if progress.get("format") != FORMAT:
        raise UserError(
            f"'{folder}' was written by another version of Weft: resume with that one, or start again "
            "with overwrite=True."
        )
    return Checkpoint(progress, groups)


def _upgraded(older: Checkpoint) -> Checkpoint:
    """Return a checkpoint of format 1 (Weft 0.1.0) in the present one: it had two methods, each in its own way."""
    methods: dict[str, Any] = {"guides": {"active": any(map(is_guide, older.groups["model"]))}}
    groups = dict(older.groups)
    if "average" in groups:
        groups["method-average"] = groups.pop("average")
        methods["average"] = {"updates": older.progress["average_updates"]}
    return Checkpoint({**older.progress, "methods": methods}, groups)


def discard(folder: Path, names: list[str]) -> None:
    """Remove damaged checkpoints, so that they do not count among those that are kept."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)


def has_checkpoint(folder: Path) -> bool:
    """Return whether a checkpoint was ever written under ``folder``."""
    return bool(_all(folder))


def sweep_checkpoints(folder: Path) -> None:
    """Remove what killed processes left half written under ``folder``."""
    sweep(folder, "step-*")


def _all(folder: Path) -> list[Path]:
    """Return the checkpoints under ``folder``, oldest first."""
    return sorted(folder.glob("step-*"))


def optimizer_tensors(optimizer: Optimizer) -> Tensors:
    """Return an optimizer's state as named tensors."""
    named: Tensors = {}
    for index, values in optimizer.state_dict()["state"].items():  # by the parameter's place in its groups
        for name, value in values.items():
            named[f"{index}.{name}"] = value if isinstance(value, Tensor) else torch.tensor(value)
    return named


def load_optimizer(optimizer: Optimizer, tensors: Tensors) -> None:
    """Give an optimizer back the state that :func:`optimizer_tensors` returned, whole even where it had shards."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if value.dim() > 0:  # else a count of steps, which has no shards and stays where it is
            value = like(value, parameters[int(index)])
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
