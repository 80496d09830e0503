"""Positions for attention. All are relative, so a text may be ten million tokens long.

Shapes: B batch, T time, H heads, K head width, Q queries in a block, S keys in a block.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_tables(length: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, each (length, head_dim / 2), for positions 0 to length - 1 (Su et al. 2021).

    Angles are computed in float64 where the device has it, so that long pieces stay exact.
    """
    precise = torch.float32 if like.device.type == "mps" else torch.float64
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=precise, device=like.device) / head_dim)
    angles = torch.arange(length, dtype=precise, device=like.device)[:, None] * frequencies
    dtype = torch.promote_types(like.dtype, torch.float32)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BTHK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Rotate the two halves of the last dimension by each position's angles."""
    cos = cos_TK[:, None, :]
    sin = sin_TK[:, None, :]
    first, second = x_BTHK.to(cos_TK.dtype).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x_BTHK.dtype)


def sinusoids(length: int, size: int, like: Tensor) -> Tensor:
    """Return the (length, size) sinusoid embedding of distances length - 1 down to 0 (Dai et al. 2019)."""
    distance = torch.arange(length - 1, -1, -1, dtype=torch.float32, device=like.device)
    frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float32, device=like.device) / size)
    angles = distance[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :size].to(like.dtype)


def relative_shift(scores_BHQZ: Tensor) -> Tensor:
    """Turn scores by distance into scores by key (Dai et al. 2019, appendix B), without a copy.

    On input, column z of the S + 1 holds distance S - z; on output, column s of the S holds the distance from
    query c, which stands at key S - C + c, to key s. Entries for keys after the query are meaningless and
    must be masked.
    """
    batch, heads, queries, columns = scores_BHQZ.shape
    turned = scores_BHQZ.reshape(batch, heads, columns, queries)
    return turned[:, :, 1:].reshape(batch, heads, queries, columns - 1)
