"""Give every application of a shared block a copy of its own: the same function, free to part in further training."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.model import WeftModel
from weft.pattern import unshared
from weft.pretrained import assign


@torch.no_grad()
def unshare_blocks(model: WeftModel) -> WeftModel:
    """Return a model whose blocks are applied once each, equal to ``model`` bit for bit."""
    # The parameters outside blocks stay; those of a block are copied for each of its applications.
    tensors: dict[str, Tensor] = {}
    named = dict(model.named_parameters(remove_duplicate=False))
    for name, x in named.items():
        if not name.startswith("blocks."):
            tensors[name] = x.detach()
    for new, old in enumerate(model.schedule):
        within = f"blocks.{old}."
        for name, x in named.items():
            if name.startswith(within):
                tensors[f"blocks.{new}.{name.removeprefix(within)}"] = x.detach().clone()
    config = model.config
    blocks = tuple(config.blocks[old] for old in config.schedule)
    with torch.device("meta"):  # takes no memory: it is given its parameters below
        apart = WeftModel(config.with_stack(unshared(config.stack), blocks))
    assign(apart, tensors)
    return apart.eval()
