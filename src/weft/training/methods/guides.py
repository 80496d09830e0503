"""Self-guided training (Wei et al. 2024, arXiv 2406.16450): structured maps learn beside a dense one that fades.

    y = s W x + (1 - s) structured(x),   s = (1 + cos(pi t / T)) / 2

for the part t of the budget that is used, up to T (``until``). W starts as the matrix that the factors
make, so the first step changes nothing, and is freed at T. In the cheaper form (``skip``) a step has the
guide with probability s alone, and else computes the structured map by itself.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch.optim import Optimizer

from weft.errors import UserError
from weft.language_model import LanguageModel
from weft.layers.maps import StructuredMap
from weft.training.hooks import Hook
from weft.training.methods import MethodConfig
from weft.training.muon import Muon
from weft.training.parallel import Processes


class GuidesConfig(MethodConfig):
    """Dense guides of structured maps, gone once ``until`` of the budget is used; ``skip`` is the cheaper form."""

    until: float = Field(default=0.5, gt=0, le=1)
    skip: bool = False

    def build(self, model: LanguageModel, processes: Processes) -> Guides:
        """Return the hook; UserError for a model without structured maps, and for several processes."""
        if processes.count > 1:
            raise UserError("training.methods.guides trains in one process: leave it out, or launch a single one.")
        return Guides(model, self)


class Guides(Hook):
    """The guides of a model in training, for as long as they last."""

    def __init__(self, model: LanguageModel, config: GuidesConfig) -> None:
        self.config = config
        self.maps = [part for part in model.modules() if isinstance(part, StructuredMap)]
        if not self.maps:
            raise UserError("training.methods.guides is for structured maps, but there are none: set model.maps.")
        self.share = torch.ones(())
        self.optimizers: list[Optimizer] = []

    @property
    def active(self) -> bool:
        """Whether the guides are still there."""
        return self.maps[0].guide_MN is not None

    def prepare(self) -> None:
        """Set a guide beside every structured map, equal to it."""
        self.share = self.share.to(self.maps[0].factors()[0].device)
        for part in self.maps:
            part.guide(part.dense_weight(), self.share)

    def begin(self, optimizers: list[Optimizer]) -> None:
        """Keep the optimizers, which must forget the guides in the end."""
        self.optimizers = optimizers

    def before_step(self, done: float) -> None:
        """Set the guides' share where ``done`` of the budget is used; once it is 0, take them away."""
        if not self.active:
            return
        if done >= self.config.until:
            self._free()
            return
        share = guide_share(done, self.config.until)
        self.share.fill_(share)  # in place: the maps hold this tensor
        guided = not self.config.skip or bool(torch.rand(()) < share)
        for part in self.maps:
            part.guided = guided

    def _free(self) -> None:
        """Free the guides and what the optimizers know of them; an optimizer of guides alone goes too."""
        guides = {id(part.guide_MN) for part in self.maps}
        for optimizer in self.optimizers:
            forget(optimizer, guides)
        kept = [each for each in self.optimizers if any(group["params"] for group in each.param_groups)]
        self.optimizers[:] = kept  # the learner's own list
        for part in self.maps:
            part.guide(None)

    def state_dict(self) -> dict[str, Any]:
        """Tell whether the guides are still there: they are saved with the model's parameters."""
        return {"active": self.active}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the guides away where they had ended."""
        if not state["active"]:
            self._free()


def guide_share(done: float, until: float) -> float:
    """Return the guides' share of the output where ``done`` of the budget is used."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done / until)))


def forget(optimizer: Optimizer, parameters: set[int]) -> None:
    """Take parameters, named by their ``id``, out of an optimizer."""
    for group in optimizer.param_groups:
        kept = []
        for parameter in group["params"]:
            if id(parameter) in parameters:
                optimizer.state.pop(parameter, None)
            else:
                kept.append(parameter)
        group["params"] = kept
    if isinstance(optimizer, Muon):
        optimizer.restack()
