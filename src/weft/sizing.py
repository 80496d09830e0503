"""The width and depth that meet a parameter budget, so that any two patterns can be compared at equal size.

Rules, in this order:

- depth of a named architecture: :func:`weft.architectures.default_pairs` of the budget;
- width: the largest multiple of 16 (8 below 128) that fits with every width of the blocks by the rule of its kind:
  inner width 4 D (8/3 D for swiglu), cell width 2 D, head width 32 up to D = 256 and 64 above, with as many heads as
  come nearest to D (one head: as wide as the model);
- then the inner and cell widths are stretched together (where there are none, the head width) until the budget is met.

Every block is sized by itself, so that a pattern may mix blocks of one kind with different widths. Parameters
are counted on the real modules, built without storage, once per storage.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import torch

from weft import words
from weft.architectures import ARCHITECTURES, PRESETS, default_pairs
from weft.arguments import checked
from weft.config import BlockConfig, MapConfig, ModelConfig, NGramsConfig, merge
from weft.draft import Draft, WidthKey
from weft.errors import UserError
from weft.kinds import kind_of, kinds
from weft.layers.adaptive import make_embedding
from weft.layers.linear import TooNarrowError
from weft.layers.matrix_product import is_central
from weft.layers.ngrams import LatentBigrams
from weft.layers.norms import make_norm
from weft.model_recipe import ModelRecipe
from weft.numbers import MAX_PARAMETERS
from weft.pattern import parse_count

TOLERANCE = 0.01
WIDTH_STEP = 8
CACHE_LINE = 16  # float32 numbers
MAX_WIDTH = 1 << 15
SPECIAL_IDS = ("boundary_id", "padding_id")
MOST_APART = 3  # widths that are rounded up or down each by itself


@checked
def sized(
    pattern: str,
    *,
    parameters: float | str,
    vocab_size: int = 4096,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ModelConfig:
    """Return the configuration of ``pattern`` with ``parameters`` parameters, embeddings included, within 1 %.

    ``pattern`` is a pattern string or the name of an architecture; ``preset`` (modern or classic) replaces
    the architecture's own shell; ``settings`` fixes any values of a recipe's model
    (:class:`weft.model_recipe.ModelRecipe`). Raises UserError where no width meets the budget.
    """
    recipe, special_ids = _asked(pattern, preset, settings or {})
    return sized_recipe(recipe, parameters, vocab_size, special_ids)


def of_width(pattern: str, *, vocab_size: int, preset: str | None = None, settings: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of ``pattern`` with the width ``settings["hidden_size"]`` and all other widths by rule.

    A named architecture is as deep as :func:`of_recipes_width` says.
    """
    recipe, special_ids = _asked(pattern, preset, settings)
    return of_recipes_width(recipe, vocab_size, special_ids)


def configure(pattern: str, vocab_size: int, settings: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of a pattern in no preset's shell; ``settings`` has at least the ``hidden_size``."""
    recipe, special_ids = _asked(pattern, None, settings)
    draft = Draft.of(recipe, pattern, special_ids)
    assert draft.hidden_size is not None, "settings has a hidden_size"
    return draft.configured(draft.hidden_size, vocab_size)


def _asked(pattern: str, preset: str | None, settings: Mapping[str, Any]) -> tuple[ModelRecipe, dict[str, Any]]:
    """Return what is asked for as a recipe, and the ids of special tokens, which in recipes the tokenizer says."""
    if preset is not None and preset not in PRESETS:
        raise UserError(f"There is no preset '{preset}': choose from {', '.join(PRESETS)}.")
    special_ids = {name: settings[name] for name in SPECIAL_IDS if name in settings}
    settings = {name: value for name, value in settings.items() if name not in SPECIAL_IDS}
    return ModelRecipe.of_settings(settings, pattern=pattern, preset=preset), special_ids


def drafted(recipe: ModelRecipe, parameters: float, special_ids: Mapping[str, int] | None = None) -> Draft:
    """Return the draft of the model that a recipe asks for, with the settings of its shell under its own.

    A named architecture is as deep as the depth rule has it for ``parameters``; ``special_ids`` are fields of
    the configuration that the tokenizer says.
    """
    # The shell's settings lie under the architecture's, and these under the recipe's own.
    name = recipe.pattern or recipe.architecture
    architecture = ARCHITECTURES.get(name)
    preset = "modern"
    of_architecture: Mapping[str, Any] = {}
    if architecture:
        preset = architecture.preset
        of_architecture = architecture.settings or {}
    preset = recipe.preset or preset
    settings = merge(merge(PRESETS[preset], of_architecture), recipe.settings())
    if preset == "classic" and "dropout" in settings:  # Transformer-XL also drops after the activation
        settings = merge({"feed_forward": {"dropout": settings["dropout"]}}, settings)
    # Words with hyphens are names, which are mistyped more often than a pattern is that looks like one.
    if architecture:
        pattern = architecture.pattern(default_pairs(parameters))
    elif re.fullmatch(r"[a-z]{2,}(-[a-z]+)*", name) and set(name) - set(kinds()):
        raise UserError(
            f"'{name}' is neither an architecture ({', '.join(ARCHITECTURES)}) nor a pattern of {', '.join(kinds())}."
        )
    else:
        pattern = name
    whole = ModelRecipe.parse({**settings, "pattern": name}, where="model")
    return Draft.of(whole, pattern, special_ids)


def sized_recipe(
    recipe: ModelRecipe,
    parameters: float | str,
    vocab_size: int,
    special_ids: Mapping[str, int] | None = None,
) -> ModelConfig:
    """Return the configuration with so many parameters, within 1 %; UserError where no width meets the budget."""
    budget = parse_count(parameters)
    if not 1 <= budget <= MAX_PARAMETERS:
        raise UserError(f"A model has from 1 to {MAX_PARAMETERS:,} parameters, not {words.short(parameters)}.")
    draft = drafted(recipe, budget, special_ids)
    if draft.hidden_size is not None:
        return _stretch(draft, draft.hidden_size, vocab_size, budget)
    unit = _unit(draft)
    least = _least(draft)
    step = math.lcm(WIDTH_STEP, unit)
    coarse = math.lcm(CACHE_LINE, unit)

    def fits(steps: int) -> bool:
        width = step * steps
        return width < least or count_parameters(draft.configured(width, vocab_size)) <= budget

    width = step * _last(fits, MAX_WIDTH // step)
    if width >= max(128, coarse):
        width = width // coarse * coarse
    if width < least:
        narrowest = -(-least // step) * step
        smallest = count_parameters(draft.configured(narrowest, vocab_size))
        raise UserError(
            f"No width meets a budget of {budget:,} parameters: with a vocabulary of {vocab_size:,} this pattern has "
            f"at least {smallest:,}{_of_bigrams(draft)}; ask for more parameters, a smaller vocabulary or fewer "
            "blocks."
        )
    return _stretch(draft, width, vocab_size, budget)


def of_recipes_width(recipe: ModelRecipe, vocab_size: int, special_ids: Mapping[str, int] | None = None) -> ModelConfig:
    """Return the configuration with the recipe's ``hidden_size`` and all other widths by rule.

    A named architecture is as deep as the depth rule has it for as many parameters as it then has: more
    blocks are more parameters, which want more blocks, until both agree (they do, as depth grows more slowly
    than size).
    """
    size = 0
    while True:
        draft = drafted(recipe, size, special_ids)
        assert draft.hidden_size is not None, "the recipe says the width"
        config = draft.configured(draft.hidden_size, vocab_size)
        before = size
        size = count_parameters(config)
        if default_pairs(size) == default_pairs(before):
            return config


def count_parameters(config: ModelConfig) -> int:
    """Return the parameters of the model that ``config`` describes, without making it."""
    with torch.device("meta"):
        parts: list[torch.nn.Module] = [make_embedding(config)]
        if config.ngrams:
            parts.append(LatentBigrams(config.ngrams, config.hidden_size))
        if config.norm_placement == "pre":
            parts.append(make_norm(config.norm, config.hidden_size))
        total = sum(map(_size, parts))
        # Blocks that are configured alike are made once. A copy in the pattern's { } has no central tensors
        # of its own.
        centrals = config.shared_centrals
        copies = [centrals.get(block, block) != block for block in range(len(config.blocks))]
        for (own, copy), times in Counter(zip(config.blocks, copies, strict=True)).items():
            total += times * _size(kind_of(own).block(own, config), copy=copy)
    return total


def _size(module: torch.nn.Module, *, copy: bool = False) -> int:
    """Return the parameters of a module; a ``copy`` has no central tensors of its own."""
    size = 0
    for name, parameter in module.named_parameters():
        if not (copy and is_central(name)):
            size += parameter.numel()
    return size


def _unit(draft: Draft) -> int:
    """Return what must divide the model's width."""
    ngrams = _ngrams(draft)
    parts = [block.parts_of(tuple(block.parts)) for block in draft.different_blocks]
    return math.lcm(*parts, ngrams.heads if ngrams else 1)


def _least(draft: Draft) -> int:
    """Return the narrowest width that the ranks of maps and the tables of bigrams allow."""
    least = 1
    for block in draft.different_blocks:
        for field in block.parts:
            own = MapConfig.model_validate(block.given[field])
            if own.kind in ("low_rank", "block_dense"):
                least = max(least, own.rank or 1)
    ngrams = _ngrams(draft)
    if ngrams is not None:
        features = ngrams.width if ngrams.table_size else 1  # of a head, at least
        least = max(least, ngrams.heads * features)
    return least


def _of_bigrams(draft: Draft) -> str:
    """Tell the parameters of bigrams' tables, which no width changes."""
    ngrams = _ngrams(draft)
    if ngrams is None or not ngrams.table_size:
        return ""
    return f", {ngrams.heads * ngrams.table_size * ngrams.width:,} of them bigrams' tables (model.ngrams.table_size)"


def _ngrams(draft: Draft) -> NGramsConfig | None:
    given = draft.shell.get("ngrams")
    return None if given is None else NGramsConfig.parse(given, where="model.ngrams")


def _last(holds: Callable[[int], bool], most: int) -> int:
    """Return the last n in 1..most for which ``holds(n)`` (true up to some n, then false), 0 where there is none."""
    # It holds at ``low`` (or that is 0) and not at ``high``: double until that is so,
    # then halve what lies between.
    low = 0
    high = 1
    while high <= most and holds(high):
        low = high
        high *= 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low


def _stretch(draft: Draft, hidden_size: int, vocab_size: int, budget: int) -> ModelConfig:
    """Return the configuration whose free widths, scaled together, come near to the budget.

    Round widths are faster: rows that begin at a cache line make a CPU's products quicker. So the
    coarsest step wins that comes within half the tolerance, or for steps below a cache line within a quarter.
    """
    free = _free_widths(draft, hidden_size)
    best = draft.configured(hidden_size, vocab_size)

    def with_widths(widths: Mapping[WidthKey, float], step: int) -> ModelConfig:
        """Return the configuration with ``widths`` at their nearest multiples of ``step`` and what they must suit."""
        rounded = {}
        for key, width in widths.items():
            units = [config.width_step(key[0], step, parts) for config, parts in free[key]]
            unit = math.lcm(*units)
            rounded[key] = max(unit, round(width / unit) * unit)
        return draft.configured(hidden_size, vocab_size, rounded)

    def fits(widths: Mapping[WidthKey, float]) -> bool:
        try:
            return count_parameters(with_widths(widths, 1)) <= budget
        except TooNarrowError:  # the rank asks for more
            return True

    def miss(config: ModelConfig) -> float:
        return abs(count_parameters(config) / budget - 1)

    def scaled(steps: int) -> dict[WidthKey, float]:
        """Return the free widths in their proportions, the widest of them ``steps`` wide."""
        widest = max(size for _, size in free)
        return {key: key[1] * steps / widest for key in free}

    # Scaled together, until the next step of the widest would pass the budget.
    widths: dict[WidthKey, float] = {}
    if free:
        steps = _last(lambda steps: fits(scaled(steps)), 8 * MAX_WIDTH)
        widths = scaled(max(1, steps))
    for step in (64, 32, CACHE_LINE, 8, 4, 2, 1):
        tried = [with_widths(near, step) for near in _around(widths, step)]
        best = min([best, *tried], key=miss)
        near_enough = TOLERANCE / 2 if step >= CACHE_LINE else TOLERANCE / 4
        if miss(best) <= near_enough:
            break
    if miss(best) > TOLERANCE:
        raise UserError(
            f"No width meets a budget of {budget:,} parameters within 1 %: the nearest has {count_parameters(best):,}; "
            "ask for that many, or leave more widths open."
        )
    return best


def _free_widths(draft: Draft, hidden_size: int) -> dict[WidthKey, list[tuple[BlockConfig, int]]]:
    """Return the widths that are stretched, each with the blocks that have it and what their maps are made of.

    They are those of the lowest order among the widths that the recipe leaves open.
    """
    found: list[tuple[int, WidthKey, BlockConfig, int]] = []
    order_of_kinds = list(kinds())  # so that the order of a pattern's letters decides nothing
    for block in sorted(draft.different_blocks, key=lambda block: order_of_kinds.index(block.spec.letter)):
        config = block.configured(hidden_size)
        for stretch in block.open_stretches(config):
            key = (stretch.width, getattr(config, stretch.width))
            found.append((stretch.order, key, config, block.parts_of(stretch.maps)))
    lowest = min((order for order, *_ in found), default=0)
    free: dict[WidthKey, list[tuple[BlockConfig, int]]] = {}
    for order, key, config, parts in found:
        if order == lowest:
            free.setdefault(key, []).append((config, parts))
    return free


def _around(widths: Mapping[WidthKey, float], step: int) -> list[dict[WidthKey, float]]:
    """Return ``widths`` with each as it is or half a step below or above it; where they are many, all the same way."""
    near = [(width - 0.49 * step, width, width + 0.49 * step) for width in widths.values()]
    choices = product(*near) if len(near) <= MOST_APART else zip(*near, strict=True)
    return [dict(zip(widths, choice, strict=True)) for choice in choices]
