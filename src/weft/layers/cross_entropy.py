"""Cross-entropy over a large vocabulary in chunks, so that the logits of a batch never stand in memory whole.

Shapes: N tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft.ops import cpu

IGNORE = -100
CHUNK_ELEMENTS = 1 << 22  # logits held at once: 16 MB in float32
FEWEST_ROWS = 128  # of a chunk, whatever the vocabulary: each chunk reads the whole weight


def cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, count: Tensor | None = None
) -> Tensor:
    """Return the mean nats of ``targets_N`` (where not -100; zero when all are) under softmax(h W^T + b).

    The gradient is made in the forward pass, chunk by chunk, so nothing is computed twice. ``count`` (a scalar)
    replaces the number of targets that the sum is divided by, where these are a part of a larger batch.
    """
    if count is None:
        count = count_targets(targets_N)
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, targets_N, count
    )
    return loss


def count_targets(targets_N: Tensor) -> Tensor:
    """Return how many targets are scored, at least 1, as a scalar tensor."""
    return (targets_N != IGNORE).sum().clamp(min=1)


@torch.no_grad()
def surprisal(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> Tensor:
    """Return each target's nats (N,), zero where the target is -100; no gradient."""
    pieces = [
        torch.nn.functional.cross_entropy(
            _logits(hidden_ND[rows], weight_VD, bias_V),
            targets_N[rows],
            ignore_index=IGNORE,
            reduction="none",
        )
        for rows in _chunks(hidden_ND.shape[0], weight_VD.shape[0])
    ]
    return torch.cat(pieces) if pieces else hidden_ND.new_zeros(0)


def _logits(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    logits = torch.nn.functional.linear(hidden_ND, weight_VD, bias_V)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _chunks(count: int, vocabulary: int) -> list[slice]:
    rows = max(FEWEST_ROWS, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, count: Tensor
    ) -> Tensor:
        need = any(ctx.needs_input_grad)
        grad_hidden = torch.empty_like(hidden_ND) if need else None
        grad_weight = torch.zeros_like(weight_VD) if need else None
        grad_bias = torch.zeros_like(bias_V) if need and bias_V is not None else None
        total = torch.zeros((), dtype=torch.promote_types(hidden_ND.dtype, torch.float32), device=hidden_ND.device)
        for rows in _chunks(hidden_ND.shape[0], weight_VD.shape[0]):
            hidden, targets = hidden_ND[rows], targets_N[rows]
            nats, grad_logits = _nats_and_gradient(_logits(hidden, weight_VD, bias_V), targets, 1 / count, need)
            total += nats
            if grad_hidden is None or grad_weight is None:
                continue
            grad_logits = grad_logits.to(hidden.dtype)
            grad_hidden[rows] = grad_logits @ weight_VD
            grad_weight += grad_logits.t() @ hidden
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        ctx.grads = (grad_hidden, grad_weight, grad_bias)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if grad is None else grad * grad_outputs[0] for grad in ctx.grads), None, None)


def _nats_and_gradient(logits: Tensor, targets_N: Tensor, share: Tensor, gradient: bool) -> tuple[Tensor, Tensor]:
    """Return the sum of the targets' nats, and ``share`` times its gradient if asked for, in the place of the logits.

    A row takes three passes in the CPU's own cache, where plain torch makes six through memory.
    """
    if logits.dtype == torch.float32 and cpu.usable(logits):
        nats_N = cpu.softmax_loss(logits, targets_N, share.to(torch.float32), gradient=gradient)
        return nats_N.sum(), logits
    log_total = logits.logsumexp(dim=-1, keepdim=True)
    scored, index = (targets_N != IGNORE)[:, None], targets_N.clamp(min=0)[:, None]
    nats = ((log_total - logits.gather(1, index)) * scored).sum()
    if gradient:
        weights = (scored * share).to(logits.dtype)
        logits = logits.sub_(log_total).exp_().mul_(weights).scatter_add_(1, index, -weights)
    return nats, logits
