"""Cross-entropy over a large vocabulary in chunks, so that the logits of a batch never stand in memory whole.

Shapes: N tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

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
        nats_N = functional.cross_entropy(logits, targets_N[rows], ignore_index=IGNORE, reduction="none")
        pieces.append(nats_N)
    return torch.cat(pieces) if pieces else hidden_ND.new_zeros(0)


def _logits(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    logits = functional.linear(hidden_ND, weight_VD, bias_V)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _chunks(count: int, vocabulary: int) -> list[slice]:
    rows = max(FEWEST_ROWS, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


@torch.library.custom_op("weft::cross_entropy", mutates_args=())
def _forward(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, count: Tensor, gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss and, with ``gradient``, its gradients (else empty tensors).

    It is an operator so that a compiled graph does not hold the chunks, whose number changes with the length.
    """
    # An operator returns tensors, so what is not asked for is an empty one.
    grad_hidden = hidden_ND.new_empty(0)
    grad_weight = weight_VD.new_empty(0)
    grad_bias = weight_VD.new_empty(0)
    if gradient:
        grad_hidden = torch.empty_like(hidden_ND)
        grad_weight = torch.zeros_like(weight_VD)
        if bias_V is not None:
            grad_bias = torch.zeros_like(bias_V)
    total = torch.zeros((), dtype=_loss_dtype(hidden_ND), device=hidden_ND.device)
    weight = weight_VD.to(hidden_ND.dtype)
    bias = None if bias_V is None else bias_V.to(hidden_ND.dtype)
    for rows in _chunks(hidden_ND.shape[0], weight_VD.shape[0]):
        hidden = hidden_ND[rows]
        targets = targets_N[rows]
        nats, grad_logits = _nats_and_gradient(_logits(hidden, weight, bias), targets, 1 / count, gradient)
        total += nats
        if not gradient:
            continue
        # With G the gradient of this chunk's logits: dh = G W, dW += G^T h, db += the sum over tokens of G.
        grad_logits = grad_logits.to(hidden.dtype)
        grad_hidden[rows] = grad_logits @ weight
        grad_weight += grad_logits.t() @ hidden
        if bias_V is not None:
            grad_bias += grad_logits.sum(0)
    return total / count, grad_hidden, grad_weight, grad_bias


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
    grads: list[Tensor | None] = [grad * grad_loss.to(grad.dtype) for grad in ctx.saved_tensors]
    if not ctx.has_bias:
        grads[2] = None
    return (*grads, None, None, None)  # of hidden states, weight and bias; targets, count and gradient have none


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _nats_and_gradient(logits: Tensor, targets_N: Tensor, share: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
    """Return the sum of the targets' nats, and ``share`` times its gradient if asked for, in the place of the logits.

    A row takes three passes in the CPU's own cache, where plain torch makes six through memory.
    """
    if logits.dtype == torch.float32 and cpu.usable(logits) and targets_N.device == logits.device:
        nats_N = cpu.softmax_loss(logits, targets_N, share.to(torch.float32), gradient=gradient)
        return nats_N.sum(), logits
    log_total = logits.logsumexp(dim=-1, keepdim=True)
    scored = (targets_N >= 0)[:, None]
    index = targets_N.clamp(min=0)[:, None]
    nats = ((log_total - logits.gather(1, index)) * scored).sum()
    if gradient:
        weights = (scored * share).to(logits.dtype)
        logits = logits.sub_(log_total).exp_().mul_(weights).scatter_add_(1, index, -weights)
    return nats, logits
