"""A copy of a model that goes on learning from what it has just read, segment by segment.

The equation is in :mod:`weft.evaluation.adaptation`. Shapes: B = 1 lane, T positions, D model width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from weft.data import TokenizedSplit
from weft.errors import UserError
from weft.evaluation.scoring import ScoredSegment, device_of, segments
from weft.language_model import LanguageModel
from weft.layers.state import detach
from weft.numbers import Below1, Count, Rate
from weft.settings import FrozenConfig

LEAST = 1e-12  # of a gradient's usual size: parameters that never had one stay where they are


class Adaptation(FrozenConfig):
    """How the weights move: every ``segment`` tokens by ``rate``, pulled back by ``decay``."""

    segment: Count = 32
    rate: Rate = 2.5e-4
    decay: Below1 = 0.004
    smoothing: Below1 = 0.999


def check_adaptable(model: LanguageModel) -> None:
    """Raise UserError where ``model`` carries no state."""
    if model.context is not None:
        raise UserError("Dynamic evaluation is for models that carry their state: score a baseline without 'adapt'.")


def adapted(
    model: LanguageModel, split: TokenizedSplit, adaptation: Adaptation, *, boundary_id: int
) -> Iterator[tuple[ScoredSegment, LanguageModel, Tensor]]:
    """Yield each segment of ``split`` with a learner and its last hidden states (B, T, D), without a gradient.

    The learner is moved by a segment when the next one is asked for, and it is a copy: ``model`` is left untouched.
    """
    check_adaptable(model)
    learner = copy.deepcopy(model).eval()
    update = _Update(learner, adaptation)
    state = None
    for segment in segments(
        split, lanes=1, length=adaptation.segment, boundary_id=boundary_id, device=device_of(model), in_order=True
    ):
        with torch.enable_grad():
            hidden_BTD, state = learner.hidden(segment.inputs_BT, state, segment.reset_BT)
            loss = learner.embedding.loss(hidden_BTD, segment.targets_BT)
        state = detach(state)
        yield segment, learner, hidden_BTD.detach()
        torch.autograd.backward(loss)
        update()


class _Update:
    """The step after each segment."""

    def __init__(self, model: LanguageModel, adaptation: Adaptation) -> None:
        self.adaptation = adaptation
        self.parameters = list(model.parameters())
        self.trained = [parameter.detach().clone() for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def __call__(self) -> None:
        how = self.adaptation
        self.steps += 1
        known = 1 - how.smoothing**self.steps  # as in Adam: the running mean began at 0
        for parameter, trained, square in zip(self.parameters, self.trained, self.squares, strict=True):
            if parameter.grad is None:
                continue
            square.lerp_(parameter.grad.square(), 1 - how.smoothing)
            usual = (square / known).sqrt_()
            usual += usual.mean() + LEAST
            parameter.addcdiv_(parameter.grad, usual, value=-how.rate)
            parameter.lerp_(trained, how.decay)
            parameter.grad = None
