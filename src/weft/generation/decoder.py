"""One token after another: a model with a state of its own, in the form that is fastest where it runs.

A decoder is a private copy of the state, so it may change it in place; the state that
comes out is the model's own.
Shapes: B texts, T positions, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from weft.arguments import told
from weft.errors import UserError
from weft.language_model import LanguageModel, State
from weft.layers.sites import Edits

# Of the weights in the kernel on a CPU: in bf16 they are half the bytes, and reading them is what a token takes.
Precision = Literal["auto", "fp32", "bf16"]
ENDED = -1  # in the place of a token: nobody reads on in this text


def check_precision(precision: Precision) -> None:
    """UserError where there is no such precision."""
    if precision not in get_args(Precision):
        raise UserError(f"'precision' is {told(precision)}: give 'auto', 'fp32' or 'bf16'.")


class Decoder(ABC):
    """Reads one more token of each text at a time, from a state on. It serves one caller, with no gradient."""

    @abstractmethod
    def step(self, tokens_B: Tensor) -> Tensor:
        """Read a token of each text; return float32 logits (B, V), which the next step may overwrite.

        A text whose token is ``ENDED`` is done with: its logits and its state from there on mean nothing.
        """

    @property
    @abstractmethod
    def state(self) -> State:
        """The state after the last token that was read, as the model itself would give it; a copy."""


class PlainDecoder(Decoder):
    """Calls the model: for any model, on any device."""

    def __init__(self, model: LanguageModel, state: State, edits: Edits | None = None) -> None:
        self._model = model
        self._state = state
        self._edited: dict[str, Any] = {} if edits is None else {"edits": edits}  # a baseline takes none

    @torch.no_grad()
    def step(self, tokens_B: Tensor) -> Tensor:
        """Call the model."""
        logits_BTV: Tensor
        logits_BTV, self._state = self._model(tokens_B.clamp(min=0)[:, None], self._state, **self._edited)
        return logits_BTV[:, -1]

    @property
    def state(self) -> State:
        """What the model returned, which no model writes to but one whose cache grows in place."""
        return self._state
