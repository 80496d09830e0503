"""The fused block: attention takes the place of the linear map that makes a QRNN's gates.

After SRU++ (Lei 2021, arXiv 2102.12459), with QRNN pooling for the SRU cell; our reconstruction of the fused
attention-QRNN block of arXiv 2502.00617:

    q = W_q x,  k, v = W_kv q,  gates = W_o norm(q + alpha attention(q, k, v)),  then pooling

where alpha is a scalar that starts at 0. Shapes: B batch, T time, D model width, C cell width, H heads, K head width.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weft.blocks.base import made_of
from weft.blocks.recurrent import RecurrentBlock
from weft.config import AttnQRNNConfig, ModelConfig
from weft.layers.linear import linear
from weft.layers.norms import make_norm
from weft.layers.window_attention import AttentionState, state_bytes, window_attention


class AttnQRNNState(NamedTuple):
    """The attention's window and the QRNN's cell (float32)."""

    attention: AttentionState
    cell_BC: Tensor


class AttnQRNNBlock(RecurrentBlock):
    """Attention and recurrence in one block; pooling, zoneout and projection are those of ``config.qrnn``."""

    config: AttnQRNNConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.config = config.attn_qrnn
        self._window = config.attention.memory
        width, inner = config.hidden_size, config.attn_qrnn.attention_size
        make = partial(linear, config.maps.attention)
        self.query, self.key, self.value = make(width, inner), make(inner, inner), make(inner, inner)
        self.mixed_norm = make_norm(config.norm, inner)
        self.attention_gain = nn.Parameter(torch.zeros(1))
        self.add_recurrence(config, inner)

    def mix(self, x_BTD: Tensor, state: AttnQRNNState | None, reset_BT: Tensor | None) -> tuple[Tensor, AttnQRNNState]:
        """Attend, make the gates, run the recurrence."""
        projected = self.query(x_BTD)
        together = (projected, self.key(projected), self.value(projected))
        query, key, value = (part.unflatten(-1, (self.config.num_heads, -1)) for part in together)
        attended_BTHK, attention = window_attention(
            query,
            key,
            value,
            state.attention if state else None,
            reset_BT,
            window=self.window,
            rotary=self.config.positions == "rotary",
        )
        made_from = self.mixed_norm(projected + self.attention_gain * attended_BTHK.flatten(2))
        mixed_BTD, cell_BC = self.recur(made_from, state.cell_BC if state else None, reset_BT)
        return mixed_BTD, AttnQRNNState(attention, cell_BC)

    @property
    def window(self) -> int:
        """How many tokens attention reaches back."""
        return self._window

    def sizes(self) -> str:
        """Cells and pooling, and the attention's width and window."""
        attention = f"attention {self.config.attention_size}, window {self.window}"
        maps = made_of("attention", self.maps.attention) + made_of("qrnn", self.maps.qrnn)
        return f"{self.qrnn.cell_size} cells, {self.qrnn.pooling} pooling; {attention}{maps}"

    def mixing_flops(self, context: int) -> int:
        """Scores and weighted sum over the window, and the recurrence."""
        return 4 * min(context, self.window + 1) * self.config.attention_size + self.recurrence_flops()

    def mixer_state_bytes(self, context: int, itemsize: int) -> int:
        """Keys and values of the window, and the cell."""
        return state_bytes(context, self.window, 1, self.config.attention_size, itemsize) + self.cell_bytes()
