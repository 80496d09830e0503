"""Averaged weights (Polyak and Juditsky 1992): validated, sampled from and saved in place of the last ones.

    average <- d * average + (1 - d) * weights,   d = min(decay, n / (n + 10))

after the n-th step: early on it is about a plain mean, so that the start is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from weft.language_model import LanguageModel
from weft.layers.maps import is_guide
from weft.training.hooks import Hook
from weft.training.methods import MethodConfig
from weft.training.parallel import Processes, like, local


class AverageConfig(MethodConfig):
    """An exponential average of the weights."""

    decay: float = Field(gt=0, lt=1)

    def build(self, model: LanguageModel, processes: Processes) -> Average:
        """Return the hook."""
        del processes
        return Average(model, self)


class Average(Hook):
    """A running average of the weights of ``model``."""

    def __init__(self, model: LanguageModel, config: AverageConfig) -> None:
        self.model = model
        self.decay = config.decay
        self.updates = 0
        self.average: dict[str, Tensor] = {}

    def begin(self, optimizers: list[Optimizer]) -> None:
        """Start from the weights, which may be in shards by now."""
        del optimizers
        for name, parameter in self.model.named_parameters():
            if not is_guide(name):  # guides are no part of the model that is saved
                self.average[name] = parameter.detach().clone()

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in the current weights."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        named = dict(self.model.named_parameters())
        weights = [local(named[name].detach()) for name in self.average]
        torch._foreach_lerp_([local(average) for average in self.average.values()], weights, 1 - decay)

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Give the model the averaged weights, and its own back afterwards."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the average."""
        named = dict(self.model.named_parameters())
        for name, average in self.average.items():
            kept = named[name].detach().clone()
            named[name].copy_(average)
            average.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """Return the average by the parameters' names, and how many steps are in it."""
        return {"updates": self.updates, **self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up an average, in shards where the model is."""
        named = dict(self.model.named_parameters())
        self.updates = state["updates"]
        self.average = {name: like(state[name], named[name]) for name in self.average}
