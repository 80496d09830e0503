"""The activation of feed-forward blocks that torch does not have as one function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from weft.ops import cpu


def relu_squared(x: Tensor) -> Tensor:
    """Return relu(x)^2 (So et al. 2021, arXiv 2109.08668), of any shape."""
    if not cpu.usable(x):
        return F.relu(x).square()
    squared: Tensor = _ReluSquared.apply(x)  # type: ignore[no-untyped-call]
    return squared


class _ReluSquared(torch.autograd.Function):
    """The same on a CPU in one pass; only the result is kept, since the derivative 2 relu(x) is 2 sqrt of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = cpu.relu_squared_forward(x.contiguous())
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return cpu.relu_squared_backward(y, grad.contiguous())
