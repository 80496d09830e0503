"""What attention in bfloat16 does on a CPU around its products: see :mod:`weft.ops.cpu.attention_kernels`.

Tensors are contiguous, of bfloat16 where nothing else is said, and on the CPU; who calls makes sure that
:func:`weft.ops.cpu.usable` holds.
Shapes: B batch, T time, M remembered positions, S = M + T, H heads, G key-value heads, K head width, J = (H + 2 G) K,
Q queries in a block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from weft.ops.cpu import LEAST_WIDTH, address, bits, by_rows, floats, shares


class Form(NamedTuple):
    """The sizes of an attention; ``kept`` of S are remembered afterwards."""

    batch: int
    new: int
    old: int
    kept: int
    heads: int
    groups: int
    width: int

    @property
    def keys(self) -> int:
        """S."""
        return self.old + self.new

    @property
    def numbers(self) -> list[int]:
        """What kernels are told."""
        return [self.new, self.old, self.kept, self.heads, self.groups, self.width]


class Norms(NamedTuple):
    """The weights (K) of the norms of queries and keys, float32, None without them, and what is added to squares."""

    query: Tensor | None
    key: Tensor | None
    eps: float


class Entered(NamedTuple):
    """Queries, keys and values by head; what is remembered, by position; 1 / rms of each head (B T, H + G)."""

    query_BHTK: Tensor
    keys_BGSK: Tensor
    values_BGSK: Tensor
    kept_keys_BMGK: Tensor
    kept_values_BMGK: Tensor
    roots: Tensor


def takes(head_dim: int, keys: int) -> bool:
    """Return whether the kernels take heads of this width over so many keys at once."""
    return head_dim % (2 * LEAST_WIDTH) == 0 and keys % LEAST_WIDTH == 0


def enter(
    joined_BTJ: Tensor, old: tuple[Tensor, Tensor], norms: Norms, angles_SK: Tensor | None, form: Form, scale: float
) -> Entered:
    """Norm, rotate, scale and lay out.

    ``old`` are the remembered keys and values (B, M, G, K), ``angles_SK`` each position's K / 2 cosines and sines,
    float32, None for no rotation.
    """
    from weft.ops.cpu import attention_entries

    batch, new, _, kept, heads, groups, width = form
    made = Entered(
        joined_BTJ.new_empty(batch, heads, new, width),
        joined_BTJ.new_empty(batch, groups, form.keys, width),
        joined_BTJ.new_empty(batch, groups, form.keys, width),
        joined_BTJ.new_empty(batch, kept, groups, width),
        joined_BTJ.new_empty(batch, kept, groups, width),
        floats(batch * new, heads + groups),
    )
    tensors = [joined_BTJ, norms.query, norms.key, angles_SK, *old, *made]
    arguments = [*map(address, tensors), *form.numbers, bits(scale), bits(norms.eps)]
    by_rows(attention_entries.attention_enter, arguments, batch * form.keys, (heads + 2 * groups) * width)
    return made


def leave(
    grads: tuple[Tensor, Tensor, Tensor],
    grads_of_kept: tuple[Tensor | None, Tensor | None],
    joined_BTJ: Tensor,
    norms: Norms,
    angles_SK: Tensor | None,
    roots: Tensor,
    form: Form,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``joined_BTJ`` and of the two norms' weights (2, K), float32.

    ``grads`` are those of queries, keys and values as :func:`enter` laid them out, ``grads_of_kept`` those of what
    is remembered.
    """
    from weft.ops.cpu import attention_entries

    rows = form.batch * form.new
    width = joined_BTJ.shape[-1]
    grad_joined = torch.empty_like(joined_BTJ)
    grad_norms = floats(shares(rows, width)[0], 2, form.width)
    tensors = [*grads, *grads_of_kept, joined_BTJ, norms.query, norms.key, angles_SK, roots, grad_joined, grad_norms]
    by_rows(attention_entries.attention_leave, [*map(address, tensors), *form.numbers, bits(scale)], rows, width)
    return grad_joined, grad_norms.sum(0)


def seen_softmax_(scores: Tensor, documents_BS: Tensor, *, queries: int, at: int, window: int) -> None:
    """Put the softmax over what each query sees in the place of the scores (B H Q, keys up to the last query's).

    ``documents_BS`` (int32) numbers all keys; query q of the Q is key ``at`` + q.
    """
    from weft.ops.cpu import attention_entries

    keys = scores.shape[-1]
    rows = scores.numel() // keys
    batch, length = documents_BS.shape
    heads = rows // (batch * queries)
    arguments = [address(scores), address(documents_BS), heads, queries, length, at, keys, window]
    by_rows(attention_entries.seen_softmax, arguments, rows, keys)


def softmax_backward_(weights: Tensor, grad: Tensor) -> None:
    """Put the gradient of the scores in the place of that of the weights (both (..., keys))."""
    from weft.ops.cpu import attention_entries

    keys = weights.shape[-1]
    arguments = [address(weights), address(grad), keys]
    by_rows(attention_entries.softmax_backward, arguments, weights.numel() // keys, keys)
