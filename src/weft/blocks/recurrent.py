"""What the blocks with a QRNN's recurrence share: from an input to gates, cells and the output projection.

Shapes: B batch, T time, D model width, I width of what the gates are made from, C cell width.
"""

from __future__ import annotations

from torch import Tensor

from weft.blocks.base import Block
from weft.config import ModelConfig
from weft.layers.linear import linear, make_map
from weft.layers.maps import Map
from weft.layers.pooling import GateMap, pool
from weft.ops import GATES


class RecurrentBlock(Block):
    """A block around gates, pooling and an optional output projection, all as ``config.qrnn`` says."""

    output: Map | None

    def add_recurrence(self, config: ModelConfig, input_size: int) -> None:
        """Make the maps from ``input_size`` features to the gates and from the cells to the model's width."""
        self.qrnn = config.qrnn
        cells = config.qrnn.cell_size
        maps, gates = config.maps.qrnn, GATES[config.qrnn.pooling] * cells
        self.gates = make_map(maps, input_size, gates, bias=True, adds_bias=False) or GateMap(input_size, gates)
        self.output = (
            linear(maps, cells, config.hidden_size, bias=config.bias) if config.qrnn.output_projection else None
        )

    def recur(self, input_BTI: Tensor, cell_BC: Tensor | None, reset_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what is added to the residual stream (B, T, D) and the cell after the last position."""
        qrnn = self.qrnn
        bias = self.gates.bias  # before the call: of parameters that are offloaded nothing is there after it
        gates_BTGC = self.gates(input_BTI)
        hidden_BTC, cell_BC = pool(gates_BTGC, bias, cell_BC, reset_BT, qrnn.pooling, qrnn.zoneout, self.training)
        hidden_BTC = hidden_BTC.to(input_BTI.dtype)
        return (self.output(hidden_BTC) if self.output else hidden_BTC), cell_BC

    def recurrence_flops(self) -> int:
        """About ten operations a cell: gates, recurrence, output gate."""
        return 10 * self.qrnn.cell_size

    def cell_bytes(self) -> int:
        """The cell, always float32."""
        return 4 * self.qrnn.cell_size
