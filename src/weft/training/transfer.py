"""Start a model from some of the blocks of another: a stack that shares blocks from one whose layers are its own.

After Dabre and Fujita 2021 (arXiv 2106.10002): the shared layer starts as one layer of a trained model, whose embedding
and last norm come along.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from torch import Tensor

from weft.config import ModelConfig
from weft.data import PreparedData
from weft.errors import UserError
from weft.evaluation.evaluate import total_nats
from weft.evaluation.scoring import first_part, score
from weft.folder import WEIGHTS, load_config, load_into, load_weights
from weft.model import WeftModel, build

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
    kinds, theirs = config.block_kinds, load_config(origin).block_kinds
    fitting = [first for first in range(len(theirs)) if theirs[first : first + len(kinds)] == kinds]
    if not fitting:
        raise UserError(
            f"'{origin}' has no blocks {''.join(kinds)} in a row: give a pattern with some of {''.join(theirs)}."
        )
    if block != "best" and block not in fitting:
        places = ", ".join(map(str, fitting))
        what = f"Blocks {''.join(kinds)} of '{origin}'"
        raise UserError(f"{what} begin at {places}, not at {block}: give --init-block one of these.")
    weights = load_weights(origin / WEIGHTS)

    def start(first: int) -> WeftModel:
        model = build(config, seed=seed)
        load_into(model, taken(weights, first, len(kinds)), origin / WEIGHTS)
        return model

    if block != "best":
        return start(block)
    split = first_part(prepared.validation, LOOKED_AT, prepared.tokenizer)
    boundary = prepared.tokenizer.boundary_id
    nats = {first: total_nats(score(start(first), split, boundary_id=boundary)) for first in fitting}
    best = min(nats, key=lambda first: nats[first])
    tell(f"Starting from block {best} of '{origin}', of {', '.join(map(str, fitting))} the best as it is.")
    return start(best)


def taken(weights: dict[str, Tensor], first: int, count: int) -> dict[str, Tensor]:
    """Return the parameters of ``count`` blocks from ``first`` on under the numbers from 0, and those of no block."""
    found = {}
    for name, tensor in weights.items():
        place, _, rest = name.removeprefix("blocks.").partition(".")
        if not name.startswith("blocks."):
            found[name] = tensor
        elif first <= int(place) < first + count:
            found[f"blocks.{int(place) - first}.{rest}"] = tensor
    return found
