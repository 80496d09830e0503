"""The one interface of all blocks, and the residual shell that they share.

Shapes: B batch, T time, D model width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.config import BlockConfig, MapConfig, Shell
from weft.layers.maps import Map
from weft.layers.norms import RMSNorm, make_norm
from weft.layers.shell import can_enter, can_leave, enter, leave
from weft.layers.sites import ADDED, GATE, At
from weft.layers.state import zeros
from weft.layers.token_shift import ShiftedState, TokenShift


class Block(nn.Module):
    """A residual block: ``y = x + s mix(h)``, h = norm(x) (pre-norm), or ``y = norm(x + s mix(h))``, h = x (post-norm).

    The factor s is 1, or with ``shell.block_gates`` a number for each position, by which a block says how
    much it adds: ``2 g sigmoid(h . w / sqrt(D))`` with a gain g that starts at 1 and weights w that start at
    0. With ``shell.token_shift``, h is shifted first (:mod:`weft.layers.token_shift`) and the state is a
    ``ShiftedState``.

    A block is made from its own configuration, which it keeps as ``config``, and the shell, which it shares
    with all others. A subclass implements :meth:`mix` and what ``weft describe`` shows: :meth:`sizes` and two
    figures; one that attends says how far back (:attr:`window`). The map whose output is added to the
    residual stream, if there is one, is called ``output``: its initial values are special. Whoever wants to
    know a size asks the block: two blocks of one kind may differ in all but the width of the stream.
    """

    config: BlockConfig
    output: Map | None

    def __init__(self, config: BlockConfig, shell: Shell) -> None:
        super().__init__()
        self.config = config
        self.output = None
        self.hidden_size = shell.hidden_size
        self.norm = make_norm(shell.norm, shell.hidden_size)
        self.dropout = nn.Dropout(shell.dropout)
        self.pre_norm = shell.norm_placement == "pre"
        self.token_shift = TokenShift(shell.hidden_size) if shell.token_shift else None
        self.block_gate = nn.Parameter(torch.zeros(shell.hidden_size)) if shell.block_gates else None  # w
        self.block_gain = nn.Parameter(torch.ones(1)) if shell.block_gates else None  # g

    def forward(
        self, x_BTD: Tensor, state: Any = None, *, reset_BT: Tensor | None = None, at: At | None = None
    ) -> tuple[Tensor, Any]:
        """Return ``(y_BTD, state)``.

        ``state`` is what an earlier call returned (None at the start of a text); ``reset_BT`` is True at the
        first token of a document: nothing crosses it. ``at`` says who looks at what is inside, or changes it.
        """
        # The state is the mixer's and, with token shift, beside it the last input before the shift.
        before_BD = None
        if self.token_shift is not None and state is not None:
            before_BD = state.last_BD
            state = state.mixer
        x_BTD, h_BTD, last_BD = self._enter(x_BTD, before_BD, reset_BT)
        mixed_BTD, state = self.mix(h_BTD, state, reset_BT, at)
        if last_BD is not None:
            state = ShiftedState(state, last_BD)
        mixed_BTD = self.dropout(mixed_BTD)
        if at is not None and (at.replaces or at.wants(ADDED, GATE)):
            return self._leave_by_parts(x_BTD, mixed_BTD, h_BTD, at), state
        return self._leave(x_BTD, mixed_BTD, h_BTD), state

    def _enter(
        self, x_BTD: Tensor, before_BD: Tensor | None, reset_BT: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the stream, what the mixer reads, and what token shift remembers (None without it)."""
        if self.pre_norm and can_enter(x_BTD, self.norm, self.token_shift, before_BD, reset_BT):
            return enter(x_BTD, cast("RMSNorm", self.norm), self.token_shift, before_BD, reset_BT)
        h_BTD = self.norm(x_BTD) if self.pre_norm else x_BTD
        if self.token_shift is None:
            return x_BTD, h_BTD, None
        h_BTD, last_BD = self.token_shift(h_BTD, before_BD, reset_BT)
        return x_BTD, h_BTD, last_BD

    def _leave(self, x_BTD: Tensor, mixed_BTD: Tensor, h_BTD: Tensor) -> Tensor:
        """Return the stream with what the mixer adds to it."""
        if self.block_gate is None or self.block_gain is None:
            y_BTD = x_BTD + mixed_BTD
        elif can_leave(x_BTD, mixed_BTD, h_BTD, self.block_gate, self.block_gain):
            y_BTD = leave(x_BTD, mixed_BTD, h_BTD, self.block_gate, self.block_gain)
        else:
            factor_BT1 = self._factor(h_BTD, self.block_gate, self.block_gain).to(x_BTD.dtype)
            y_BTD = torch.addcmul(x_BTD, mixed_BTD.to(x_BTD.dtype), factor_BT1)
        if not self.pre_norm:
            y_BTD = self.norm(y_BTD)
        return y_BTD

    def _leave_by_parts(self, x_BTD: Tensor, mixed_BTD: Tensor, h_BTD: Tensor, at: At) -> Tensor:
        """Return what :meth:`_leave` does; what is added is made by itself, to be seen or replaced."""
        added_BTD = mixed_BTD.to(x_BTD.dtype)
        if self.block_gate is not None and self.block_gain is not None:
            factor_BT1 = self._factor(h_BTD, self.block_gate, self.block_gain).to(x_BTD.dtype)
            at.see(GATE, factor_BT1[..., 0])
            added_BTD = factor_BT1 * added_BTD
        if at.edits is not None:
            added_BTD = at.edits.of_added(at.depth, added_BTD)
        at.see(ADDED, added_BTD)
        y_BTD = x_BTD + added_BTD
        if not self.pre_norm:
            y_BTD = self.norm(y_BTD)
        return y_BTD

    @staticmethod
    def _factor(h_BTD: Tensor, weight_D: Tensor, gain: Tensor) -> Tensor:
        """Return s = 2 g sigmoid(h . w / sqrt(D)), (B, T, 1)."""
        return 2 * gain * F.linear(h_BTD, weight_D[None] * h_BTD.shape[-1] ** -0.5).sigmoid()

    @abstractmethod
    def mix(self, x_BTD: Tensor, state: Any, reset_BT: Tensor | None, at: At | None = None) -> tuple[Tensor, Any]:
        """Return what is added to the residual stream, and the state after the last position.

        Where ``at`` wants a site of :meth:`sites`, it is shown what stands there.
        """

    def sites(self) -> dict[str, str]:
        """Return the names of the sites inside the block, with the shapes of what stands there."""
        own = {ADDED: "B, T, D"}
        if self.block_gate is not None:
            own[GATE] = "B, T"
        return own

    def initialise(self) -> None:
        """Set the initial values of this kind's own, after those of all linear maps and norms are set."""

    @property
    def window(self) -> int:
        """How many tokens attention reaches back; 0 without attention."""
        return 0

    @abstractmethod
    def sizes(self) -> str:
        """Return the block's sizes in a few words, such as ``4 x 32, window 256, rotary``."""

    def made_of(self) -> str:
        """Say in a few words what the maps are made of, by their roles; "" where they are dense."""
        told = ""
        for field, role in self.config.map_roles.items():
            told += _made_of(role, getattr(self.config, field))
        return told

    @torch.no_grad()
    def empty_state(self, batch_size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
        """Return the state at a text's start in the size that it has later: zeros, which blocks take for none.

        ``dtype`` is that of the residual stream. What a state holds and in which precision is decided by
        :meth:`mix`, also under autocast; so the block reads a window of zeros, and what it then remembers
        gives the form.
        """
        x_BTD = torch.zeros(1, max(1, self.window), self.hidden_size, device=device, dtype=dtype)
        training = self.training
        _, state = self.eval()(x_BTD)  # in training, dropout and zoneout would draw random numbers
        self.train(training)
        return zeros(state, batch_size)

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


def _made_of(role: str, maps: MapConfig) -> str:
    if maps.kind == "dense":
        return ""
    details = []
    if maps.kind in ("block_dense", "block_shuffle"):
        details.append(f"{maps.blocks} blocks")
    if maps.kind in ("low_rank", "block_dense"):
        details.append(f"rank {maps.rank}" if maps.rank else f"{maps.share:.0%}")
    if maps.kind == "matrix_product" and maps.bond:
        details.append(f"bonds up to {maps.bond}")
    if maps.kind == "matrix_product" and maps.adapter:
        details.append(f"adapter {maps.adapter}")
    written = f" ({', '.join(details)})" if details else ""
    return f"; {role} {maps.kind}{written}"
