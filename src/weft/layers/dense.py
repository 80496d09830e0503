"""The dense linear map, which under autocast on a CPU multiplies by copies of its weight in bfloat16.

With x in bfloat16, y = x W^T, dx = dy W and dW = dy^T x are products in bfloat16; dW is given in float32, as
the weight is. Autocast does the same, but casts the weight at every use (:mod:`weft.layers.copies`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from weft.layers.copies import bf16_copies, bf16_copy
from weft.layers.versions import untouched


class Dense(nn.Linear):
    """``nn.Linear`` by :func:`product`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (..., N) W^T (..., M), with the bias where there is one."""
        if self.bias is None:
            return product(x, self.weight)
        return F.linear(x, self.weight, self.bias)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x`` (..., N) times the transpose of ``weight`` (M, N); under autocast in its precision."""
    if not _by_copy(x, weight):
        return F.linear(x, weight)
    if not torch.is_grad_enabled():
        return F.linear(x.to(torch.bfloat16), bf16_copy(weight))
    return _products(x, [weight])


def side_by_side(x: Tensor, maps: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """Return what each of several maps makes of the same ``x`` (..., N), (..., M) of each.

    It is one product where they are dense without biases.
    """
    weights = _weights_of(x, maps)
    if weights is None:
        return tuple(part(x) for part in maps)
    return torch.split(_products(x, weights), [weight.shape[0] for weight in weights], -1)


def joined(x: Tensor, maps: Sequence[nn.Module]) -> Tensor:
    """Return what several maps make of the same ``x`` (..., N), side by side in one tensor (..., sum of M)."""
    weights = _weights_of(x, maps)
    if weights is None:
        return torch.cat([part(x) for part in maps], -1)
    return _products(x, weights)


def _weights_of(x: Tensor, maps: Sequence[nn.Module]) -> list[Tensor] | None:
    """Return the weights of maps that can be one product, else None."""
    if not torch.is_grad_enabled():
        return None
    weights: list[Tensor] = []
    for part in maps:
        if not untouched(part, Dense):
            return None
        dense = cast("Dense", part)
        if dense.bias is not None or not _by_copy(x, dense.weight):
            return None
        weights.append(dense.weight)
    return weights


def _by_copy(x: Tensor, weight: Tensor) -> bool:
    """Return whether a copy of the weight in bfloat16 is multiplied by; not where somebody else looks at operators."""
    if torch.compiler.is_compiling() or not torch.is_autocast_enabled("cpu"):
        return False
    ordinary = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter)
    on_cpu = weight.device.type == "cpu" and x.device.type == "cpu" and weight.dtype == torch.float32
    return ordinary and on_cpu and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _products(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Return ``x`` times the transposes of several weights, side by side, by their copies."""
    y: Tensor = _Products.apply(x.to(torch.bfloat16), *weights)  # type: ignore[no-untyped-call]
    return y


class _Products(torch.autograd.Function):
    """Products of the same inputs with one or several weights, as one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        stack = bf16_copies(weights)
        ctx.rows = [weight.shape[0] for weight in weights]
        ctx.save_for_backward(x, stack)
        return F.linear(x, stack)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, stack = ctx.saved_tensors
        grad_NM = grad.reshape(-1, stack.shape[0])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (grad_NM @ stack).view(x.shape)
        grad_weights: tuple[Tensor | None, ...] = (None,) * len(ctx.rows)
        if any(ctx.needs_input_grad[1:]):
            grad_weights = torch.split((grad_NM.t() @ x.reshape(-1, x.shape[-1])).float(), ctx.rows)
        return grad_x, *grad_weights
