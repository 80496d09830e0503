"""Quasi-recurrent block: gates from a causal convolution, then a linear recurrence.

Shapes: B batch, T time, D model width, C cell width, W = kernel size - 1 remembered inputs.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from weft.blocks.recurrent import RecurrentBlock, RecurrentConfig
from weft.config import Shell
from weft.layers.sites import At
from weft.layers.state import shiftable


class QRNNConfig(RecurrentConfig):
    """Quasi-recurrent layer (Bradbury et al. 2017, arXiv 1611.01576)."""

    kind: Literal["qrnn"] = "qrnn"
    # Positions that a gate reads. Beside token shift more are of no use: docs/research/token-shift.md.
    kernel_size: int = Field(default=1, gt=0, le=1024)


@shiftable("cell_BC", "inputs_BWD")
class QRNNState(NamedTuple):
    """The cell (float32) and the block's last inputs but the present one, oldest first.

    Inputs from beyond a document's start are zeros.
    """

    cell_BC: Tensor
    inputs_BWD: Tensor


class QRNNBlock(RecurrentBlock):
    """Bradbury et al. 2017 (arXiv 1611.01576), with an output projection and a residual around it."""

    config: QRNNConfig

    def __init__(self, config: QRNNConfig, shell: Shell) -> None:
        super().__init__(config, shell)
        self.add_recurrence(shell, config.kernel_size * shell.hidden_size)

    def mix(
        self, x_BTD: Tensor, state: QRNNState | None, reset_BT: Tensor | None, at: At | None = None
    ) -> tuple[Tensor, QRNNState]:
        """Make the gates from each position's last inputs, run the recurrence."""
        cell_BC, inputs_BWD = (None, None) if state is None else state
        side_by_side, inputs_BWD = _last_inputs(x_BTD, self.kernel_size, inputs_BWD, reset_BT)
        mixed_BTD, cell_BC = self.recur(side_by_side, cell_BC, reset_BT, at)
        return mixed_BTD, QRNNState(cell_BC, inputs_BWD)

    @property
    def kernel_size(self) -> int:
        """How many positions the convolution reads, the present one counted."""
        return self.config.kernel_size

    def sizes(self) -> str:
        """Cells, the convolution's kernel and pooling."""
        config = self.config
        sizes = f"{config.cell_size} cells, kernel size {self.kernel_size}, {config.pooling} pooling"
        return sizes + self.made_of()

    def mixing_flops(self, context: int) -> int:  # noqa: ARG002
        """The recurrence alone."""
        return self.recurrence_flops()

    def mixer_state_bytes(self, context: int, itemsize: int) -> int:  # noqa: ARG002
        """The cell and the remembered inputs."""
        return self.cell_bytes() + itemsize * (self.kernel_size - 1) * self.input_size

    @property
    def input_size(self) -> int:
        """Width of the block's input."""
        return self.gates.in_features // self.kernel_size


def _last_inputs(
    x_BTD: Tensor, kernel_size: int, before_BWD: Tensor | None, reset_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Lay each position's last ``kernel_size`` inputs side by side, newest first; return the inputs to remember, too.

    Inputs from before a document's start count as zeros.
    """
    lags = kernel_size - 1
    if before_BWD is None:
        before_BWD = x_BTD.new_zeros(x_BTD.shape[0], lags, x_BTD.shape[2])
    if lags == 0:
        return x_BTD, before_BWD
    time = x_BTD.shape[1]
    padded = torch.cat([before_BWD.to(x_BTD.dtype), x_BTD], dim=1)
    last = padded[:, time:]
    document_BS = None
    if reset_BT is not None:
        document_BS = F.pad(reset_BT.cumsum(1, dtype=torch.int32), (lags, 0))  # 0: the one from before this piece
        last = last.masked_fill((document_BS[:, time:] != document_BS[:, -1:])[..., None], 0.0)
    views = []
    for lag in range(kernel_size):
        places = slice(lags - lag, lags - lag + time)
        view = padded[:, places]
        if document_BS is not None:
            view = view.masked_fill((document_BS[:, places] != document_BS[:, lags:])[..., None], 0.0)
        views.append(view)
    return torch.cat(views, dim=-1), last
