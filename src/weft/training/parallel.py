"""Several processes, as ``torchrun`` or ``accelerate launch`` started them: one model, each its own lanes of text.

Data-parallel (DDP), where every process holds the model; or sharded (FSDP2, Zhao et al. 2023, arXiv 2304.11277), where
each holds a part of every tensor, asked for with an FSDP configuration of ``accelerate launch``. On a machine without
accelerators the processes talk through gloo.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from weft.launch import launched


class Processes:
    """What the processes of one run do together; with a single one, nothing."""

    def __init__(self) -> None:
        from accelerate import Accelerator

        # Precision and accumulation are the recipe's, whatever accelerate's configuration says.
        alone = launched() == 1 or torch.accelerator.is_available()
        self.accelerator = Accelerator(cpu=not alone, mixed_precision="no")
        self.rank, self.count = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        self.sharded = self.count > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"

    def wrap(self, step: nn.Module, blocks: nn.ModuleList) -> nn.Module:
        """Put ``step`` on the device and let its gradients be the mean of all processes'; ``blocks`` are its parts.

        A sharded module is changed in place. Its method ``surprisal`` gathers the shards as ``forward`` does.
        """
        if not self.sharded:
            return self.accelerator.prepare(step)  # type: ignore[no-any-return]
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        # Attention's state is a view of its keys; nobody works in place on a state, of which FSDP warns.
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
        step.to(self.device)
        mesh = init_device_mesh(self.device.type, (self.count,))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(step, mesh=mesh, reshard_after_forward=True)  # also after scoring, which no backward follows
        register_fsdp_forward_method(step, "surprisal")
        return step

    def total(self, *values: float) -> list[float]:
        """Return the sum of each value over the processes."""
        return self._reduced("SUM", values)

    def most(self, *values: float) -> list[float]:
        """Return the largest of each value over the processes."""
        return self._reduced("MAX", values)

    def _reduced(self, how: str, values: tuple[float, ...]) -> list[float]:
        if self.count == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float32 if self.device.type == "mps" else torch.float64)
        told = told.to(self.device)
        torch.distributed.all_reduce(told, getattr(torch.distributed.ReduceOp, how))
        return [float(value) for value in told]

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def of_main(self, value: Any) -> Any:
        """Return the main process's value."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Wait until every process is here."""
        self.accelerator.wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process go first, so that the others find what it left (in a cache, say)."""
        with self.accelerator.main_process_first():
            yield


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor of which this process may hold only a shard. Every process must call it."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return ``tensor`` (whole) on the device of ``model`` and sharded as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    moved = tensor.to(model.device)
    if not isinstance(model, DTensor) or tensor.shape != model.shape:
        return moved
    return distribute_tensor(moved, model.device_mesh, model.placements, src_data_rank=None)  # all ranks have it
