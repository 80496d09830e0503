"""Normalisation over the last dimension."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        normed = F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        device = x.device.type
        return normed.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else normed


def make_norm(kind: Literal["rms", "layer"], size: int) -> nn.Module:
    """Return RMSNorm or LayerNorm of ``size`` features."""
    return RMSNorm(size) if kind == "rms" else nn.LayerNorm(size)
