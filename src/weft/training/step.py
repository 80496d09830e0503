"""One step of training: forwards, backwards, clipping, optimizers. Training and the timing of it call the same one.

Nothing in it waits for a GPU, so that steps can be queued: a step whose loss or gradient is not finite is undone
where it is found, and the host hears of it when it looks.
Shapes: B rows of the batch, T positions of a segment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from weft.data import IGNORED
from weft.language_model import State
from weft.layers.state import tensors
from weft.ops.cpu import optimizer as passes
from weft.training.fused import TakesFactor
from weft.training.learner import Learner
from weft.training.objective import rebuild
from weft.training.optimizer import set_learning_rate
from weft.training.parallel import whole
from weft.training.prefetch import Batch


def train_step(learner: Learner, batches: Iterator[Batch], *, learning_rate: float, done: float) -> Tensor:
    """Take one optimizer step over the next ``accumulation`` segments of ``batches``.

    ``done`` (from 0 to 1) is the part of the budget that is used before it. Return what
    :func:`apply_gradients` does.
    """
    hooks = learner.hooks.values()
    accumulation = learner.config.batch.accumulation
    processes = learner.processes
    set_learning_rate(learner.optimizers, learning_rate)
    for hook in hooks:
        hook.before_step(done)
    if not (learner.module.training and learner.model.training):  # as validation leaves it
        learner.module.train()

    # The gradient is the mean over the segments, and over the processes, whose wrapped module sees to that.
    total = torch.zeros((), device=learner.device)
    for _ in range(accumulation):
        batch = next(batches)
        loss = _segment_loss(learner, batch) / accumulation
        torch.autograd.backward(loss)
        total += loss.detach()
        for hook in hooks:
            hook.after_segment(batch)
    total = processes.summed(total) / processes.count

    for hook in hooks:
        hook.after_backward()
    told = apply_gradients(learner.optimizers, total, learner.config.optimizer.clip)
    clear_if_(told[2], learner.state)  # the state may be what was not finite
    for hook in hooks:
        hook.after_step()
    return told


def _segment_loss(learner: Learner, batch: Batch) -> Tensor:
    """Return the loss of a segment, and let the learner carry the state behind it."""
    with learner.autocast():
        loss, *state = learner.module(*batch, *tensors(learner.state))
    if learner.config.carry_state:
        learner.state = rebuild(learner.empty, state)
    assert isinstance(loss, Tensor)
    processes = learner.processes
    if processes.count == 1:
        return loss
    # Processes have different numbers of targets: weighted so, the mean over them is that of all targets.
    scored = (batch.targets_BT != IGNORED).sum().to(torch.float32)
    share = scored * processes.count / processes.summed(scored).clamp(min=1)
    return loss.mul(share)


def clear_if_(condition: Tensor, state: State) -> None:
    """Empty ``state`` in place if the scalar ``condition`` is not 0, without waiting for a device."""
    if condition.device.type == "cpu" and condition.item() == 0:
        return
    for part in tensors(state):
        part.masked_fill_(condition != 0, 0)


def apply_gradients(optimizers: Sequence[Optimizer], loss: Tensor, clip: float) -> Tensor:
    """Clip the gradients, let the optimizers take a step and drop the gradients.

    Return the loss, the norm of the gradient and whether the step was left out, as one float32 tensor of
    three. It is left out, and nothing changes, where loss or norm is not finite.
    """
    gradients = [parameter.grad for parameter in _changeable(optimizers) if parameter.grad is not None]
    if all(isinstance(optimizer, TakesFactor) for optimizer in optimizers) and passes.fits([loss, *gradients]):
        told = _clip_and_step(optimizers, gradients, loss, clip)
    else:
        norm = whole(nn.utils.clip_grad_norm_(list(_changeable(optimizers)), clip))
        finite = (loss.isfinite() & norm.isfinite()).to(torch.float32)
        told = torch.stack([loss.to(torch.float32), norm.to(torch.float32), 1 - finite])
        # Fused optimizers heed `found_inf` on these devices, and Muon everywhere; elsewhere the host must look at once.
        if loss.device.type in ("cpu", "cuda") or told[2].item() == 0:
            for optimizer in optimizers:
                optimizer.found_inf = told[2]  # type: ignore[attr-defined]
                optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    return told


def _changeable(optimizers: Sequence[Optimizer]) -> Iterator[Tensor]:
    """Go through the parameters that training changes: to walk through the modules for them takes longer."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            yield from group["params"]


def _clip_and_step(optimizers: Sequence[Optimizer], gradients: Sequence[Tensor], loss: Tensor, clip: float) -> Tensor:
    """Let optimizers step on a CPU, where the host may look, with gradients clipped as they read them."""
    norm = passes.norm(gradients)
    finite = math.isfinite(loss.item()) and math.isfinite(norm)
    told = torch.tensor([loss.item(), norm, 1 - finite])
    for optimizer in optimizers:
        assert isinstance(optimizer, TakesFactor)
        optimizer.found_inf = told[2]
        optimizer.factor = min(1.0, clip / (norm + 1e-6)) if finite else 1.0
        optimizer.step()
    return told
