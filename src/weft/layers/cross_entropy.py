"""Cross-entropy over a large vocabulary in chunks, so that the logits of a batch never stand in memory whole.

Shapes: N tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from weft.layers.copies import bf16_copy
from weft.ops import cpu

IGNORE = -100
CHUNK_ELEMENTS = 1 << 22  # logits held at once: 16 MB in float32
FEWEST_ROWS = 128  # of a chunk, whatever the vocabulary: each chunk reads the whole weight


def cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, count: Tensor | None = None
) -> Tensor:
    """Return the mean nats of ``targets_N`` under softmax(h W^T + b); negative targets do not count (all: zero).

    The gradient is made in the forward pass, chunk by chunk, so nothing is computed twice. ``count`` (a
    scalar) replaces the number of targets that the sum is divided by, where these are a part of a larger
    batch. Products are in the precision of ``hidden_ND``, under autocast in the lower one; sums over chunks
    are in each tensor's own.
    """
    if count is None:
        count = count_targets(targets_N)
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device):  # said here, as a compiled graph runs outside autocast
        hidden_ND = hidden_ND.to(torch.get_autocast_dtype(device))
    parts = (hidden_ND, weight_VD, bias_V)
    gradient = torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in parts)
    if cpu.usable(hidden_ND) and cpu.usable(weight_VD):
        return cast("Tensor", _OnCPU.apply(*parts, targets_N, count, gradient))  # type: ignore[no-untyped-call]
    loss: Tensor = torch.ops.weft.cross_entropy(*parts, targets_N, count, gradient)[0]
    return loss


def count_targets(targets_N: Tensor) -> Tensor:
    """Return how many targets are scored, at least 1, as a scalar tensor."""
    return (targets_N >= 0).sum().clamp(min=1)


@torch.no_grad()
def surprisal(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> Tensor:
    """Return each target's nats (N,), zero where the target is -100; no gradient."""
    pieces = []
    for rows in _chunks(hidden_ND.shape[0], weight_VD.shape[0]):
        logits = _logits(hidden_ND[rows], weight_VD, bias_V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nats_N = functional.cross_entropy(logits, targets_N[rows], ignore_index=IGNORE, reduction="none")
        pieces.append(nats_N)
    return torch.cat(pieces) if pieces else hidden_ND.new_zeros(0)


def _logits(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    return functional.linear(hidden_ND, weight_VD, bias_V)


def _chunks(count: int, vocabulary: int) -> list[slice]:
    rows = max(FEWEST_ROWS, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _loss_and_gradients(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, count: Tensor, gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss and, with ``gradient``, its gradients (else empty tensors)."""
    # An operator returns tensors, so what is not asked for is an empty one.
    grad_hidden = hidden_ND.new_empty(0)
    grad_weight = weight_VD.new_empty(0)
    grad_bias = weight_VD.new_empty(0)
    if gradient:
        grad_hidden = torch.empty_like(hidden_ND)
        if bias_V is not None:
            grad_bias = torch.zeros_like(bias_V)
    total = torch.zeros((), dtype=_loss_dtype(hidden_ND), device=hidden_ND.device)
    weight = _as_precise(weight_VD, hidden_ND)
    bias = None if bias_V is None else bias_V.to(hidden_ND.dtype)
    chunks = _chunks(hidden_ND.shape[0], weight_VD.shape[0])
    if gradient and not chunks:
        grad_weight = torch.zeros_like(weight_VD)
    for rows in chunks:
        hidden = hidden_ND[rows]
        logits = _logits(hidden, weight, bias)
        nats, grad_logits = _nats_and_gradient(logits, targets_N[rows], 1 / count, gradient)
        total += nats
        if not gradient:
            continue
        # With G the gradient of this chunk's logits: dh = G W, dW += G^T h, db += the sum over tokens of G.
        grad_logits = grad_logits.to(hidden.dtype)
        torch.mm(grad_logits, weight, out=grad_hidden[rows])
        of_chunk = grad_logits.t() @ hidden
        if rows.start == 0:
            grad_weight = of_chunk.to(weight_VD.dtype)
        else:
            grad_weight += of_chunk
        if bias_V is not None:
            grad_bias += grad_logits.sum(0)
    return total / count, grad_hidden, grad_weight, grad_bias


def _as_precise(weight_VD: Tensor, hidden_ND: Tensor) -> Tensor:
    """Return the weight in the precision of the hidden states: for bfloat16 on a CPU the copy that may be there."""
    if hidden_ND.dtype == torch.bfloat16 and weight_VD.dtype == torch.float32 and cpu.usable(weight_VD):
        return bf16_copy(weight_VD)
    return weight_VD.to(hidden_ND.dtype)


class _OnCPU(torch.autograd.Function):
    """The loss without the registry of operators, for whom nobody compiles."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        count: Tensor,
        gradient: bool,
    ) -> Tensor:
        loss, *grads = _loss_and_gradients(hidden_ND, weight_VD, bias_V, targets_N, count, gradient)
        ctx.has_bias = bias_V is not None
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        return _returned(ctx, None if grad_loss.item() == 1 else grad_loss)  # nobody waits for a CPU


@torch.library.custom_op("weft::cross_entropy", mutates_args=())
def _forward(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, count: Tensor, gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Be an operator, so that a compiled graph does not hold the chunks, whose number changes with the length."""
    return _loss_and_gradients(hidden_ND, weight_VD, bias_V, targets_N, count, gradient)


@_forward.register_fake
def _(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, count: Tensor, gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    del targets_N, count
    loss = hidden_ND.new_empty((), dtype=_loss_dtype(hidden_ND))
    if not gradient:
        return loss, hidden_ND.new_empty(0), weight_VD.new_empty(0), weight_VD.new_empty(0)
    grad_bias = weight_VD.new_empty(0) if bias_V is None else torch.empty_like(bias_V)
    return loss, torch.empty_like(hidden_ND), torch.empty_like(weight_VD), grad_bias


def _loss_dtype(hidden_ND: Tensor) -> torch.dtype:
    return torch.promote_types(hidden_ND.dtype, torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.has_bias = inputs[2] is not None
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _autograd(ctx: Any, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return _returned(ctx, grad_loss)


def _returned(ctx: Any, grad_loss: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return what comes back to each argument: the gradients that were made going forward, times that of the loss."""
    grads: list[Tensor | None] = list(ctx.saved_tensors)
    if grad_loss is not None:
        grads = [grad * grad_loss.to(grad.dtype) for grad in ctx.saved_tensors]
    if not ctx.has_bias:
        grads[2] = None
    return (*grads, None, None, None)  # of hidden states, weight and bias; targets, count and gradient have none


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _nats_and_gradient(logits: Tensor, targets_N: Tensor, share: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
    """Return the sum of the targets' nats, and ``share`` times its gradient if asked for, in the place of the logits.

    A row takes three passes in the CPU's own cache, where plain torch makes six through memory.
    """
    if logits.dtype in cpu.DTYPES and cpu.usable(logits) and targets_N.device == logits.device:
        nats_N = cpu.softmax_loss(logits, targets_N, share.to(torch.float32), gradient=gradient)
        return nats_N.sum(), logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_total = logits.logsumexp(dim=-1, keepdim=True)
    scored = (targets_N >= 0)[:, None]
    index = targets_N.clamp(min=0)[:, None]
    nats = ((log_total - logits.gather(1, index)) * scored).sum()
    if gradient:
        weights = (scored * share).to(logits.dtype)
        logits = logits.sub_(log_total).exp_().mul_(weights).scatter_add_(1, index, -weights)
    return nats, logits
