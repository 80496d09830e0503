"""Multi-head causal attention over a window that goes from piece to piece.

Shapes: B batch, T time, D width, H heads, G key-value heads, K head width, Q queries, S
keys, Z = S + 1 distances.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import model_validator
from torch import Tensor, nn

from weft.blocks.base import Block
from weft.config import BlockConfig, MapConfig, Shell
from weft.layers.dense import joined
from weft.layers.linear import linear
from weft.layers.maps import Map
from weft.layers.norms import RMSNorm, make_norm
from weft.layers.positions import relative_shift, sinusoids
from weft.layers.sites import PATTERN, At
from weft.layers.versions import untouched
from weft.layers.window_attention import (
    AttentionState,
    can_attend_joined,
    joined_attention,
    state_bytes,
    window_attention,
)
from weft.numbers import MAX_WIDTH, Below1, Reach, Width
from weft.ops import cpu
from weft.ops.cpu.attention import Norms


class AttentionConfig(BlockConfig):
    """Multi-head causal attention over a window: each position sees itself and at most ``window`` before it."""

    kind: Literal["attention"] = "attention"
    num_heads: Width
    num_kv_heads: Width | None = None  # None: as many as heads; fewer: grouped keys and values
    head_dim: Width
    window: Reach = 256
    positions: Literal["rotary", "relative", "none"] = "rotary"
    query_key_norm: bool = True
    dropout: Below1 = 0.0  # of attention probabilities
    maps: MapConfig = MapConfig()

    map_roles: ClassVar[Mapping[str, str]] = {"maps": "attention"}

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_kv_heads or self.num_heads

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.kv_heads})")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {self.head_dim}")
        if self.num_heads * self.head_dim > MAX_WIDTH:
            raise ValueError(
                f"num_heads x head_dim ({self.num_heads:,} x {self.head_dim:,}) is more than {MAX_WIDTH:,} features"
            )
        return self

    @classmethod
    def with_widths(cls, given: Mapping[str, Any], hidden_size: int, parts: int) -> dict[str, Any]:  # noqa: ARG003
        """Heads of 32 features up to a width of 256 and of 64 above, with as many as come nearest to the width.

        With a given number of heads, they are together as wide as the model.
        """
        widths = dict(given)
        usual = 32 if hidden_size <= 256 else 64
        if "head_dim" not in widths:
            heads = widths.get("num_heads")
            if heads:
                widths["head_dim"] = max(2, hidden_size // heads // 2 * 2)
            else:
                kv_heads = widths.get("num_kv_heads") or 1
                widths["num_heads"] = max(1, round(hidden_size / usual / kv_heads)) * kv_heads
                widths["head_dim"] = usual
        widths.setdefault("num_heads", max(1, round(hidden_size / widths["head_dim"])))
        return widths

    def width_step(self, width: str, step: int, parts: int) -> int:
        """An even width of heads, as rotary positions need."""
        return super().width_step(width, max(step, 2), parts)


class AttentionBlock(Block):
    """Attention over the last ``window`` positions (Vaswani et al. 2017; Transformer-XL, Dai et al. 2019).

    Positions are rotary, Transformer-XL's relative ones (with its learned u and v biases, one pair a layer),
    or none.
    """

    config: AttentionConfig

    def __init__(self, config: AttentionConfig, shell: Shell) -> None:
        super().__init__(config, shell)
        width = shell.hidden_size
        inner = config.num_heads * config.head_dim
        kv_inner = config.kv_heads * config.head_dim
        make = partial(linear, config.maps)
        self.query = make(width, inner)
        self.key = make(width, kv_inner)
        self.value = make(width, kv_inner)
        self.output: Map = make(inner, width)
        normed = config.query_key_norm
        self.query_norm = make_norm("rms", config.head_dim) if normed else nn.Identity()
        self.key_norm = make_norm("rms", config.head_dim) if normed else nn.Identity()
        if config.positions == "relative":
            self.distance = nn.Linear(width, inner, bias=False)
            self.content_bias = nn.Parameter(torch.zeros(inner))  # u of Dai et al.
            self.position_bias = nn.Parameter(torch.zeros(inner))  # v of Dai et al.

    def initialise(self) -> None:
        """Draw u and v from N(0, 0.02), as Transformer-XL does."""
        if self.config.positions == "relative":
            nn.init.normal_(self.content_bias, std=0.02)
            nn.init.normal_(self.position_bias, std=0.02)

    def mix(
        self, x_BTD: Tensor, state: AttentionState | None, reset_BT: Tensor | None, at: At | None = None
    ) -> tuple[Tensor, AttentionState]:
        """Attend over the window."""
        config = self.config
        if self._can_join(x_BTD, state) and not (at and at.wants(PATTERN)):
            joined_BTJ = joined(x_BTD, (self.query, self.key, self.value)).to(x_BTD.dtype)
            query_norm, key_norm = (getattr(norm, "weight", None) for norm in (self.query_norm, self.key_norm))
            attended_BTD, state = joined_attention(
                joined_BTJ,
                state,
                reset_BT,
                Norms(query_norm, key_norm, getattr(self.query_norm, "eps", 0.0)),
                heads=config.num_heads,
                groups=config.kv_heads,
                window=self.window,
                rotary=config.positions == "rotary",
            )
            return self.output(attended_BTD), state
        query_BTHK = self.query_norm(self.query(x_BTD).unflatten(-1, (config.num_heads, config.head_dim)))
        key_BTGK = self.key_norm(self.key(x_BTD).unflatten(-1, (config.kv_heads, config.head_dim)))
        value_BTGK = self.value(x_BTD).unflatten(-1, (config.kv_heads, config.head_dim))
        relative = config.positions == "relative"
        if relative:
            content_bias_HK = self.content_bias.view(config.num_heads, config.head_dim)
            query_BTHK = query_BTHK + content_bias_HK.to(query_BTHK.dtype)  # under autocast the lower one, as the keys
        attended_BTHK, state = window_attention(
            query_BTHK,
            key_BTGK,
            value_BTGK,
            state,
            reset_BT,
            window=self.window,
            rotary=config.positions == "rotary",
            position_scores=self._position_scores if relative else None,
            dropout=config.dropout if self.training else 0.0,
            at=at,
        )
        return self.output(attended_BTHK.flatten(2)), state

    def _can_join(self, x_BTD: Tensor, state: AttentionState | None) -> bool:
        """Return whether queries, keys and values may be worked on side by side."""
        config = self.config
        if config.positions == "relative" or (self.training and config.dropout > 0):
            return False
        if not can_attend_joined(x_BTD, state, config.head_dim, self.window):
            return False
        if not config.query_key_norm:
            return untouched(self.query_norm, nn.Identity) and untouched(self.key_norm, nn.Identity)
        norms = (self.query_norm, self.key_norm)
        if not all(untouched(norm, RMSNorm) for norm in norms):
            return False
        weights = [cast("RMSNorm", norm).weight for norm in norms]
        return all(cpu.usable(weight) and weight.dtype == torch.float32 for weight in weights)

    def _position_scores(self, query_BHQK: Tensor, keys: int) -> Tensor:
        """Return the scaled scores (q + v) r by distance (Dai et al. 2019, terms b and d), laid out by key."""
        heads = self.config.num_heads
        width = self.config.head_dim
        bias_H1K = (self.position_bias - self.content_bias).view(heads, 1, width)
        query_BHQK = query_BHQK + bias_H1K.to(query_BHQK.dtype)
        embedded_ZD = self.dropout(sinusoids(keys + 1, self.distance.in_features, query_BHQK))
        distance_HKZ = self.distance(embedded_ZD).unflatten(-1, (heads, width)).permute(1, 2, 0) * width**-0.5
        scores_BHQZ = torch.matmul(query_BHQK, distance_HKZ)
        return relative_shift(scores_BHQZ)

    def sites(self) -> dict[str, str]:
        """What attention looks at."""
        return super().sites() | {PATTERN: "B, H, T, M + 1"}

    @property
    def window(self) -> int:
        """How many tokens attention reaches back."""
        return self.config.window

    def sizes(self) -> str:
        """Heads, window and positions."""
        config = self.config
        grouped = f", {config.kv_heads} kv" if config.kv_heads != config.num_heads else ""
        heads = f"{config.num_heads} x {config.head_dim}{grouped}"
        return f"{heads}, window {self.window}, {config.positions}{self.made_of()}"

    def mixing_flops(self, context: int) -> int:
        """Scores and weighted sum over the window."""
        products = 3 if self.config.positions == "relative" else 2
        seen = min(context, self.window + 1)
        return 2 * products * seen * self.config.num_heads * self.config.head_dim

    def mixer_state_bytes(self, context: int, itemsize: int) -> int:
        """Keys and values of the window."""
        config = self.config
        return state_bytes(context, self.window, config.kv_heads, config.head_dim, itemsize)
