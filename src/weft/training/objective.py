"""What a training makes smaller, the state that it carries from segment to segment, and what tells which model is best.

The loss of a language model is one objective, :class:`LanguageModelling`; methods of training make others
(:mod:`weft.training.methods`).
Shapes: B rows of the batch, T positions of a segment.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from weft.data import TokenizedSplit
from weft.evaluation.evaluate import total_nats
from weft.evaluation.metrics import compute_metrics
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import score
from weft.language_model import LanguageModel, Scorer, State
from weft.layers.state import detach, map_state, tensors

# (tokens, targets, state, reset) -> (mean nats, state), as it is or compiled.
Loss = Callable[[Tensor, Tensor, State, Tensor], tuple[Tensor, State]]


class Objective:
    """What ``model`` is to learn."""

    compiles = False  # whether the loss is the model's own, which torch.compile takes

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def to(self, device: torch.device) -> None:
        """Put what is not part of the model on the device."""

    @abstractmethod
    def loss(self, tokens: Tensor, targets: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """Return the mean over the scored targets of (B, T) tokens, a scalar, and the state behind them.

        ``targets`` (B, T) are those of the same positions, -100 where there is none; ``reset`` (B, T) is True
        at the first token of each document.
        """

    def empty_state(self, batch_size: int, device: torch.device) -> State:
        """Return the state at a text's start, in the size that it keeps."""
        return self.model.empty_state(batch_size, device)

    def validate(self, scorer: Scorer, split: TokenizedSplit, *, boundary_id: int, progress: Progress) -> float:
        """Return how far from perfect the model is on ``split``: the one with the least is kept as the best.

        Here it is the bits per byte of the model alone, whatever it learns from. ``scorer`` is the model, or
        the module that gathers its shards.
        """
        nats = score(scorer, split, boundary_id=boundary_id, progress=progress)
        return compute_metrics(total_nats(nats), split, 0.0).bits_per_byte


class LanguageModelling(Objective):
    """The next token: the mean nats that the model needs for it."""

    compiles = True

    def loss(self, tokens: Tensor, targets: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """Return the model's own loss."""
        return self.model.loss(tokens, targets, state, reset)


class ForwardPass(nn.Module):
    """The loss as a forward pass, which is what wrappers for several processes synchronise.

    ``state`` gives the structure of the model's state. Here it comes and goes as plain tensors: wrappers take
    tuples of tensors apart. What goes is detached and contiguous, so that nothing larger is kept for a part
    of it, and a compiled loss meets one layout.
    """

    def __init__(self, model: LanguageModel, loss: Loss, state: State) -> None:
        super().__init__()
        self.model = model
        self.loss = loss
        self.state = state

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, reset_BT: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return the loss and the tensors of the state, given those before the segment."""
        loss, after = self.loss(tokens_BT, targets_BT, rebuild(self.state, state), reset_BT)
        return (loss, *map(_by_itself, tensors(detach(after))))

    def surprisal(
        self, tokens: Tensor, targets: Tensor, state: State | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Score with the model, whose parameters may be in shards."""
        return self.model.surprisal(tokens, targets, state, reset)

    @property
    def context(self) -> int | None:
        """The model's."""
        return self.model.context


def _by_itself(part: Tensor) -> Tensor:
    """Return ``part`` contiguous, and with nothing else in its memory."""
    part = part.contiguous()
    if part.untyped_storage().nbytes() == part.nbytes:
        return part
    return part.clone()


def rebuild(like: State, parts: Sequence[Tensor]) -> State:
    """Return ``parts``, in the order of :func:`weft.layers.state.tensors`, in the structure of ``like``."""
    following = iter(parts)

    def following_part(_: Tensor) -> Tensor:
        return next(following)

    return map_state(following_part, like)
