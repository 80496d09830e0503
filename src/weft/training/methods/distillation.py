"""Word-level distillation (Hinton et al. 2015; as in recurrent stacking, Dabre and Fujita 2021, arXiv 2106.10002).

    loss = (1 - w) CE(targets) + w t^2 CE(softmax(teacher / t), softmax(student / t)) + h |student - teacher|^2

with CE the mean nats of the scored positions, t the temperature, and the last term the mean square distance
of the normed last hidden states. The teacher reads what the student reads, and its state is carried beside
the student's.
Shapes: B rows of the batch, T positions, N tokens, D model width, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from weft.errors import UserError
from weft.language_model import LanguageModel, State
from weft.layers.cross_entropy import CHUNK_ELEMENTS, FEWEST_ROWS, count_targets
from weft.numbers import Share, Weight
from weft.pretrained import load_model
from weft.training.methods import MethodConfig
from weft.training.objective import Objective
from weft.training.parallel import Processes


class DistillationConfig(MethodConfig):
    """Learning from the run ``run``.

    ``weight`` of the loss is the teacher's, at ``temperature``; ``hidden`` weighs the distance of the hidden
    states, where both models are of one width.
    """

    compiles = False

    run: str
    weight: Share = 0.7
    temperature: float = Field(default=1.0, gt=0, le=1000)
    hidden: Weight = 0.0

    def build(self, model: LanguageModel, processes: Processes) -> Distillation:
        """Return the objective; UserError for a teacher of other tokens or of another width."""
        del processes
        teacher = load_model(Path(self.run))
        if teacher.config.vocab_size != model.config.vocab_size:
            raise UserError(f"The teacher '{self.run}' has another vocabulary: train the student with its tokenizer.")
        return Distillation(model, teacher, self)

    def teacher(self) -> str:
        """Return the run whose tokenizer the student must have."""
        return self.run


class Distillation(Objective):
    """The loss of a student beside its teacher; its state is ``(student's, teacher's)``."""

    def __init__(self, student: LanguageModel, teacher: LanguageModel, config: DistillationConfig) -> None:
        super().__init__(student)
        self.student = student
        self.teacher = teacher.eval().requires_grad_(False)
        self.config = config
        if config.hidden and student.config.hidden_size != teacher.config.hidden_size:
            raise UserError(
                f"training.methods.distillation.hidden compares states of one width, but the student's is "
                f"{student.config.hidden_size} and the teacher's {teacher.config.hidden_size}: leave it out."
            )

    def to(self, device: torch.device) -> None:
        """Put the teacher on the student's device."""
        self.teacher.to(device)

    def empty_state(self, batch_size: int, device: torch.device) -> State:
        """Return both states at a text's start."""
        return super().empty_state(batch_size, device), self.teacher.empty_state(batch_size, device)

    def loss(self, tokens: Tensor, targets: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        """Return the mean nats and both states, as :meth:`weft.model.WeftModel.loss` does for one model."""
        student_state, teacher_state = state
        hidden_BTD, student_state = self.student.hidden(tokens, student_state, reset)
        with torch.no_grad():
            taught_BTD, teacher_state = self.teacher.hidden(tokens, teacher_state, reset)
        config = self.config
        loss = (1 - config.weight) * self.student.embedding.loss(hidden_BTD, targets)
        if config.weight:
            loss = loss + config.weight * config.temperature**2 * self._soft(hidden_BTD, taught_BTD, targets)
        if config.hidden:
            scored_BT1 = (targets >= 0)[..., None]
            distance_BTD = (hidden_BTD.float() - taught_BTD.float()).square() * scored_BT1
            loss = loss + config.hidden * distance_BTD.sum() / (count_targets(targets) * hidden_BTD.shape[-1])
        return loss, (student_state, teacher_state)

    def _soft(self, hidden_BTD: Tensor, taught_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean cross-entropy to the teacher's probabilities; going backwards, logits are made again."""
        rows = max(FEWEST_ROWS, CHUNK_ELEMENTS // self.student.config.vocab_size)
        hidden_chunks = torch.split(hidden_BTD.flatten(0, 1), rows)
        taught_chunks = torch.split(taught_BTD.flatten(0, 1), rows)
        scored_chunks = torch.split(targets_BT.flatten() >= 0, rows)
        nats: list[Any] = []
        for chunk in zip(hidden_chunks, taught_chunks, scored_chunks, strict=True):
            nats.append(checkpoint(self._soft_sum, *chunk, use_reentrant=False))
        return torch.stack(nats).sum() / count_targets(targets_BT)

    def _soft_sum(self, hidden_ND: Tensor, taught_ND: Tensor, scored_N: Tensor) -> Tensor:
        """Return the summed cross-entropy of some tokens, of those that are scored."""
        temperature = self.config.temperature
        with torch.no_grad():
            chances_NV = (self.teacher.embedding.logits(taught_ND[None])[0] / temperature).softmax(-1)
        logs_NV = F.log_softmax(self.student.embedding.logits(hidden_ND[None])[0] / temperature, dim=-1)
        return -((chances_NV * logs_NV).sum(-1) * scored_N).sum()
