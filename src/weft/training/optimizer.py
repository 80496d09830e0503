"""AdamW, or (Nor)Muon for the hidden matrices with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from weft.language_model import LanguageModel
from weft.layers.maps import StructuredMap, weights
from weft.ops.cpu.optimizer import fits
from weft.training.fused import FusedAdamW, FusedMuon, keep_bf16
from weft.training.muon import Muon
from weft.training.precision import use_bf16
from weft.training.recipe import TrainingConfig

RATE = "rate"  # key of a parameter group: its learning rate, by that of the rest
DIMENSIONS = {"matrices": 2, "blocks": 3, "tensors": 4}  # of the parameters that each kind of map has


def make_optimizers(
    model: LanguageModel, config: TrainingConfig, groups: Sequence[Mapping[str, Any]] = ()
) -> list[Optimizer]:
    """Return the optimizers of ``model``'s parameters. Vectors and scalars (norms, biases, gains) do not decay.

    ``groups`` are more parameter groups of AdamW (:meth:`weft.training.hooks.Hook.parameter_groups`): what is
    in them is in no other.
    """
    asked = config.optimizer
    taken = {id(parameter) for group in groups for parameter in group["params"]}
    hidden = []
    if asked.name != "adamw":
        hidden = [weight for weight in _hidden_matrices(model, asked.muon_takes) if id(weight) not in taken]
        taken.update(map(id, hidden))

    # What is left learns with AdamW.
    decaying = []
    constant = []
    for parameter in model.parameters():
        if not parameter.requires_grad or id(parameter) in taken:
            continue
        if parameter.dim() >= 2:
            decaying.append(parameter)
        else:
            constant.append(parameter)
    of_adamw: list[dict[str, Any]] = [
        {"params": decaying, "weight_decay": asked.weight_decay},
        {"params": constant, "weight_decay": 0.0},
        *map(dict, groups),
    ]
    of_adamw = [group for group in of_adamw if group["params"]]
    fused = fits([parameter for parameter in model.parameters() if parameter.requires_grad])
    kind = FusedAdamW if fused else AdamW
    optimizers: list[Optimizer] = [kind(of_adamw, lr=asked.learning_rate, betas=asked.betas, fused=True)]
    if hidden:
        kind_of_muon = FusedMuon if fused else Muon
        muon = kind_of_muon(
            hidden,
            lr=asked.learning_rate,
            weight_decay=asked.weight_decay,
            momentum=asked.momentum,
            normalise=asked.name == "normuon",
        )
        optimizers.insert(0, muon)
    if fused and use_bf16(config.precision, torch.device("cpu")):
        for optimizer in optimizers:
            keep_bf16(optimizer)
    return optimizers


def set_learning_rate(optimizers: list[Optimizer], learning_rate: float) -> None:
    """Set the learning rate of every group, some of which have their own by that of the rest."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group.get(RATE, 1.0)


def _hidden_matrices(model: LanguageModel, kinds: Collection[str]) -> list[Tensor]:
    """Return what Muon takes of the linear maps inside blocks, and of what guides them.

    ``kinds`` are of "matrices", "blocks" (of block-diagonal matrices: each is a matrix) and "tensors" (the
    local ones of matrix products).
    """
    dimensions = {DIMENSIONS[kind] for kind in kinds}
    parts = list(model.blocks.modules())
    found = [weight for part in parts for weight in weights(part)]
    for part in parts:
        if isinstance(part, StructuredMap) and part.guide_MN is not None:
            found.append(part.guide_MN)
    matrices: dict[int, Tensor] = {}  # by identity, as blocks may share them
    for weight in found:
        if weight.dim() in dimensions and weight.requires_grad:
            matrices[id(weight)] = weight
    return list(matrices.values())
