"""Position-wise feed-forward block.

Shapes: B batch, T time, D model width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from weft.blocks.base import Block, made_of
from weft.config import FeedForwardConfig, ModelConfig
from weft.layers.activations import relu_squared
from weft.layers.linear import linear
from weft.layers.maps import Map
from weft.layers.state import NoState


class FeedForwardBlock(Block):
    """Two maps with an activation between them (Vaswani et al. 2017).

    Activations: relu; relu squared (So et al. 2021, arXiv 2109.08668); gelu; swiglu, which has a third map that
    gates (Shazeer 2020, arXiv 2002.05202).
    """

    config: FeedForwardConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.config = config.feed_forward
        inner = config.feed_forward.inner_size
        self.activation = config.feed_forward.activation
        make = partial(linear, config.maps.feed_forward, bias=config.bias)
        self.inner = make(config.hidden_size, inner)
        self.gate = make(config.hidden_size, inner) if self.activation == "swiglu" else None
        self.inner_dropout = nn.Dropout(config.feed_forward.dropout)
        self.output: Map = make(inner, config.hidden_size)

    def mix(self, x_BTD: Tensor, state: Any, reset_BT: Tensor | None) -> tuple[Tensor, NoState]:  # noqa: ARG002
        """Apply the maps to each position by itself."""
        inner = self.inner(x_BTD)
        if self.gate is not None:
            inner = F.silu(self.gate(x_BTD)) * inner
        elif self.activation == "gelu":
            inner = F.gelu(inner)
        else:
            inner = relu_squared(inner) if self.activation == "relu_squared" else F.relu(inner)
        return self.output(self.inner_dropout(inner)), NoState()

    def sizes(self) -> str:
        """Width, inner width and activation."""
        sizes = f"{self.inner.in_features} -> {self.config.inner_size}, {self.config.activation}"
        return sizes + made_of("feed_forward", self.maps.feed_forward)

    def mixing_flops(self, context: int) -> int:  # noqa: ARG002
        """Nothing but the maps."""
        return 0

    def mixer_state_bytes(self, context: int, itemsize: int) -> int:  # noqa: ARG002
        """Nothing is remembered."""
        return 0
