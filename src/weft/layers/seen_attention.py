"""Window attention in bfloat16 on a CPU, in few passes: norms, rotation and layout in one, softmax without a mask.

Torch makes masks, additive scores, norms and copies by head of what is one pass over queries, keys and values and
one over the scores (:mod:`weft.ops.cpu.attention_kernels`). The products are torch's. Plain form:
:mod:`weft.layers.window_attention`.
Shapes: B batch, T time, M remembered positions, S = M + T, H heads, G key-value heads, K head width, J = (H + 2 G) K,
Q queries in a block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from weft.ops.cpu import attention
from weft.ops.cpu.attention import Form, Norms

ByHead = tuple[Tensor, Tensor, Tensor]  # queries (B, H, T, K), keys and values (B, G, S, K)
Block = tuple[slice, slice]  # the queries, of T, and the keys up to the last one's, of S


class Seen(NamedTuple):
    """What decides what a query sees: the documents of all keys (B, S), int32, the window, the blocks of queries."""

    documents_BS: Tensor
    window: int
    blocks: tuple[Block, ...]


def attend_seen(
    joined_BTJ: Tensor,
    old: tuple[Tensor, Tensor],
    norms: Norms,
    angles_SK: Tensor | None,
    seen: Seen,
    form: Form,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the attended values (B, T, H K), and the keys and values (B, M, G, K) to remember.

    ``joined_BTJ`` has the queries, keys and values of each position side by side; ``old`` are the remembered ones,
    which get no gradient. A query sees itself and at most ``window`` keys before it, of its own document.
    """
    given = (joined_BTJ, norms.query, norms.key, *old, norms.eps, angles_SK, seen, form)
    results: tuple[Tensor, Tensor, Tensor] = _Attention.apply(*given)  # type: ignore[no-untyped-call]
    return results


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        joined_BTJ: Tensor,
        query_norm: Tensor | None,
        key_norm: Tensor | None,
        old_keys: Tensor,
        old_values: Tensor,
        eps: float,
        angles_SK: Tensor | None,
        seen: Seen,
        form: Form,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        norms = Norms(query_norm, key_norm, eps)
        old = (old_keys.contiguous(), old_values.contiguous())
        joined_BTJ = joined_BTJ.contiguous()
        made = attention.enter(joined_BTJ, old, norms, angles_SK, form, form.width**-0.5)
        y_BTHK = joined_BTJ.new_empty(form.batch, form.new, form.heads, form.width)
        weights = []
        for queries, keys in seen.blocks:
            query, key, value = _of_block(made[:3], form, queries, keys)
            scores = torch.bmm(query, key.mT)
            attention.seen_softmax_(
                scores,
                seen.documents_BS,
                queries=queries.stop - queries.start,
                at=form.old + queries.start,
                window=seen.window,
            )
            weights.append(scores)
            part = torch.bmm(scores, value).view(form.batch, form.heads, -1, form.width)
            y_BTHK[:, queries] = part.transpose(1, 2)
        # What a kernel wrote is saved, too: autograd looks after what of it is an output.
        ctx.save_for_backward(joined_BTJ, query_norm, key_norm, angles_SK, *made[:3], made.roots, *weights)
        ctx.others = (eps, seen.blocks, form)
        return y_BTHK.view(form.batch, form.new, -1), made.kept_keys_BMGK, made.kept_values_BMGK

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_kept_keys: Tensor | None, grad_kept_values: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        joined_BTJ, query_norm, key_norm, angles_SK, queries, keys, values, roots, *weights = ctx.saved_tensors
        eps, blocks, form = ctx.others
        if grad_y is None:
            grad_y = joined_BTJ.new_zeros(form.batch, form.new, form.heads * form.width)
        grads = _through_products((queries, keys, values), form, blocks, weights, grad_y)
        kept = tuple(None if grad is None else grad.contiguous() for grad in (grad_kept_keys, grad_kept_values))
        norms = Norms(query_norm, key_norm, eps)
        grad_joined, grad_norms = attention.leave(
            grads, (kept[0], kept[1]), joined_BTJ, norms, angles_SK, roots, form, form.width**-0.5
        )
        of_query = None if query_norm is None else grad_norms[0]
        of_key = None if key_norm is None else grad_norms[1]
        return grad_joined, of_query, of_key, None, None, None, None, None, None


def _of_block(by_head: ByHead, form: Form, queries: slice, keys: slice) -> ByHead:
    """Return queries, keys and values of a block for products: the heads that share keys are further queries."""
    batches = form.batch * form.groups
    query_BHTK, keys_BGSK, values_BGSK = by_head
    query = query_BHTK[:, :, queries].reshape(batches, -1, form.width)
    key = keys_BGSK[:, :, keys].reshape(batches, -1, form.width)
    value = values_BGSK[:, :, keys].reshape(batches, -1, form.width)
    return query, key, value


def _through_products(
    by_head: ByHead, form: Form, blocks: tuple[Block, ...], weights: list[Tensor], grad_y: Tensor
) -> ByHead:
    """Return the gradients of queries, keys and values, laid out by head."""
    batches = form.batch * form.groups
    grad_BTHK = grad_y.reshape(form.batch, form.new, form.heads, form.width)
    query_BHTK, keys_BGSK, values_BGSK = by_head
    grad_queries = torch.empty_like(query_BHTK)
    grad_keys = torch.zeros_like(keys_BGSK)
    grad_values = torch.zeros_like(values_BGSK)
    for (queries, keys), weight in zip(blocks, weights, strict=True):
        query, key, value = _of_block(by_head, form, queries, keys)
        grad = grad_BTHK[:, queries].transpose(1, 2).reshape(batches, -1, form.width)
        grad_scores = torch.bmm(grad, value.mT)
        attention.softmax_backward_(weight, grad_scores)
        of_block = (form.batch, -1, keys.stop - keys.start, form.width)
        grad_queries[:, :, queries] = torch.bmm(grad_scores, key).view(form.batch, form.heads, -1, form.width)
        # a key is seen by several blocks
        grad_keys[:, :, keys] += torch.bmm(grad_scores.mT, query).view(of_block)
        grad_values[:, :, keys] += torch.bmm(weight.mT, grad).view(of_block)
    return grad_queries, grad_keys, grad_values
