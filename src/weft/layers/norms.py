"""Normalisation over the last dimension."""

from __future__ import annotations

from typing import Literal

from torch import nn


def make_norm(kind: Literal["rms", "layer"], size: int) -> nn.Module:
    """Return RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) or LayerNorm of ``size`` features."""
    return nn.RMSNorm(size, eps=1e-6) if kind == "rms" else nn.LayerNorm(size)
