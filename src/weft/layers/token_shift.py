"""Token shift: what goes into a block is, channel by channel, partly what went in one position before.

h'_t = h_t + m * (h_{t-1} - h_t), m learned (Peng et al. 2023, arXiv 2305.13048, eq. 11): a causal convolution
of width two with one weight a channel, where a QRNN of window 2 has one for each channel and gate. Shapes: B
batch, T time, D model width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from weft.layers.state import shiftable

START = 0.3  # m before training


@shiftable("mixer", "last_BD")
class ShiftedState(NamedTuple):
    """What a block with token shift remembers: its mixer's state, and its last input before the shift (B, D)."""

    mixer: Any
    last_BD: Tensor


class TokenShift(nn.Module):
    """The shares of each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((width,), START))

    def forward(self, x_BTD: Tensor, before_BD: Tensor | None, reset_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the shifted inputs (B, T, D) and the last input (B, D) as it was.

        ``before_BD`` is the input before the first one; at a document's start, where ``reset_BT`` is True, it
        counts as zeros, and where it is None too.
        """
        if before_BD is None:
            before_BD = torch.zeros_like(x_BTD[:, 0])
        before_BTD = torch.cat([before_BD[:, None].to(x_BTD.dtype), x_BTD[:, :-1]], dim=1)
        if reset_BT is not None:
            before_BTD = before_BTD.masked_fill(reset_BT[..., None], 0.0)
        return torch.lerp(x_BTD, before_BTD, self.share.to(x_BTD.dtype)), x_BTD[:, -1].clone()
