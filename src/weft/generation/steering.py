"""Steered writing: edits of the stream, and a push to the state, from the last token of a prompt on.

The first token that is written comes from the last of the prompt. So that one is held back: what stands before it is
read as it is, the state is shifted once, and it is fed with the edits, as is every token from there on.
Shapes: B texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.layers.sites import Edits
from weft.layers.state import map_state
from weft.model import ModelState

Shift = Callable[[ModelState], ModelState]  # weft.inside.shift_state with its delta and multiplier, say


@dataclass(frozen=True)
class Steering:
    """How a text is steered.

    Attributes:
        edits: changes of the stream; without a mask, as a text is read a token at a time.
        shift: a change of the state, made once, before the last token of the prompt.
        everywhere: whether the edits hold for the whole prompt, too.
    """

    edits: Edits | None = None
    shift: Shift | None = None
    everywhere: bool = False

    def pushed(self, state: ModelState, fresh_B: Tensor) -> ModelState:
        """Return the state shifted; that of the texts ``fresh_B``, which begin only now, is emptied before."""
        assert self.shift is not None

        def emptied(part: Tensor) -> Tensor:
            fresh = fresh_B.view(-1, *[1] * (part.dim() - 1))
            return torch.where(fresh, torch.zeros_like(part), part)

        empty: Any = map_state(emptied, state)
        return self.shift(empty)
