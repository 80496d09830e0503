"""What attention does on a CPU around its products: see :mod:`weft.ops.cpu.attention_kernels`.

Tensors are contiguous and on the CPU; who calls makes sure that :func:`weft.ops.cpu.usable` holds.
Shapes: B batch, S keys, H heads, K head width, Q queries of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops.cpu import DTYPES, LEAST_WIDTH, address, bits, by_rows


def can_rotate(head_dim: int) -> bool:
    """Return whether :func:`rotate` takes heads of this width."""
    return head_dim % (2 * LEAST_WIDTH) == 0


def rotate(x_BSHK: Tensor, cos_SK: Tensor, sin_SK: Tensor, scale: float) -> Tensor:
    """Return ``scale`` times the heads, rotated by their positions, as (B, H, S, K); float32 or bfloat16."""
    batch, length, heads, width = x_BSHK.shape
    y_BHSK = torch.empty(batch, heads, length, width, dtype=x_BSHK.dtype)
    _rotate(x_BSHK, cos_SK, sin_SK, y_BHSK, scale, (batch, length, heads, width), back=False)
    return y_BHSK


def rotate_backward(grad_BHSK: Tensor, cos_SK: Tensor, sin_SK: Tensor, scale: float) -> Tensor:
    """Return the gradient (B, S, H, K) of what :func:`rotate` took."""
    batch, heads, length, width = grad_BHSK.shape
    grad_BSHK = torch.empty(batch, length, heads, width, dtype=grad_BHSK.dtype)
    _rotate(grad_BHSK, cos_SK, sin_SK, grad_BSHK, scale, (batch, length, heads, width), back=True)
    return grad_BSHK


def _rotate(
    x: Tensor, cos_SK: Tensor, sin_SK: Tensor, y: Tensor, scale: float, shape: tuple[int, int, int, int], *, back: bool
) -> None:
    from weft.ops.cpu import attention_entries

    batch, length, heads, width = shape
    arguments = [*map(address, [x, cos_SK, sin_SK, y]), bits(scale), int(back), length, heads, width]
    by_rows(attention_entries.rotate[DTYPES.index(x.dtype)], arguments, batch * length, heads * width)


def seen_softmax_(scores_BHQS: Tensor, documents_BS: Tensor, *, queries: int, at: int, window: int) -> None:
    """Put the softmax over what each query sees in the place of the scores, bfloat16.

    ``queries`` is Q, of which H rows follow each other in ``scores_BHQS`` (B, H, Q, S): keys up to that of the
    last query; ``documents_BS`` (int32) numbers all keys, and the first query is key ``at``.
    """
    from weft.ops.cpu import attention_entries

    keys = scores_BHQS.shape[-1]
    rows = scores_BHQS.numel() // keys
    batch, length = documents_BS.shape
    heads = rows // (batch * queries)
    arguments = [address(scores_BHQS), address(documents_BS), heads, queries, length, at, keys, window]
    by_rows(attention_entries.seen_softmax_bf16, arguments, rows, keys)


def softmax_backward(weights: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of the scores, given that of the weights (both (..., S), bfloat16)."""
    from weft.ops.cpu import attention_entries

    keys = weights.shape[-1]
    grad_scores = torch.empty_like(grad)
    arguments = [*map(address, [weights, grad, grad_scores]), keys]
    by_rows(attention_entries.softmax_backward_bf16, arguments, weights.numel() // keys, keys)
    return grad_scores
