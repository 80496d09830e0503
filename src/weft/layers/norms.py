"""Normalisation over the last dimension."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from weft.ops import cpu


def given_dtype(x: Tensor) -> torch.dtype:
    """Return the precision in which a norm of ``x`` is given: under autocast the lower one, which its maps read."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467).

    Under autocast the result is given in the lower precision at once, rather than by each map that reads it.
    """

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (..., size) divided by its root mean square and scaled."""
        return self._norm(x).to(given_dtype(x))

    def _norm(self, x: Tensor) -> Tensor:
        fits = x.shape[-1:] == self.weight.shape and self.weight.dtype == torch.float32
        if fits and cpu.usable(x) and cpu.usable(self.weight):
            normed: Tensor = _RMSNorm.apply(x, self.weight, self.eps)  # type: ignore[no-untyped-call]
            return normed
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class _RMSNorm(torch.autograd.Function):
    """The same on a CPU in two passes over the rows, where torch makes seven."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        weight = weight.contiguous()
        y, scales = cpu.rms_norm_forward(x, weight, eps)
        ctx.save_for_backward(x, weight, scales)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scales = ctx.saved_tensors
        return (*cpu.rms_norm_backward(x, weight, scales, grad.to(x.dtype).contiguous()), None)


def make_norm(kind: Literal["rms", "layer"], size: int) -> nn.Module:
    """Return RMSNorm or LayerNorm of ``size`` features."""
    return RMSNorm(size) if kind == "rms" else nn.LayerNorm(size)
