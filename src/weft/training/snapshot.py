"""A trainer's whole state, to a checkpoint and back, so that a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from weft.data import PreparedData, StreamState
from weft.errors import UserError
from weft.folder import load_into
from weft.layers.state import map_state, tensors
from weft.model import ModelState
from weft.training.checkpoint import (
    Checkpoint,
    Tensors,
    discard,
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)

if TYPE_CHECKING:
    from weft.training.loop import Trainer

FOLDER = "checkpoints"
_COUNTERS = ("step", "tokens", "seconds", "bad_steps", "best_step")


def save_snapshot(trainer: Trainer) -> None:
    """Write a checkpoint of ``trainer``; with several processes, the main one writes for all."""
    from accelerate.utils import gather_object

    groups: dict[str, Tensors] = {"model": {name: p.detach() for name, p in trainer.model.named_parameters()}}
    groups |= {f"optimizer-{i}": optimizer_tensors(optimizer) for i, optimizer in enumerate(trainer.optimizers)}
    if trainer.average:
        groups["average"] = trainer.average.average
    local = _local_tensors(trainer)
    for rank, of_rank in enumerate(gather_object([local]) if trainer.accelerator.num_processes > 1 else [local]):
        groups |= {f"{name}-{rank}": part for name, part in of_rank.items()}
    told = {name: getattr(trainer, name) for name in _COUNTERS} | {
        "best": _finite(trainer.best),
        "validation": _finite(trainer.validation),
        "stream": list(trainer.stream.state),
        "recent": trainer.recent,
        "average_updates": trainer.average.updates if trainer.average else 0,
        "corpus": corpus_key(trainer.prepared),
        "processes": trainer.accelerator.num_processes,
    }
    if trainer.main:
        write_checkpoint(trainer.folder / FOLDER, trainer.step, Checkpoint(told, groups))
    trainer.accelerator.wait_for_everyone()


def restore_snapshot(trainer: Trainer) -> list[str]:
    """Take ``trainer`` to the newest whole checkpoint, if any; return the damaged ones passed over."""
    found = read_checkpoint(trainer.folder / FOLDER)
    if found is None:
        if trainer.main:
            trainer.metrics.truncate(0)
        return []
    checkpoint, damaged = found
    told = checkpoint.progress
    if told["corpus"] != corpus_key(trainer.prepared):
        raise UserError("The texts have changed since this run began: restore them, or start again with --overwrite.")
    if told["processes"] != trainer.accelerator.num_processes:
        raise UserError(f"This run was saved by {told['processes']} process(es): resume it with as many.")
    for name in _COUNTERS:
        setattr(trainer, name, told[name])
    trainer.best = math.inf if told["best"] is None else told["best"]
    trainer.validation = math.nan if told["validation"] is None else told["validation"]
    trainer.recent = [(loss, seconds) for loss, seconds in told["recent"]]
    trainer.stream = trainer.open_stream(StreamState(*told["stream"]))
    if trainer.main:
        trainer.metrics.truncate(trainer.step)
        discard(trainer.folder / FOLDER, damaged)
    trainer.accelerator.wait_for_everyone()
    _restore_tensors(trainer, checkpoint.groups, told["average_updates"])
    return damaged


def _restore_tensors(trainer: Trainer, groups: dict[str, Tensors], average_updates: int) -> None:
    rank = trainer.accelerator.process_index
    load_into(trainer.model, groups["model"], trainer.folder / FOLDER)
    trainer.wrap()
    for index, optimizer in enumerate(trainer.optimizers):
        load_optimizer(optimizer, groups[f"optimizer-{index}"])
    if trainer.average:
        trainer.average.average = {name: tensor.to(trainer.device) for name, tensor in groups["average"].items()}
        trainer.average.updates = average_updates
    trainer.state = _unflatten(trainer, groups[f"lanes-{rank}"])
    torch.set_rng_state(groups[f"random-{rank}"]["cpu"])
    if "cuda" in groups[f"random-{rank}"]:
        torch.cuda.set_rng_state(groups[f"random-{rank}"]["cuda"], trainer.device)


def _local_tensors(trainer: Trainer) -> dict[str, Tensors]:
    """Return what belongs to this process alone: the carried state of its lanes and its random generators."""
    lanes = {f"{index}": tensor.cpu() for index, tensor in enumerate(tensors(trainer.state or ()))}
    random = {"cpu": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(trainer.device)
    return {"lanes": lanes, "random": random}


def _unflatten(trainer: Trainer, saved: Tensors) -> ModelState | None:
    """Give saved tensors the structure of the model's state."""
    if not saved:
        return None
    with torch.no_grad():
        _, template = trainer.model.hidden(torch.zeros(1, 1, dtype=torch.long, device=trainer.device))
    leaves = iter([saved[str(index)] for index in range(len(saved))])

    def next_leaf(_: Tensor) -> Tensor:
        return next(leaves).to(trainer.device)

    return map_state(next_leaf, template)


def corpus_key(prepared: PreparedData) -> list[int]:
    """Return numbers that tell one tokenized training text from another."""
    train = prepared.train
    return [len(train.tokens), train.documents, zlib.crc32(np.ascontiguousarray(train.tokens).data)]


def _finite(value: float) -> float | None:
    """Return ``value`` as JSON can hold it."""
    return value if math.isfinite(value) else None
