"""Multiply the factors of structured maps out: the same function, with dense maps."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.config import BlockConfig, MapConfig
from weft.layers.maps import StructuredMap, merged
from weft.model import WeftModel
from weft.pretrained import assign


@torch.no_grad()
def merge_maps(model: WeftModel) -> WeftModel:
    """Return a model with dense maps alone that computes what ``model`` computes, up to rounding."""
    factored = {name: part for name, part in model.named_modules() if isinstance(part, StructuredMap)}
    # All parameters that are no factors stay as they are.
    within = tuple(f"{name}." for name in factored)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not name.startswith(within):
            tensors[name] = parameter.detach()
    for name, part in factored.items():
        tensors[f"{name}.weight"] = merged(part)
        if part.bias is not None:
            tensors[f"{name}.bias"] = part.bias.detach()
    # Dense maps share no central tensors.
    stack = model.config.stack
    alone = stack._replace(centrals=(None,) * len(stack.centrals))
    with torch.device("meta"):  # takes no memory: it is given its parameters below
        dense = WeftModel(model.config.with_stack(alone, tuple(map(_with_dense_maps, model.config.blocks))))
    assign(dense, tensors)
    return dense.eval()


def _with_dense_maps(block: BlockConfig) -> BlockConfig:
    return block.changed(**dict.fromkeys(block.all_maps, MapConfig()))
