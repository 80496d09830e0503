"""Give every application of a shared block a copy of its own: the same function, free to part in further training."""

from __future__ import annotations

import torch
from torch import Tensor

from weft.folder import assign
from weft.model import WeftModel
from weft.pattern import expand, unshared


@torch.no_grad()
def unshare_blocks(model: WeftModel) -> WeftModel:
    """Return a model whose blocks are applied once each, equal to ``model`` bit for bit."""
    pattern = unshared(model.config.pattern)
    copies = {new.block: old for new, old in zip(expand(pattern), model.schedule, strict=True)}
    named = dict(model.named_parameters(remove_duplicate=False))
    tensors: dict[str, Tensor] = {name: x.detach() for name, x in named.items() if not name.startswith("blocks.")}
    for new, old in copies.items():
        within = f"blocks.{old}."
        own = {name.removeprefix(within): x for name, x in named.items() if name.startswith(within)}
        tensors |= {f"blocks.{new}.{name}": x.detach().clone() for name, x in own.items()}
    with torch.device("meta"):
        apart = WeftModel(model.config.model_copy(update={"pattern": pattern}))
    assign(apart, tensors)
    return apart.eval()
