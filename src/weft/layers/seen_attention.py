"""Attention in fused passes where the CPU's kernels take it: rotation by head, softmax over what is seen.

Torch makes masks, additive scores and copies by head for what is two passes over queries and keys and one over
the scores (:mod:`weft.ops.cpu.attention_kernels`). The products are torch's. Plain form:
:mod:`weft.layers.window_attention`.
Shapes: B batch, S keys, H heads, G key-value heads, K head width, Q queries in a block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from weft.ops import cpu
from weft.ops.cpu import attention


def can_rotate(x_BSHK: Tensor) -> bool:
    """Return whether :func:`rotated_by_head` takes these heads."""
    return attention.can_rotate(x_BSHK.shape[-1]) and cpu.usable(x_BSHK)


def rotated_by_head(x_BSHK: Tensor, cos_SK: Tensor, sin_SK: Tensor, scale: float = 1.0) -> Tensor:
    """Return ``scale`` times the heads, rotated by each position's angles (float32), laid out as (B, H, S, K)."""
    y_BHSK: Tensor = _Rotated.apply(x_BSHK, cos_SK, sin_SK, scale)  # type: ignore[no-untyped-call]
    return y_BHSK


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BSHK: Tensor, cos_SK: Tensor, sin_SK: Tensor, scale: float) -> Tensor:
        ctx.angles = (cos_SK.contiguous(), sin_SK.contiguous(), scale)
        return attention.rotate(x_BSHK.contiguous(), *ctx.angles)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return attention.rotate_backward(grad.contiguous(), *ctx.angles), None, None, None


def can_attend(query: Tensor, keys: int) -> bool:
    """Return whether :func:`attend_seen` takes queries like these over so many keys: in bfloat16, whole registers.

    In float32 torch's own fused attention is good.
    """
    return query.dtype == torch.bfloat16 and keys % cpu.LEAST_WIDTH == 0 and cpu.usable(query)


def attend_seen(
    query_BHQK: Tensor, key_BGSK: Tensor, value_BGSK: Tensor, documents_BS: Tensor, *, at: int, window: int
) -> Tensor:
    """Return the attended values (B, H, Q, K) of queries that are scaled already.

    ``documents_BS`` (int32) numbers the documents of all keys of the text, in their order. The first query is
    key ``at`` of them, and the keys given are those up to the last query's. A query sees itself and at most
    ``window`` keys before it, of its own document.
    """
    batch, heads, queries, width = query_BHQK.shape
    groups, keys = key_BGSK.shape[1:3]
    query = query_BHQK.reshape(batch * groups, -1, width)  # the heads that share keys are further queries
    key = key_BGSK.reshape(batch * groups, keys, width)
    value = value_BGSK.reshape(batch * groups, keys, value_BGSK.shape[-1])
    scores = torch.bmm(query, key.mT)
    weights = _SeenSoftmax.apply(scores, documents_BS.contiguous(), queries, at, window)  # type: ignore[no-untyped-call]
    return torch.bmm(weights, value).view(batch, heads, queries, -1)


class _SeenSoftmax(torch.autograd.Function):
    """The softmax in the place of the scores, which nobody else needs."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, documents_BS: Tensor, queries: int, at: int, window: int) -> Tensor:
        attention.seen_softmax_(scores, documents_BS, queries=queries, at=at, window=window)
        ctx.mark_dirty(scores)
        ctx.save_for_backward(scores)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (weights,) = ctx.saved_tensors
        grad_scores = attention.softmax_backward(weights, grad.contiguous())
        return grad_scores, None, None, None, None
