"""The one interface of all blocks, and the residual shell that they share.

Shapes: B batch, T time, D model width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from weft.config import ModelConfig
from weft.layers.norms import make_norm


class Block(nn.Module):
    """A residual block: ``y = x + mix(norm(x))`` (pre-norm) or ``y = norm(x + mix(x))`` (post-norm).

    A subclass implements :meth:`mix` and the two figures that ``weft describe`` shows. The map whose output is
    added to the residual stream, if there is one, is called ``output``: its initial values are special.
    """

    output: nn.Linear | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = make_norm(config.norm, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.pre_norm = config.norm_placement == "pre"
        how = config.x.get("block_gate")
        self.gain = nn.Parameter(torch.ones(1)) if how else None
        self.gate = nn.Parameter(torch.zeros(config.hidden_size)) if how else None
        self.gate_scale = float(how or 1) / config.hidden_size**0.5
        kind = {"AttentionBlock": "a", "FeedForwardBlock": "f", "QRNNBlock": "q"}.get(type(self).__name__, "")
        self.mu = nn.Parameter(torch.full((config.hidden_size,), 0.3)) if kind and kind in config.x.get("shift", "") else None

    def forward(self, x_BTD: Tensor, state: Any = None, *, reset_BT: Tensor | None = None) -> tuple[Tensor, Any]:
        """Return ``(y_BTD, state)``.

        ``state`` is what an earlier call returned (None at the start of a text); ``reset_BT`` is True at the
        first token of a document: nothing crosses it.
        """
        h_BTD = self.norm(x_BTD) if self.pre_norm else x_BTD
        if self.mu is not None:
            h_BTD = h_BTD + self.mu.to(h_BTD.dtype) * (nn.functional.pad(h_BTD, (0, 0, 1, 0))[:, :-1] - h_BTD)
        mixed_BTD, state = self.mix(h_BTD, state, reset_BT)
        if self.gate is not None:
            s = 2 * self.gain * torch.sigmoid((h_BTD * self.gate.to(h_BTD.dtype)).sum(-1, keepdim=True).float() * self.gate_scale)
            return torch.addcmul(x_BTD, self.dropout(mixed_BTD).to(x_BTD.dtype), s), state
        y_BTD = x_BTD + self.dropout(mixed_BTD)
        return (y_BTD if self.pre_norm else self.norm(y_BTD)), state

    @abstractmethod
    def mix(self, x_BTD: Tensor, state: Any, reset_BT: Tensor | None) -> tuple[Tensor, Any]:
        """Return what is added to the residual stream, and the state after the last position."""

    @abstractmethod
    def mixing_flops(self, context: int) -> int:
        """Return the forward operations per token, at ``context`` tokens, that are not products with parameters."""

    @abstractmethod
    def state_bytes(self, context: int, itemsize: int = 4) -> int:
        """Return the bytes of one sequence's state after ``context`` tokens, with numbers of ``itemsize`` bytes."""
