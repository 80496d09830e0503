"""The fused block: attention takes the place of the linear map that makes a QRNN's gates.

After SRU++ (Lei 2021, arXiv 2102.12459), with QRNN pooling for the SRU cell; our reconstruction of the fused
attention-QRNN block of arXiv 2502.00617:

    q = W_q x,  k, v = W_kv q,  gates = W_o norm(q + alpha attention(q, k, v)),  then pooling

where alpha is a scalar that starts at 0. Shapes: B batch, T time, D model width, C cell width, H heads, K
head width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from weft.blocks.recurrent import RecurrentBlock, RecurrentConfig
from weft.config import MapConfig, Shell
from weft.layers.linear import linear
from weft.layers.norms import make_norm
from weft.layers.sites import PATTERN, At
from weft.layers.state import shiftable
from weft.layers.window_attention import AttentionState, state_bytes, window_attention
from weft.numbers import Reach, Width


class AttnQRNNConfig(RecurrentConfig):
    """Attention over ``window`` positions before, whose output makes the gates of a QRNN's cells.

    In a recipe the window that is left open is that of ``attention``, and the cells are those of ``qrnn``.
    """

    kind: Literal["attn_qrnn"] = "attn_qrnn"
    attention_size: Width
    num_heads: Width = 1
    positions: Literal["rotary", "none"] = "none"
    window: Reach = 256
    attention_maps: MapConfig = MapConfig()

    map_roles: ClassVar[Mapping[str, str]] = {"attention_maps": "attention", "maps": "qrnn"}
    inherited: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "attention": ("window",),
        "qrnn": ("cell_size", "pooling", "zoneout", "output_projection", "forget_bias"),
    }

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.attention_size % self.num_heads:
            raise ValueError(
                f"attention_size ({self.attention_size}) must be a multiple of num_heads ({self.num_heads})"
            )
        if self.positions == "rotary" and self.attention_size // self.num_heads % 2:
            raise ValueError("rotary positions need an even attention_size / num_heads")
        return self

    @classmethod
    def with_widths(cls, given: Mapping[str, Any], hidden_size: int, parts: int) -> dict[str, Any]:
        """Attention half as wide as the model, in whole heads, beside the cells' width."""
        even = 2 if given.get("positions") == "rotary" else 1
        unit = math.lcm(given.get("num_heads", 1) * even, parts)  # the gates' maps read the attention
        widths = {"attention_size": max(1, hidden_size // 2 // unit) * unit, **given}
        return super().with_widths(widths, hidden_size, parts)

    def width_step(self, width: str, step: int, parts: int) -> int:
        """Attention in whole heads of an even width."""
        unit = super().width_step(width, step, parts)
        return 2 * unit * self.num_heads if width == "attention_size" else unit


@shiftable("cell_BC")
class AttnQRNNState(NamedTuple):
    """The attention's window and the QRNN's cell (float32)."""

    attention: AttentionState
    cell_BC: Tensor


class AttnQRNNBlock(RecurrentBlock):
    """Attention and recurrence in one block."""

    config: AttnQRNNConfig

    def __init__(self, config: AttnQRNNConfig, shell: Shell) -> None:
        super().__init__(config, shell)
        inner = config.attention_size
        make = partial(linear, config.attention_maps)
        self.query = make(shell.hidden_size, inner)
        self.key = make(inner, inner)
        self.value = make(inner, inner)
        self.mixed_norm = make_norm(shell.norm, inner)
        self.attention_gain = nn.Parameter(torch.zeros(1))
        self.add_recurrence(shell, inner)

    def mix(
        self, x_BTD: Tensor, state: AttnQRNNState | None, reset_BT: Tensor | None, at: At | None = None
    ) -> tuple[Tensor, AttnQRNNState]:
        """Attend, make the gates, run the recurrence."""
        projected = self.query(x_BTD)
        key = self.key(projected)
        value = self.value(projected)
        by_head = (self.config.num_heads, -1)
        query_BTHK = projected.unflatten(-1, by_head)
        key_BTHK = key.unflatten(-1, by_head)
        value_BTHK = value.unflatten(-1, by_head)
        attended_BTHK, attention = window_attention(
            query_BTHK,
            key_BTHK,
            value_BTHK,
            state.attention if state else None,
            reset_BT,
            window=self.window,
            rotary=self.config.positions == "rotary",
            at=at,
        )
        made_from = self.mixed_norm(projected + self.attention_gain * attended_BTHK.flatten(2))
        mixed_BTD, cell_BC = self.recur(made_from, state.cell_BC if state else None, reset_BT, at)
        return mixed_BTD, AttnQRNNState(attention, cell_BC)

    def sites(self) -> dict[str, str]:
        """What attention looks at, and what the recurrence has."""
        return super().sites() | {PATTERN: "B, H, T, M + 1"}

    @property
    def window(self) -> int:
        """How many tokens attention reaches back."""
        return self.config.window

    def sizes(self) -> str:
        """Cells and pooling, and the attention's width and window."""
        attention = f"attention {self.config.attention_size}, window {self.window}"
        return f"{self.config.cell_size} cells, {self.config.pooling} pooling; {attention}{self.made_of()}"

    def mixing_flops(self, context: int) -> int:
        """Scores and weighted sum over the window, and the recurrence."""
        return 4 * min(context, self.window + 1) * self.config.attention_size + self.recurrence_flops()

    def mixer_state_bytes(self, context: int, itemsize: int) -> int:
        """Keys and values of the window, and the cell."""
        return state_bytes(context, self.window, 1, self.config.attention_size, itemsize) + self.cell_bytes()
