"""Position-wise feed-forward block.

Shapes: B batch, T time, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from weft.blocks.base import Block
from weft.config import BlockConfig, MapConfig, Shell
from weft.layers.activations import relu_squared
from weft.layers.dense import side_by_side
from weft.layers.linear import linear
from weft.layers.maps import Map
from weft.layers.sites import At
from weft.layers.state import NoState
from weft.numbers import Below1, Width


class FeedForwardConfig(BlockConfig):
    """Position-wise feed-forward map of ``inner_size`` hidden units."""

    kind: Literal["feed_forward"] = "feed_forward"
    inner_size: Width
    activation: Literal["relu", "relu_squared", "gelu", "swiglu"] = "relu_squared"
    dropout: Below1 = 0.0  # after the activation
    maps: MapConfig = MapConfig()

    map_roles: ClassVar[Mapping[str, str]] = {"maps": "feed_forward"}

    @classmethod
    def with_widths(cls, given: Mapping[str, Any], hidden_size: int, parts: int) -> dict[str, Any]:  # noqa: ARG003
        """Four times the model's width, or 8/3 of it where there are three maps."""
        inner_size = 4 * hidden_size
        if given.get("activation") == "swiglu":
            inner_size = round(hidden_size * 8 / 3 / 8) * 8  # as many parameters in three maps, in multiples of 8
        return {"inner_size": inner_size, **given}


class FeedForwardBlock(Block):
    """Two maps with an activation between them (Vaswani et al. 2017).

    Activations: relu; relu squared (So et al. 2021, arXiv 2109.08668); gelu; swiglu, which has a third map
    that gates (Shazeer 2020, arXiv 2002.05202).
    """

    config: FeedForwardConfig

    def __init__(self, config: FeedForwardConfig, shell: Shell) -> None:
        super().__init__(config, shell)
        width = shell.hidden_size
        inner = config.inner_size
        self.activation = config.activation
        make = partial(linear, config.maps, bias=shell.bias)
        self.inner = make(width, inner)
        self.gate = make(width, inner) if self.activation == "swiglu" else None
        self.inner_dropout = nn.Dropout(config.dropout)
        self.output: Map = make(inner, width)

    def mix(
        self,
        x_BTD: Tensor,
        state: Any,  # noqa: ARG002
        reset_BT: Tensor | None,  # noqa: ARG002
        at: At | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, NoState]:
        """Apply the maps to each position by itself."""
        if self.gate is not None:
            inner, gate = side_by_side(x_BTD, (self.inner, self.gate))
            inner = F.silu(gate) * inner
            return self.output(self.inner_dropout(inner)), NoState()
        inner = self.inner(x_BTD)
        if self.activation == "gelu":
            inner = F.gelu(inner)
        elif self.activation == "relu_squared":
            inner = relu_squared(inner)
        else:
            inner = F.relu(inner)
        return self.output(self.inner_dropout(inner)), NoState()

    def sizes(self) -> str:
        """Width, inner width and activation."""
        sizes = f"{self.inner.in_features} -> {self.config.inner_size}, {self.config.activation}"
        return sizes + self.made_of()

    def mixing_flops(self, context: int) -> int:  # noqa: ARG002
        """Nothing but the maps."""
        return 0

    def mixer_state_bytes(self, context: int, itemsize: int) -> int:  # noqa: ARG002
        """Nothing is remembered."""
        return 0
