"""Start a model from some of the blocks of another: a stack that shares blocks from one whose layers are its own.

After Dabre and Fujita 2021 (arXiv 2106.10002): the shared layer starts as one layer of a trained model, whose embedding
and last norm come along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from weft.blocks import BLOCKS
from weft.config import ModelConfig
from weft.data import PreparedData
from weft.errors import UserError
from weft.evaluation.evaluate import total_nats
from weft.evaluation.scoring import score, spread_part
from weft.layers.matrix_product import is_central
from weft.model import WeftModel, build
from weft.pretrained import WEIGHTS, load_config, load_into, load_weights

LOOKED_AT = 20_000  # validation tokens that tell which blocks are best


def transferred(
    config: ModelConfig,
    origin: Path,
    block: int | Literal["best"],
    prepared: PreparedData,
    seed: int,
    tell: Callable[[str], None],
) -> WeftModel:
    """Return the model of ``config`` with the blocks of ``origin`` from number ``block`` on, and all else of it.

    "best" tries all that fit and takes those with which a part of the validation text needs the fewest bits as it is.
    """
    parent, kinds = load_config(origin), config.block_kinds
    weights = load_weights(origin / WEIGHTS)
    fitting = _fitting(config, parent, weights)
    if not fitting:
        raise UserError(
            f"'{origin}' has no blocks {''.join(kinds)} in a row whose maps are made as this pattern's: give a pattern "
            f"with some of {''.join(parent.block_kinds)}{_dense_instead(config, parent)}."
        )
    if block != "best" and block not in fitting:
        places = ", ".join(map(str, fitting))
        what = f"Blocks {''.join(kinds)} of '{origin}'"
        raise UserError(f"{what} begin at {places}, not at {block}: give --init-block one of these.")

    def start(first: int) -> WeftModel:
        model = build(config, seed=seed)
        named = [name for name, _ in model.named_parameters()]
        found = taken(parent, weights, first, len(kinds))
        load_into(model, {name: found[name] for name in named}, origin / WEIGHTS)
        return model

    if block != "best":
        return start(block)
    split = spread_part(prepared.validation, LOOKED_AT, prepared.tokenizer)
    boundary = prepared.tokenizer.boundary_id
    nats = {first: total_nats(score(start(first), split, boundary_id=boundary)) for first in fitting}
    best = min(nats, key=lambda first: nats[first])
    tell(f"Starting from block {best} of '{origin}', of {', '.join(map(str, fitting))} the best as it is.")
    return start(best)


def _dense_instead(config: ModelConfig, parent: ModelConfig) -> str:
    """Say what else would make blocks fit, where maps are not dense on one side."""
    if parent.has_factors:
        return ", or make its maps dense by weft merge first"
    return ", or leave model.maps and { } out, as its maps are dense" if config.has_factors else ""


def taken(parent: ModelConfig, weights: Mapping[str, Tensor], first: int, count: int) -> dict[str, Tensor]:
    """Return the parameters of ``count`` blocks from ``first`` on under the numbers from 0, and those of no block."""
    found = {name: tensor for name, tensor in weights.items() if not name.startswith("blocks.")}
    for number in range(count):
        own = _of_block(parent, weights, first + number)
        found |= {f"blocks.{number}.{name}": tensor for name, tensor in own.items()}
    return found


def _of_block(parent: ModelConfig, weights: Mapping[str, Tensor], block: int) -> dict[str, Tensor]:
    """Return the parameters of a block, with the central tensors that it shares with another."""
    shared, own = f"blocks.{parent.centrals.get(block, block)}.", f"blocks.{block}."
    centrals = {name: x for name, x in weights.items() if name.startswith(shared) and is_central(name)}
    found = {name.removeprefix(shared): x for name, x in centrals.items()}
    return found | {name.removeprefix(own): x for name, x in weights.items() if name.startswith(own)}


def _fitting(config: ModelConfig, parent: ModelConfig, weights: Mapping[str, Tensor]) -> list[int]:
    """Return the numbers of the blocks of ``parent`` from which on its parameters are those of ``config``."""
    with torch.device("meta"):
        ours = [
            (kind, _shapes(BLOCKS[kind](own).named_parameters()))
            for kind, own in zip(config.block_kinds, config.of_blocks(), strict=True)
        ]
    theirs = [
        (kind, _shapes(_of_block(parent, weights, block).items())) for block, kind in enumerate(parent.block_kinds)
    ]
    return [first for first in range(len(theirs)) if theirs[first : first + len(ours)] == ours]


def _shapes(named: Iterable[tuple[str, Tensor]]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in named}
