"""AdamW, or (Nor)Muon for the hidden matrices with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import AdamW, Optimizer

from weft.language_model import LanguageModel
from weft.layers.maps import StructuredMap, weights
from weft.training.muon import Muon
from weft.training.recipe import TrainingConfig

RATE = "rate"  # key of a parameter group: its learning rate, by that of the rest


def make_optimizers(
    model: LanguageModel, config: TrainingConfig, groups: Sequence[Mapping[str, Any]] = ()
) -> list[Optimizer]:
    """Return the optimizers of ``model``'s parameters. Vectors and scalars (norms, biases, gains) do not decay.

    ``groups`` are more parameter groups of AdamW (:meth:`weft.training.hooks.Hook.parameter_groups`): what is in them
    is in no other.
    """
    apart = {id(parameter) for group in groups for parameter in group["params"]}
    asked = config.optimizer
    hidden = []
    if asked.name != "adamw":
        hidden = [p for p in _hidden_matrices(model, asked.muon_takes) if id(p) not in apart]
    taken = apart | {id(parameter) for parameter in hidden}
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in taken]
    of_adamw: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.dim() >= 2], "weight_decay": asked.weight_decay},
        {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        *(dict(group) for group in groups),
    ]
    of_adamw = [group for group in of_adamw if group["params"]]
    adamw = AdamW(of_adamw, lr=asked.learning_rate, betas=asked.betas, fused=True)
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
