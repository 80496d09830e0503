"""Several processes, as ``torchrun`` or ``accelerate launch`` started them: one model, each its own rows of the batch.

Data-parallel (DDP), where every process holds the model; or sharded (FSDP2, Zhao et al. 2023, arXiv
2304.11277), where each holds a part of every tensor, asked for with an FSDP configuration of ``accelerate
launch``. On a machine without accelerators the processes talk through gloo.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from weft.launch import launched

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.placement_types import Placement


class Processes:
    """What the processes of one run do together; with a single one, nothing."""

    def __init__(self) -> None:
        from accelerate import Accelerator
        from accelerate.state import is_initialized

        # Precision and accumulation are the recipe's, whatever accelerate's configuration says. Where another trainer
        # of this Python process has settled the precision, accelerate refuses to hear of it again.
        mixed_precision = None if is_initialized() else "no"
        on_cpu = launched() > 1 and not torch.accelerator.is_available()  # else accelerate looks for what is there
        self.accelerator = Accelerator(cpu=on_cpu, mixed_precision=mixed_precision)
        self.rank = self.accelerator.process_index
        self.count = self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        self.sharded = self.count > 1 and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"

    def alone(self) -> Processes:
        """Return this process as if it were the only one, on its device."""
        one = copy.copy(self)
        one.rank = 0
        one.count = 1
        one.main = True
        one.sharded = False
        return one

    def wrap(self, step: nn.Module, blocks: nn.ModuleList) -> nn.Module:
        """Put ``step`` on the device and let its gradients be the mean of all processes'; ``blocks`` are its parts.

        A sharded module is changed in place. Its method ``surprisal`` gathers the shards as ``forward`` does.
        """
        if self.count == 1:
            return step.to(self.device)
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

    def summed(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over the processes, on the device; the host does not wait for it."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    def most(self, *values: float) -> list[float]:
        """Return the largest of each value over the processes."""
        if self.count == 1:
            return list(values)
        dtype = torch.float32 if self.device.type == "mps" else torch.float64  # which MPS has not
        told = torch.tensor(values, dtype=dtype).to(self.device)
        torch.distributed.all_reduce(told, torch.distributed.ReduceOp.MAX)
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


def is_shard(tensor: Tensor) -> TypeGuard[DTensor]:
    """Return whether this process may hold only a part of a tensor."""
    if type(tensor) in (Tensor, nn.Parameter):  # without an import that takes seconds
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor of which this process may hold only a shard. Every process must call it."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return ``tensor`` (whole) on the device of ``model`` and sharded as it is."""
    moved = tensor.to(model.device)
    if not is_shard(model) or tensor.shape != model.shape:
        return moved
    return _distributed(moved, model, model.placements)


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds: all of it where there are no shards."""
    return tensor.to_local() if is_shard(tensor) else tensor


def shard_like(part: Tensor, model: Tensor) -> Tensor:
    """Return this process's ``part`` of a tensor that is sharded as ``model`` is; they share storage."""
    if not is_shard(model):
        return part
    return _joined(part, model, model.placements, model.shape, model.stride())


def join_shards(parts_N: Tensor, model: Tensor) -> Tensor:
    """Return N whole tensors, given this process's parts of them, each sharded as ``model`` is. All must call it."""
    if not is_shard(model):
        return parts_N
    shape = (len(parts_N), *model.shape)
    stride = (model.numel(), *model.stride())
    return _joined(parts_N, model, _behind(model), shape, stride).full_tensor()


def own_shard(whole_N: Tensor, model: Tensor) -> Tensor:
    """Return this process's parts of N whole tensors, each to be sharded as ``model`` is."""
    if not is_shard(model):
        return whole_N
    return _distributed(whole_N, model, _behind(model)).to_local()


def _distributed(whole: Tensor, model: DTensor, placements: Sequence[Placement]) -> DTensor:
    """Return ``whole``, which every process has, in shards on the processes of ``model``; each keeps its own."""
    from torch.distributed.tensor import distribute_tensor

    # None: nothing is sent, as all ranks have it.
    return distribute_tensor(whole, model.device_mesh, placements, src_data_rank=None)


def _joined(
    part: Tensor, model: DTensor, placements: Sequence[Placement], shape: tuple[int, ...], stride: tuple[int, ...]
) -> DTensor:
    """Return the tensor of ``shape`` and ``stride`` of which every process holds a ``part``, on those of ``model``."""
    from torch.distributed.tensor import DTensor

    mesh = model.device_mesh
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


def _behind(model: DTensor) -> list[Placement]:
    """Return the placements of what is sharded as ``model`` is, but stands behind one more dimension."""
    from torch.distributed.tensor import Shard

    placements: list[Placement] = []
    for place in model.placements:
        placements.append(Shard(place.dim + 1) if isinstance(place, Shard) else place)
    return placements
