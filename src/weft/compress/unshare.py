"""Give every application of a shared block a copy of its own: the same function, free to part in further training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from weft.config import ROLES, MapConfig, ModelConfig
from weft.model import WeftModel
from weft.pattern import expand, unshared
from weft.pretrained import assign


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
        apart = WeftModel(_of_copies(model.config, pattern, copies))
    assign(apart, tensors)
    return apart.eval()


def _of_copies(config: ModelConfig, pattern: str, copies: Mapping[int, int]) -> ModelConfig:
    """Return ``config`` with another pattern, whose block n has the maps of block ``copies[n]``."""
    before, apart = config.of_blocks(), config.model_copy(update={"pattern": pattern})
    kinds, changed = apart.block_kinds, {}
    for role, having in ROLES.items():
        own: MapConfig = getattr(config.maps, role)
        if own.kind == "dense":
            continue
        blocks = [block for block, kind in enumerate(kinds) if kind in having and block not in apart.centrals]
        dense = [n for n, block in enumerate(blocks) if getattr(before[copies[block]].maps, role).kind == "dense"]
        changed[role] = own.model_copy(update={"dense_first": 0, "dense_blocks": tuple(dense)})
    return apart.model_copy(update={"maps": config.maps.model_copy(update=changed)})
