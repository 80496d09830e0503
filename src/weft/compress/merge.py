"""Multiply the factors of structured maps out: the same function, with dense maps."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.config import MapsConfig
from weft.layers.maps import StructuredMap, merged
from weft.model import WeftModel
from weft.pretrained import assign


@torch.no_grad()
def merge_maps(model: WeftModel) -> WeftModel:
    """Return a model with dense maps alone that computes what ``model`` computes, up to rounding."""
    factored = {name: part for name, part in model.named_modules() if isinstance(part, StructuredMap)}
    within = tuple(f"{name}." for name in factored)
    tensors: dict[str, Tensor] = {
        name: parameter.detach() for name, parameter in model.named_parameters() if not name.startswith(within)
    }
    for name, part in factored.items():
        tensors[f"{name}.weight"] = merged(part)
        if part.bias is not None:
            tensors[f"{name}.bias"] = part.bias.detach()
    pattern = model.config.pattern.translate(str.maketrans("{}", "()"))
    with torch.device("meta"):
        dense = WeftModel(model.config.model_copy(update={"maps": MapsConfig(), "pattern": pattern}))
    assign(dense, tensors)
    return dense.eval()
