"""What the blocks with a QRNN's recurrence share: from an input to gates, cells and the output projection.

Shapes: B batch, T time, D model width, I width of what the gates are made from, C cell width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from weft.blocks.base import Block
from weft.config import BlockConfig, MapConfig, Shell
from weft.layers.linear import linear, make_map
from weft.layers.maps import Map
from weft.layers.pooling import GateMap, init_forget_bias_, pool
from weft.layers.sites import CELL, FORGET, OUTPUT, UPDATE, VALUE, At
from weft.numbers import Below1, Width
from weft.ops import GATES

LONGEST_TIME_CONSTANT = 256.0


class RecurrentConfig(BlockConfig):
    """The cells of a block with a QRNN's recurrence, and the maps around them."""

    cell_size: Width
    pooling: Literal["f", "fo", "ifo"] = "fo"
    zoneout: Below1 = 0.0
    output_projection: bool = True
    forget_bias: Literal["classic", "spread"] = "classic"  # at one half: docs/research/forget-gates.md
    maps: MapConfig = MapConfig()

    map_roles: ClassVar[Mapping[str, str]] = {"maps": "qrnn"}

    @classmethod
    def with_widths(cls, given: Mapping[str, Any], hidden_size: int, parts: int) -> dict[str, Any]:  # noqa: ARG003
        """Twice as many cells as the model is wide, or as many where nothing maps them onto it."""
        projected = given.get("output_projection", True)
        return {"cell_size": 2 * hidden_size if projected else hidden_size, **given}

    def may_stretch(self, width: str) -> bool:
        """Not the cells that nothing maps onto the model's width."""
        return self.output_projection or width != "cell_size"

    def check_shell(self, shell: Shell) -> None:
        """Raise ValueError where nothing maps the cells onto the model's width and they are not as many."""
        if not self.output_projection and self.cell_size != shell.hidden_size:
            raise ValueError(
                f"a QRNN without output_projection needs cell_size ({self.cell_size}) equal to hidden_size "
                f"({shell.hidden_size})"
            )


class RecurrentBlock(Block):
    """A block around gates, pooling and an optional output projection."""

    config: RecurrentConfig
    output: Map | None

    def add_recurrence(self, shell: Shell, input_size: int) -> None:
        """Make the maps from ``input_size`` features to the gates and from the cells to the model's width."""
        config = self.config
        cells = config.cell_size
        gates = GATES[config.pooling] * cells
        self.gates = make_map(config.maps, input_size, gates, bias=True, adds_bias=False) or GateMap(input_size, gates)
        self.output = None
        if config.output_projection:
            self.output = linear(config.maps, cells, shell.hidden_size, bias=shell.bias)

    def initialise(self) -> None:
        """Spread the forget biases over time constants, where the configuration asks for it."""
        if self.config.forget_bias == "spread":
            assert self.gates.bias is not None, "gates have theirs always"
            init_forget_bias_(self.gates.bias, self.config.pooling, LONGEST_TIME_CONSTANT)

    def recur(
        self, input_BTI: Tensor, cell_BC: Tensor | None, reset_BT: Tensor | None, at: At | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what is added to the residual stream (B, T, D) and the cell after the last position."""
        config = self.config
        bias = self.gates.bias  # before the call: of parameters that are offloaded nothing is there after it
        gates_BTAC = self.gates(input_BTI)
        hidden_BTC, cell_BC = pool(
            gates_BTAC, bias, cell_BC, reset_BT, config.pooling, config.zoneout, self.training, at
        )
        hidden_BTC = hidden_BTC.to(input_BTI.dtype)
        mixed_BTD = self.output(hidden_BTC) if self.output else hidden_BTC
        return mixed_BTD, cell_BC

    def sites(self) -> dict[str, str]:
        """The gates, values and cells of each position; where cells have no output gate, none of that."""
        names = [FORGET, UPDATE, VALUE, CELL]
        if self.config.pooling != "f":
            names.append(OUTPUT)
        return super().sites() | dict.fromkeys(names, "B, T, C")

    def recurrence_flops(self) -> int:
        """About ten operations a cell: gates, recurrence, output gate."""
        return 10 * self.config.cell_size

    def cell_bytes(self) -> int:
        """The cell, always float32."""
        return 4 * self.config.cell_size
