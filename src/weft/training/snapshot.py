"""A trainer's whole state, to a checkpoint and back, so that a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from weft.data import join_states
from weft.errors import UserError
from weft.layers.maps import is_guide
from weft.layers.state import tensors
from weft.pretrained import load_into
from weft.records import METRICS
from weft.training.checkpoint import (
    Checkpoint,
    Tensors,
    discard,
    load_optimizer,
    optimizer_tensors,
    read_checkpoint,
    write_checkpoint,
)
from weft.training.listener import read_metrics
from weft.training.parallel import like, whole
from weft.training.step import rebuild
from weft.training.validation import Sample, older_sample

if TYPE_CHECKING:
    from weft.training.trainer import Trainer

FOLDER = "checkpoints"
_COUNTERS = ("step", "tokens", "seconds", "bad_steps", "best_step")


def save_snapshot(trainer: Trainer) -> None:
    """Write a checkpoint of ``trainer``, unless that of this step stands; the main process writes for all."""
    if trainer.saved_step == trainer.step:
        return
    groups: dict[str, Tensors] = {"model": {name: p.detach() for name, p in trainer.model.named_parameters()}}
    groups |= {f"optimizer-{i}": optimizer_tensors(optimizer) for i, optimizer in enumerate(trainer.optimizers)}
    if trainer.average:
        groups["average"] = trainer.average.average
    # In one order on all processes, which gather each tensor together.
    groups = {name: {key: whole(group[key]) for key in sorted(group)} for name, group in groups.items()}
    lanes, random = zip(*trainer.processes.gather((_lanes(trainer), _random(trainer))), strict=True)
    groups["lanes"] = {key: torch.cat([of_rank[key] for of_rank in lanes]) for key in lanes[0]}
    groups |= {f"random-{rank}": generators for rank, generators in enumerate(random)}
    told = {name: getattr(trainer, name) for name in _COUNTERS} | {
        "best": _finite(trainer.best),
        "validation": _finite(trainer.validation),
        "stream": join_states(trainer.processes.gather(trainer.stream.state)),
        "recent": trainer.recent,
        "sample": trainer.sample,
        "planned_pace": trainer.planned_pace,
        "average_updates": trainer.average.updates if trainer.average else 0,
        "corpus": trainer.prepared.train.identity,
        "processes": trainer.processes.count,
        "lanes": trainer.config.batch.batch_size * trainer.processes.count,
    }
    if trainer.main:
        write_checkpoint(trainer.folder / FOLDER, trainer.step, Checkpoint(told, groups))
    trainer.saved_step = trainer.step
    trainer.processes.wait()


def restore_snapshot(trainer: Trainer) -> list[str]:
    """Take ``trainer`` to the newest whole checkpoint, if any; return what there is to tell of it.

    The number of processes may have changed: the lanes are dealt anew, each with what it remembers. That is the same
    run up to rounding, except that dropout and zoneout draw other numbers.
    """
    found = read_checkpoint(trainer.folder / FOLDER)
    if found is None:
        trainer.wrap()
        return []
    checkpoint, damaged = found
    told = checkpoint.progress
    if told["corpus"] != trainer.prepared.train.identity:
        raise UserError(
            "The texts have changed since this run began (or its tokenizer): restore them, or start again with "
            "--overwrite."
        )
    _deal_lanes(trainer, told["lanes"])
    for name in _COUNTERS:
        setattr(trainer, name, told[name])
    trainer.best = math.inf if told["best"] is None else told["best"]
    trainer.validation = math.nan if told["validation"] is None else told["validation"]
    trainer.recent = [(loss, seconds) for loss, seconds in told["recent"]]
    trainer.sample = _sample(trainer, told)
    trainer.planned_pace = told.get("planned_pace")
    trainer.stream = trainer.open_stream(told["stream"])
    news = [f"The checkpoint {name} is damaged: went back to the one before it." for name in damaged]
    if trainer.main:
        news += trainer.metrics.truncate(trainer.step)
        if trainer.step >= trainer.config.logging.log_every and not read_metrics(trainer.metrics.path).records:
            news.append(f"{METRICS} holds nothing of the steps up to {trainer.step}: it begins there.")
        discard(trainer.folder / FOLDER, damaged)
    trainer.processes.wait()
    _restore_tensors(trainer, checkpoint.groups, told["average_updates"])
    trainer.saved_step = trainer.step
    if told["processes"] != trainer.processes.count:
        news.append(
            f"Saved by {told['processes']} and resumed by {trainer.processes.count}: each process now has "
            f"{trainer.config.batch.batch_size} lanes; the same run up to rounding, not bit for bit."
        )
        return news
    random = checkpoint.groups[f"random-{trainer.processes.rank}"]
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and trainer.device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], trainer.device)
    return news


def _sample(trainer: Trainer, told: dict[str, Any]) -> Sample | None:
    """Return what a run validates on: the choice may not have been made yet, and older versions did not tell it."""
    if "sample" not in told:
        return older_sample(trainer.config)
    return Sample(*told["sample"]) if told["sample"] else None


def _deal_lanes(trainer: Trainer, lanes: int) -> None:
    """Share the lanes of a run among the processes that there are now."""
    if lanes % trainer.processes.count:
        raise UserError(
            f"This run has {lanes} lanes, which {trainer.processes.count} processes cannot share evenly: resume it "
            f"with a number of processes that divides {lanes}."
        )
    trainer.config = trainer.config.replace({"batch.batch_size": lanes // trainer.processes.count})


def _restore_tensors(trainer: Trainer, groups: dict[str, Tensors], average_updates: int) -> None:
    if any(map(is_guide, groups["model"])):
        trainer.guides.begin(trainer.device)
    load_into(trainer.model, groups["model"], trainer.folder / FOLDER)
    trainer.wrap()
    parameters = dict(trainer.model.named_parameters())
    for index, optimizer in enumerate(trainer.optimizers):
        load_optimizer(optimizer, groups[f"optimizer-{index}"])
    if trainer.average:
        trainer.average.average = {name: like(tensor, parameters[name]) for name, tensor in groups["average"].items()}
        trainer.average.updates = average_updates
    first = trainer.processes.rank * trainer.config.batch.batch_size
    mine = slice(first, first + trainer.config.batch.batch_size)
    if lanes := groups["lanes"]:
        trainer.state = rebuild(trainer.empty, [lanes[str(n)][mine].to(trainer.device) for n in range(len(lanes))])


def _lanes(trainer: Trainer) -> Tensors:
    """Return what the lanes of this process remember, lane by lane."""
    state = trainer.state if trainer.config.carry_state else ()
    return {f"{index}": tensor.cpu() for index, tensor in enumerate(tensors(state))}


def _random(trainer: Trainer) -> Tensors:
    """Return the state of this process's random generators."""
    random = {"cpu": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(trainer.device)
    return random


def _finite(value: float) -> float | None:
    """Return ``value`` as JSON can hold it."""
    return value if math.isfinite(value) else None
