"""A method of training as somebody adds it: this file, and one call that registers it (test_methods.py)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from weft.language_model import LanguageModel
from weft.training.hooks import Hook
from weft.training.methods import MethodConfig
from weft.training.parallel import Processes


class FreezingConfig(MethodConfig):
    """The embeddings learn no more once ``after`` of the budget is used."""

    after: float = Field(default=0.5, ge=0, le=1)

    def build(self, model: LanguageModel, processes: Processes) -> Freezing:
        del processes
        return Freezing(model, self)


class Freezing(Hook):
    def __init__(self, model: LanguageModel, config: FreezingConfig) -> None:
        self.weight = model.embedding.weight_VD
        self.config = config
        self.steps = 0
        self.frozen: Any = None  # the embeddings at that moment

    def before_step(self, done: float) -> None:
        if self.frozen is None and done >= self.config.after:
            self._freeze(self.weight.detach().clone())

    def _freeze(self, frozen: Any) -> None:
        self.frozen = frozen
        self.weight.requires_grad_(False)

    def after_step(self) -> None:
        self.steps += 1

    def end(self) -> None:
        self.steps = -1  # which no checkpoint tells: a run that is stopped goes on as it was

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps} | ({} if self.frozen is None else {"frozen": self.frozen})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        if "frozen" in state:
            self._freeze(state["frozen"])
