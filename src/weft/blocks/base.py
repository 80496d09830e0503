"""The one interface of all blocks, and the residual shell that they share.

Shapes: B batch, T time, D model width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.config import ModelConfig
from weft.layers.maps import Map
from weft.layers.norms import make_norm
from weft.layers.token_shift import ShiftedState, TokenShift


class Block(nn.Module):
    """A residual block: ``y = x + s mix(h)``, h = norm(x) (pre-norm), or ``y = norm(x + s mix(h))``, h = x (post-norm).

    The factor s is 1, or with ``config.block_gates`` a number for each position, by which a block says how much it
    adds: ``2 g sigmoid(h . w / sqrt(D))`` with a gain g that starts at 1 and weights w that start at 0. With
    ``config.token_shift``, h is shifted first (:mod:`weft.layers.token_shift`) and the state is a ``ShiftedState``.

    A subclass implements :meth:`mix` and the two figures that ``weft describe`` shows. The map whose output is
    added to the residual stream, if there is one, is called ``output``: its initial values are special.
    """

    output: Map | None

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = make_norm(config.norm, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.pre_norm = config.norm_placement == "pre"
        self.token_shift = TokenShift(config.hidden_size) if config.token_shift else None
        self.block_gate = nn.Parameter(torch.zeros(config.hidden_size)) if config.block_gates else None
        self.block_gain = nn.Parameter(torch.ones(1)) if config.block_gates else None

    def forward(self, x_BTD: Tensor, state: Any = None, *, reset_BT: Tensor | None = None) -> tuple[Tensor, Any]:
        """Return ``(y_BTD, state)``.

        ``state`` is what an earlier call returned (None at the start of a text); ``reset_BT`` is True at the
        first token of a document: nothing crosses it.
        """
        h_BTD = self.norm(x_BTD) if self.pre_norm else x_BTD
        if self.token_shift is None:
            mixed_BTD, state = self.mix(h_BTD, state, reset_BT)
        else:
            before_BD, before = (state.last_BD, state.mixer) if state is not None else (None, None)
            h_BTD, last_BD = self.token_shift(h_BTD, before_BD, reset_BT)
            mixed_BTD, after = self.mix(h_BTD, before, reset_BT)
            state = ShiftedState(after, last_BD)
        mixed_BTD = self.dropout(mixed_BTD)
        if self.block_gate is None or self.block_gain is None:
            y_BTD = x_BTD + mixed_BTD
        else:
            gate_BT1 = F.linear(h_BTD, self.block_gate[None] * h_BTD.shape[-1] ** -0.5).sigmoid().to(x_BTD.dtype)
            y_BTD = torch.addcmul(x_BTD, mixed_BTD.to(x_BTD.dtype), 2 * self.block_gain * gate_BT1)
        return (y_BTD if self.pre_norm else self.norm(y_BTD)), state

    @abstractmethod
    def mix(self, x_BTD: Tensor, state: Any, reset_BT: Tensor | None) -> tuple[Tensor, Any]:
        """Return what is added to the residual stream, and the state after the last position."""

    @abstractmethod
    def mixing_flops(self, context: int) -> int:
        """Return the forward operations per token, at ``context`` tokens, that are not products with parameters."""

    def state_bytes(self, context: int, itemsize: int = 4) -> int:
        """Return the bytes of one sequence's state after ``context`` tokens, with numbers of ``itemsize`` bytes."""
        shifted = 0 if self.token_shift is None else itemsize * self.token_shift.share.numel()
        return self.mixer_state_bytes(context, itemsize) + shifted

    @abstractmethod
    def mixer_state_bytes(self, context: int, itemsize: int) -> int:
        """Return those of what :meth:`mix` remembers."""
