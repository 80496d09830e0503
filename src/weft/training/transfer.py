"""Start a model from some of the blocks of another: a stack that shares blocks from one whose layers are its own.

After Dabre and Fujita 2021 (arXiv 2106.10002): the shared layer starts as one layer of a trained model, whose
embedding and last norm come along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from weft.config import BlockConfig, ModelConfig
from weft.data import PreparedData
from weft.draft import open_blocks
from weft.errors import UserError
from weft.evaluation.evaluate import total_nats
from weft.evaluation.scoring import score, spread_part
from weft.kinds import kind_of
from weft.layers.matrix_product import is_central
from weft.model import WeftModel, build
from weft.model_recipe import ModelRecipe
from weft.pattern import expand
from weft.pretrained import WEIGHTS, load_config, load_into, load_weights

FREE = ("dropout",)  # fields of the shell on which no parameters depend; a kind of block says its own
LOOKED_AT = 20_000  # validation tokens that tell which blocks are best


def laid_over(config: ModelConfig, recipe: ModelRecipe) -> tuple[ModelConfig, list[str]]:
    """Return a run's model with what ``recipe`` says, and the keys of what it says that cannot change.

    Only fields on which no parameters depend can (:data:`FREE`, :attr:`weft.config.BlockConfig.free`).
    """
    changed = []

    # The model around the blocks.
    free: dict[str, Any] = {}
    for name, value in recipe.shell.items():
        before = getattr(config, name)
        if name in FREE:
            free[name] = value
        elif isinstance(value, Mapping):  # a section, of which some values are said
            known = before.model_dump() if before else {}
            for key, said_value in value.items():
                if key not in known or known[key] != said_value:
                    changed.append(f"model.{name}.{key}")
        elif value != before:
            changed.append(f"model.{name}")

    # The pattern, which may be said in other words.
    stack = config.stack
    if recipe.pattern:
        said = expand(recipe.pattern, recipe.letters)
        letters = tuple(recipe.of_letter(letter)[0].letter for letter in said.letters)
        if (letters, said.schedule, said.centrals) == (stack.letters, stack.schedule, stack.centrals):
            stack = said  # with the letters of the recipe's own
        else:
            changed.append("model.pattern")

    # The blocks, each with the values that the recipe says of it.
    blocks: list[BlockConfig] = []
    for block, asked in zip(config.blocks, open_blocks(recipe, stack), strict=True):
        given = {key: value for key, value in asked.given.items() if key in asked.said}
        free_of_block = _free_values(block, given)
        after = block.changed(**free_of_block)
        for key, value in given.items():
            if after.changed(**{key: value}) != after:
                changed.append(asked.said[key])
        blocks.append(after)
    return config.changed(**free, blocks=tuple(blocks)), list(dict.fromkeys(changed))  # each key once


def _free_values(block: BlockConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of ``given``, fields of a block, no parameters depend on."""
    return {key: value for key, value in given.items() if key in block.free}


def candidates(parent: ModelConfig, recipe: ModelRecipe, origin: Path) -> dict[int, ModelConfig]:
    """Return the models of the recipe's pattern whose blocks are some of ``parent`` in a row, by the first of these.

    Blocks come with their own settings, of which a letter of the recipe's own may change what has no
    parameters. Raises UserError where no blocks are of the kinds that the pattern has.
    """
    assert recipe.pattern is not None, "blocks are taken for a pattern"
    stack = expand(recipe.pattern, recipe.letters)
    named = [recipe.of_letter(letter) for letter in stack.letters]
    found = {}
    for first in range(len(parent.blocks) - len(named) + 1):
        blocks: list[BlockConfig] = []
        for block, central, (spec, own) in zip(parent.blocks[first:], stack.centrals, named, strict=False):
            if kind_of(block) is not spec:
                break
            child = block.changed(**_free_values(block, own))
            if block.changed(**own) != child:  # the letter has other parameters
                break
            blocks.append(child)
            if central is None:
                continue
            # It shares the central tensors of an earlier block, which must have just such.
            products = all(maps.kind == "matrix_product" for maps in block.all_maps.values())
            if not products or blocks[central] != child:
                break
        else:
            found[first] = parent.changed(
                pattern=recipe.pattern,
                blocks=tuple(blocks),
                schedule=stack.schedule,
                centrals=stack.centrals,
                loops=stack.loops,
            )
    if not found:
        kinds = "".join(spec.letter for spec, _ in named)
        instead = ""
        if set(stack.centrals) != {None} and not parent.has_structured_maps:
            instead = ", or leave model.maps and { } out, as its maps are dense"
        raise UserError(
            f"'{origin}' has no blocks {kinds} in a row whose maps are made as this pattern's: give a pattern "
            f"with some of {''.join(parent.stack.letters)}{instead}."
        )
    return found


def transferred(
    fitting: Mapping[int, ModelConfig],
    origin: Path,
    block: int | Literal["best"],
    prepared: PreparedData,
    seed: int,
    tell: Callable[[str], None],
) -> WeftModel:
    """Return the model of those ``fitting`` that begins with block number ``block`` of ``origin``, and all else of it.

    "best" tries all that fit and takes those with which a part of the validation text needs the fewest bits
    as it is.
    """
    parent = load_config(origin)
    weights = load_weights(origin / WEIGHTS)
    places = ", ".join(map(str, fitting))
    if block != "best" and block not in fitting:
        any_of_them = next(iter(fitting.values()))
        kinds = "".join(any_of_them.stack.letters)
        raise UserError(
            f"Blocks {kinds} of '{origin}' begin at {places}, not at {block}: give training.start.block one of these."
        )

    def start(first: int) -> WeftModel:
        model = build(fitting[first], seed=seed)
        found = taken(parent, weights, first, len(model.blocks))
        fit = {name: found[name] for name, _ in model.named_parameters() if name in found}
        load_into(model, fit, origin / WEIGHTS)
        return model

    if block != "best":
        return start(block)
    split = spread_part(prepared.validation, LOOKED_AT, prepared.tokenizer)
    boundary = prepared.tokenizer.boundary_id
    nats = {}
    for first in fitting:
        nats[first] = total_nats(score(start(first), split, boundary_id=boundary))
    best = min(nats, key=lambda first: nats[first])
    tell(f"Starting from block {best} of '{origin}', of {places} the best as it is.")
    return start(best)  # made again, so that no more than one model is in memory


def taken(parent: ModelConfig, weights: Mapping[str, Tensor], first: int, count: int) -> dict[str, Tensor]:
    """Return the parameters of ``count`` blocks from ``first`` on under the numbers from 0, and those of no block."""
    found = {name: tensor for name, tensor in weights.items() if not name.startswith("blocks.")}
    for number in range(count):
        for name, tensor in _of_block(parent, weights, first + number).items():
            found[f"blocks.{number}.{name}"] = tensor
    return found


def _of_block(parent: ModelConfig, weights: Mapping[str, Tensor], block: int) -> dict[str, Tensor]:
    """Return the parameters of a block, with the central tensors that it shares with another."""
    own = f"blocks.{block}."
    holder = f"blocks.{parent.shared_centrals.get(block, block)}."  # of the central tensors: it or an earlier block
    found = {}
    for name, tensor in weights.items():
        if name.startswith(own):
            found[name.removeprefix(own)] = tensor
        elif name.startswith(holder) and is_central(name):
            found.setdefault(name.removeprefix(holder), tensor)
    return found
