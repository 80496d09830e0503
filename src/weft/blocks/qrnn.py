"""Quasi-recurrent block: gates from a causal convolution, then a linear recurrence.

Shapes: B batch, T time, D model width, C cell width, W = window - 1 remembered inputs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.blocks.recurrent import RecurrentBlock
from weft.config import ModelConfig
from weft.ops import GATES


class QRNNState(NamedTuple):
    """The cell (float32) and the block's last ``window - 1`` inputs, oldest first (zeros beyond a document's start)."""

    cell_BC: Tensor
    inputs_BWD: Tensor


class QRNNBlock(RecurrentBlock):
    """Bradbury et al. 2017 (arXiv 1611.01576), with an output projection and a residual around it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.add_recurrence(config, config.qrnn.window * config.hidden_size)
        self.lag_GD = None
        if config.x.get("gate_shift"):
            gates = GATES[config.qrnn.pooling]
            self.lag_GD = nn.Parameter(torch.full((gates, config.hidden_size), float(config.x["gate_shift"])))

    def mix(self, x_BTD: Tensor, state: QRNNState | None, reset_BT: Tensor | None) -> tuple[Tensor, QRNNState]:
        """Make the gates from each position's window, run the recurrence."""
        if self.lag_GD is not None:
            window_BTD, inputs_BWD = _window(x_BTD, 2, state.inputs_BWD if state else None, reset_BT)
            w = self.gates.weight.view(*self.lag_GD.shape[:1], -1, x_BTD.shape[-1])
            lag = self.lag_GD[:, None]
            whole = torch.cat([w * (1 - lag), w * lag], -1).flatten(0, 1)
            gates_BTGC = F.linear(window_BTD, whole.to(window_BTD.dtype))
            mixed_BTD, cell_BC = self.recur(x_BTD, state.cell_BC if state else None, reset_BT, gates_BTGC)
            return mixed_BTD, QRNNState(cell_BC, inputs_BWD)
        window_BTD, inputs_BWD = _window(x_BTD, self.qrnn.window, state.inputs_BWD if state else None, reset_BT)
        mixed_BTD, cell_BC = self.recur(window_BTD, state.cell_BC if state else None, reset_BT)
        return mixed_BTD, QRNNState(cell_BC, inputs_BWD)

    def mixing_flops(self, context: int) -> int:  # noqa: ARG002
        """The recurrence alone."""
        return self.recurrence_flops()

    def state_bytes(self, context: int, itemsize: int = 4) -> int:  # noqa: ARG002
        """The cell and the remembered inputs."""
        return self.cell_bytes() + itemsize * (self.qrnn.window - 1) * self.input_size

    @property
    def input_size(self) -> int:
        """Width of the block's input."""
        return self.gates.in_features // self.qrnn.window


def _window(x_BTD: Tensor, window: int, before_BWD: Tensor | None, reset_BT: Tensor | None) -> tuple[Tensor, Tensor]:
    """Lay each position's last ``window`` inputs side by side, newest first; return the inputs to remember, too.

    Inputs from before a document's start count as zeros.
    """
    lags = window - 1
    if before_BWD is None:
        before_BWD = x_BTD.new_zeros(x_BTD.shape[0], lags, x_BTD.shape[2])
    if lags == 0:
        return x_BTD, before_BWD
    time = x_BTD.shape[1]
    padded = torch.cat([before_BWD.to(x_BTD.dtype), x_BTD], dim=1)
    views = [padded[:, lags - lag : lags - lag + time] for lag in range(window)]
    last = padded[:, time:]
    if reset_BT is not None:
        document_BS = F.pad(reset_BT.cumsum(1, dtype=torch.int32), (lags, 0))  # 0: the one from before this piece
        same = [document_BS[:, lags - lag : lags - lag + time] == document_BS[:, lags:] for lag in range(window)]
        views = [view.masked_fill(~inside[..., None], 0.0) for view, inside in zip(views, same, strict=True)]
        last = last.masked_fill((document_BS[:, time:] != document_BS[:, -1:])[..., None], 0.0)
    return torch.cat(views, dim=-1), last
