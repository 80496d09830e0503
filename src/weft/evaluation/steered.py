"""A model with edits, to be scored as any other."""

from __future__ import annotations

from torch import Tensor, nn

from weft.layers.sites import Edits
from weft.model import ModelState, WeftModel


class Steered(nn.Module):
    """``model``, whose stream is changed by ``edits`` wherever it is scored; only scoring is asked of it."""

    def __init__(self, model: WeftModel, edits: Edits) -> None:
        super().__init__()
        self.model = model
        self.edits = edits
        self.training = model.training

    @property
    def context(self) -> None:
        """None: state is carried through a text of any length."""

    def surprisal(
        self, tokens: Tensor, targets: Tensor, state: ModelState | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """Return each target's nats (B, T) by the changed model, zero where it is -100, and the state."""
        return self.model.surprisal(tokens, targets, state, reset, edits=self.edits)
