"""AdamW, or (Nor)Muon for the hidden matrices with AdamW for the rest; the average of the weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from weft.errors import UserError
from weft.language_model import LanguageModel
from weft.layers.maps import StructuredMap, is_guide, weights
from weft.layers.matrix_product import is_central
from weft.training.muon import Muon
from weft.training.parallel import local
from weft.training.recipe import TrainingConfig

RATE = "rate"  # of a group, by that of the rest


def make_optimizers(model: LanguageModel, config: TrainingConfig) -> list[Optimizer]:
    """Return the optimizers of ``model``'s parameters. Vectors and scalars (norms, biases, gains) do not decay."""
    asked = config.optimizer
    hidden = [] if asked.name == "adamw" else _hidden_matrices(model, asked.muon_takes)
    taken = {id(parameter) for parameter in hidden}
    tables = model.lookup_tables()
    taken |= {id(table) for table in tables}
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": asked.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        {"params": tables, "weight_decay": 0.0, RATE: config.ngrams_rate},  # most rows are read rarely
    ]
    adamw = AdamW([group for group in groups if group["params"]], lr=asked.learning_rate, betas=asked.betas, fused=True)
    if not hidden:
        return [adamw]
    muon = Muon(
        hidden,
        lr=asked.learning_rate,
        weight_decay=asked.weight_decay,
        momentum=asked.momentum,
        normalise=asked.name == "normuon",
    )
    return [muon, adamw]


def train_auxiliaries(model: LanguageModel) -> None:
    """Let only what is in blocks learn, without the central tensors of matrix products (as in MPOP)."""
    named = dict(model.named_parameters())
    if not any(map(is_central, named)):
        raise UserError(
            "training.only=auxiliary is for matrix products, and this model has none: start from what weft tensorise "
            "makes, or leave it out."
        )
    for name, parameter in named.items():
        parameter.requires_grad_(name.startswith("blocks.") and not is_central(name))


def set_learning_rate(optimizers: list[Optimizer], learning_rate: float) -> None:
    """Set the learning rate of every group, some of which have their own by that of the rest."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group.get(RATE, 1.0)


def _hidden_matrices(model: LanguageModel, kinds: Collection[str]) -> list[Tensor]:
    """Return what Muon takes of the linear maps inside blocks, and of what guides them.

    ``kinds`` are of "matrices", "blocks" (of block-diagonal matrices: each is a matrix) and "tensors" (the local ones
    of matrix products).
    """
    dimensions = {size for kind, size in (("matrices", 2), ("blocks", 3), ("tensors", 4)) if kind in kinds}
    maps = list(model.blocks.modules())
    guides = [part.guide_MN for part in maps if isinstance(part, StructuredMap) and part.guide_MN is not None]
    found = [*(weight for part in maps for weight in weights(part)), *guides]
    return list({id(w): w for w in found if w.dim() in dimensions and w.requires_grad}.values())


class ExponentialAverage:
    """A running average of the weights: ``average <- decay * average + (1 - decay) * weights``.

    Early on the decay is smaller (as if it were a plain mean), so that the start is forgotten.
    """

    def __init__(self, model: LanguageModel, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.average = {name: p.detach().clone() for name, p in model.named_parameters() if not is_guide(name)}

    @torch.no_grad()
    def update(self, model: LanguageModel) -> None:
        """Take in the current weights."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        named = dict(model.named_parameters())
        weights = [local(named[name].detach()) for name in self.average]
        torch._foreach_lerp_([local(average) for average in self.average.values()], weights, 1 - decay)

    @torch.no_grad()
    def swap(self, model: LanguageModel) -> None:
        """Exchange the model's weights and the average (call again to change back)."""
        named = dict(model.named_parameters())
        for name, average in self.average.items():
            kept = named[name].detach().clone()
            named[name].copy_(average)
            average.copy_(kept)
