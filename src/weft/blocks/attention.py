"""Multi-head causal attention over a window that goes from piece to piece.

Shapes: B batch, T time, D width, H heads, G key-value heads, K head width, C queries, S keys, Z = S + 1 distances.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from weft.blocks.base import Block, made_of
from weft.config import AttentionConfig, ModelConfig
from weft.layers.linear import linear
from weft.layers.maps import Map
from weft.layers.norms import make_norm
from weft.layers.positions import relative_shift, sinusoids
from weft.layers.window_attention import AttentionState, state_bytes, window_attention


class AttentionBlock(Block):
    """Attention over the last ``window`` positions (Vaswani et al. 2017; Transformer-XL, Dai et al. 2019).

    Positions are rotary, Transformer-XL's relative ones (with its learned u and v biases, one pair a layer), or none.
    """

    config: AttentionConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        attention = config.attention
        width = config.hidden_size
        self.config = attention
        inner, kv_inner = attention.num_heads * attention.head_dim, attention.kv_heads * attention.head_dim
        make = partial(linear, config.maps.attention)
        self.query = make(width, inner)
        self.key = make(width, kv_inner)
        self.value = make(width, kv_inner)
        self.output: Map = make(inner, width)
        normed = attention.query_key_norm
        self.query_norm = make_norm("rms", attention.head_dim) if normed else nn.Identity()
        self.key_norm = make_norm("rms", attention.head_dim) if normed else nn.Identity()
        if attention.positions == "relative":
            self.distance = nn.Linear(width, inner, bias=False)
            self.content_bias = nn.Parameter(torch.zeros(inner))  # u of Dai et al.
            self.position_bias = nn.Parameter(torch.zeros(inner))  # v of Dai et al.

    def mix(
        self, x_BTD: Tensor, state: AttentionState | None, reset_BT: Tensor | None
    ) -> tuple[Tensor, AttentionState]:
        """Attend over the window."""
        config = self.config
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
        )
        return self.output(attended_BTHK.flatten(2)), state

    def _position_scores(self, query_BHCK: Tensor, keys: int) -> Tensor:
        """Return the scaled scores (q + v) r by distance (Dai et al. 2019, terms b and d), laid out by key."""
        heads, width = self.config.num_heads, self.config.head_dim
        bias_H1K = (self.position_bias - self.content_bias).view(heads, 1, width)
        query_BHCK = query_BHCK + bias_H1K.to(query_BHCK.dtype)
        embedded_ZD = self.dropout(sinusoids(keys + 1, self.distance.in_features, query_BHCK))
        distance_HKZ = self.distance(embedded_ZD).unflatten(-1, (heads, width)).permute(1, 2, 0) * width**-0.5
        scores_BHCZ = torch.matmul(query_BHCK, distance_HKZ)
        return relative_shift(scores_BHCZ)

    @property
    def window(self) -> int:
        """How many tokens attention reaches back."""
        return self.config.memory

    def sizes(self) -> str:
        """Heads, window and positions."""
        config = self.config
        grouped = f", {config.kv_heads} kv" if config.kv_heads != config.num_heads else ""
        heads = f"{config.num_heads} x {config.head_dim}{grouped}"
        return f"{heads}, window {self.window}, {config.positions}{made_of('attention', self.maps.attention)}"

    def mixing_flops(self, context: int) -> int:
        """Scores and weighted sum over the window."""
        products = 3 if self.config.positions == "relative" else 2
        seen = min(context, self.window + 1)
        return 2 * products * seen * self.config.num_heads * self.config.head_dim

    def mixer_state_bytes(self, context: int, itemsize: int) -> int:
        """Keys and values of the window."""
        config = self.config
        return state_bytes(context, self.window, config.kv_heads, config.head_dim, itemsize)
