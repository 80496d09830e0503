"""Word-level distillation (Hinton et al. 2015; as in recurrent stacking, Dabre and Fujita 2021, arXiv 2106.10002).

    loss = (1 - w) CE(targets) + w t^2 CE(softmax(teacher / t), softmax(student / t)) + h |student - teacher|^2

with CE the mean nats of the scored positions, t the temperature, and the last term the mean square distance of the
normed last hidden states. The teacher reads what the student reads, and its state is carried beside the student's.
Shapes: B lanes, T positions, N tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from weft.errors import UserError
from weft.language_model import LanguageModel, State
from weft.layers.cross_entropy import CHUNK_ELEMENTS, FEWEST_ROWS, count_targets
from weft.pretrained import load_model
from weft.training.recipe import TeacherConfig


def make_distillation(student: LanguageModel, config: TeacherConfig | None) -> Distillation | None:
    """Return the distillation that ``config`` asks for; UserError for a teacher of other tokens."""
    if config is None:
        return None
    teacher = load_model(Path(config.run))
    if teacher.config.vocab_size != student.config.vocab_size:
        raise UserError(f"The teacher '{config.run}' has another vocabulary: train the student with its tokenizer.")
    return Distillation(student, teacher, config)


class Distillation:
    """The loss of a student beside its teacher; its state is ``(student's, teacher's)``."""

    def __init__(self, student: LanguageModel, teacher: LanguageModel, config: TeacherConfig) -> None:
        self.student, self.teacher, self.config = student, teacher.eval().requires_grad_(False), config
        if config.hidden and student.config.hidden_size != teacher.config.hidden_size:
            raise UserError(
                f"training.teacher.hidden compares states of one width, but the student's is "
                f"{student.config.hidden_size} and the teacher's {teacher.config.hidden_size}: leave it out."
            )

    def loss(self, tokens: Tensor, targets: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """Return the mean nats and both states, as :meth:`weft.model.WeftModel.loss` does for one model."""
        own, other = state
        hidden_BTD, own = self.student.hidden(tokens, own, reset)
        with torch.no_grad():
            taught_BTD, other = self.teacher.hidden(tokens, other, reset)
        config, loss = self.config, (1 - self.config.weight) * self.student.embedding.loss(hidden_BTD, targets)
        if config.weight:
            loss = loss + config.weight * config.temperature**2 * self._soft(hidden_BTD, taught_BTD, targets)
        if config.hidden:
            scored_BT1 = (targets >= 0)[..., None]
            distance_BTD = (hidden_BTD.float() - taught_BTD.float()).square() * scored_BT1
            loss = loss + config.hidden * distance_BTD.sum() / (count_targets(targets) * hidden_BTD.shape[-1])
        return loss, (own, other)

    def _soft(self, hidden_BTD: Tensor, taught_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean cross-entropy to the teacher's probabilities; going backwards, logits are made again."""
        rows = max(FEWEST_ROWS, CHUNK_ELEMENTS // self.student.config.vocab_size)
        parts = (hidden_BTD.flatten(0, 1), taught_BTD.flatten(0, 1), targets_BT.flatten() >= 0)
        chunks = zip(*(torch.split(part, rows) for part in parts), strict=True)
        nats: list[Any] = [checkpoint(self._soft_sum, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.stack(nats).sum() / count_targets(targets_BT)

    def _soft_sum(self, hidden_ND: Tensor, taught_ND: Tensor, scored_N: Tensor) -> Tensor:
        """Return the summed cross-entropy of some tokens, of those that are scored."""
        temperature = self.config.temperature
        with torch.no_grad():
            chances_NV = (self.teacher.embedding.logits(taught_ND[None])[0] / temperature).softmax(-1)
        logs_NV = F.log_softmax(self.student.embedding.logits(hidden_ND[None])[0] / temperature, dim=-1)
        return -((chances_NV * logs_NV).sum(-1) * scored_N).sum()
