"""Self-guided training (Wei et al. 2024, arXiv 2406.16450): structured maps learn beside a dense one that fades.

    y = s W x + (1 - s) structured(x),   s = (1 + cos(pi t / T)) / 2

for the part t of the budget that is used, up to T (``training.guide.until``). W starts as the matrix that the factors
make, so the first step changes nothing, and is freed at T. In the cheaper form (``training.guide.skip``) a step has the
guide with probability s alone, and else computes the structured map by itself.
"""

from __future__ import annotations

import math

import torch
from torch.optim import Optimizer

from weft.errors import UserError
from weft.language_model import LanguageModel
from weft.layers.maps import StructuredMap
from weft.training.muon import Muon
from weft.training.recipe import GuideConfig


class Guides:
    """The guides of a model in training; without ``config`` there are none."""

    def __init__(self, model: LanguageModel, config: GuideConfig | None, processes: int) -> None:
        self.config = config
        self.maps = [part for part in model.modules() if isinstance(part, StructuredMap)] if config else []
        self.share = torch.ones(())
        if config and not self.maps:
            raise UserError("training.guide is for structured maps, but there are none: set model.maps.")
        if config and processes > 1:
            raise UserError("training.guide trains in one process: leave it out, or launch a single one.")

    def begin(self, device: torch.device) -> None:
        """Set a guide beside every structured map, equal to it."""
        self.share = self.share.to(device)
        for part in self.maps:
            part.guide(part.dense_weight(), self.share)

    def advance(self, done: float, optimizers: list[Optimizer]) -> None:
        """Set the guides' share where ``done`` of the budget is used; once it is 0, take them away."""
        if self.config is None or not self.maps or self.maps[0].guide_MN is None:
            return
        if done >= self.config.until:
            self._end(optimizers)
            return
        share = guide_share(done, self.config.until)
        self.share.fill_(share)
        guided = not self.config.skip or bool(torch.rand(()) < share)
        for part in self.maps:
            part.guided = guided

    def _end(self, optimizers: list[Optimizer]) -> None:
        """Free the guides and what the optimizers know of them; an optimizer of guides alone goes too."""
        guides = {id(part.guide_MN) for part in self.maps}
        for optimizer in optimizers:
            forget(optimizer, guides)
        optimizers[:] = [each for each in optimizers if any(group["params"] for group in each.param_groups)]
        for part in self.maps:
            part.guide(None)


def guide_share(done: float, until: float) -> float:
    """Return the guides' share of the output where ``done`` of the budget is used."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done / until)))


def forget(optimizer: Optimizer, parameters: set[int]) -> None:
    """Take parameters, named by their ``id``, out of an optimizer."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in parameters:
                optimizer.state.pop(parameter, None)
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in parameters]
    if isinstance(optimizer, Muon):
        optimizer.restack()
