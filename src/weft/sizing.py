"""The width and depth that meet a parameter budget, so that any two patterns can be compared at equal size.

Rules, in this order:

- depth of a named architecture: :func:`weft.pattern.default_pairs` of the budget;
- width: the largest multiple of 16 (8 below 128) that fits with inner width 4 D (8/3 D for swiglu) and cell width 2 D;
- head width 32 up to D = 256 and 64 above, with as many heads as come nearest to D (one head: as wide as the model);
- then the inner and cell widths are stretched together (where there are none, the head width) until the budget is met.

Parameters are counted on the real modules, built without storage, once per storage.
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
from weft.arguments import checked
from weft.blocks import BLOCKS
from weft.config import PRESETS, ROLES, MapConfig, MapsConfig, ModelConfig, NGramsConfig, merge
from weft.errors import UserError
from weft.layers.adaptive import make_embedding
from weft.layers.linear import TooNarrowError
from weft.layers.matrix_product import is_central
from weft.layers.ngrams import LatentBigrams
from weft.layers.norms import make_norm
from weft.pattern import ARCHITECTURES, MAX_PARAMETERS, default_pairs, expand, parse_count
from weft.settings import check_values

TOLERANCE = 0.01
WIDTH_STEP = 8
CACHE_LINE = 16  # float32 numbers
MAX_WIDTH = 1 << 15


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

    ``pattern`` is a pattern string or the name of an architecture; ``preset`` (modern or classic) replaces the
    architecture's own shell; ``settings`` fixes any values of :class:`ModelConfig`. Raises UserError where no width
    meets the budget.
    """
    budget = parse_count(parameters)
    if not 1 <= budget <= MAX_PARAMETERS:
        raise UserError(f"A model has from 1 to {MAX_PARAMETERS:,} parameters, not {words.short(parameters)}.")
    pattern, settings = resolve(pattern, budget, preset, settings or {})
    if "hidden_size" in settings:
        return _stretch(pattern, vocab_size, settings, budget)

    unit, least = _unit(settings), _least(settings)

    def fits(width: int) -> bool:
        if width < least:
            return True
        return count_parameters(configure(pattern, vocab_size, {**settings, "hidden_size": width})) <= budget

    step, coarse = math.lcm(WIDTH_STEP, unit), math.lcm(CACHE_LINE, unit)
    width = step * _last(lambda steps: fits(step * steps), MAX_WIDTH // step)
    width = width if width < max(128, coarse) else width // coarse * coarse
    if width < least:
        narrowest = -(-least // step) * step
        smallest = count_parameters(configure(pattern, vocab_size, {**settings, "hidden_size": narrowest}))
        raise UserError(
            f"No width meets a budget of {budget:,} parameters: with a vocabulary of {vocab_size:,} this pattern has "
            f"at least {smallest:,}{_of_bigrams(settings)}; ask for more parameters, a smaller vocabulary or fewer "
            "blocks."
        )
    return _stretch(pattern, vocab_size, {**settings, "hidden_size": width}, budget)


def of_width(pattern: str, *, vocab_size: int, preset: str | None = None, settings: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of ``pattern`` with the width ``settings["hidden_size"]`` and all other widths by rule.

    A named architecture is as deep as the depth rule has it for as many parameters as it then has: more blocks are more
    parameters, which want more blocks, until both agree (they do, as depth grows more slowly than size).
    """
    size = 0
    while True:
        string, resolved = resolve(pattern, size, preset, settings)
        config = configure(string, vocab_size, resolved)
        before, size = size, count_parameters(config)
        if default_pairs(size) == default_pairs(before):
            return config


def resolve(
    pattern: str, parameters: float, preset: str | None, settings: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the pattern string behind a name, and ``settings`` laid over those of its shell."""
    architecture = ARCHITECTURES.get(pattern)
    chosen = preset or (architecture.preset if architecture else "modern")
    if chosen not in PRESETS:
        raise UserError(f"There is no preset '{chosen}': choose from {', '.join(PRESETS)}.")
    resolved = merge(PRESETS[chosen], (architecture.settings if architecture else None) or {})
    resolved = merge(resolved, check_values(settings, ModelConfig, where="model"))
    if chosen == "classic" and "dropout" in resolved:  # Transformer-XL also drops after the activation
        resolved = merge({"feed_forward": {"dropout": resolved["dropout"]}}, resolved)
    if architecture:
        pattern = architecture.pattern(default_pairs(parameters))
    elif re.fullmatch(r"[a-z]{2,}(-[a-z]+)*", pattern) and set(pattern) - set("".join(BLOCKS)):
        raise UserError(
            f"'{pattern}' is neither an architecture ({', '.join(ARCHITECTURES)}) nor a pattern of a, f, q, x."
        )
    expand(pattern)
    return pattern, resolved


def configure(pattern: str, vocab_size: int, settings: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration with every width that ``settings`` leaves open set from ``hidden_size`` by rule."""
    width = settings["hidden_size"]
    attention = dict(settings.get("attention", {}))
    if "head_dim" not in attention:
        heads = attention.get("num_heads") or _heads(width, attention.get("num_kv_heads") or 1)
        fixed = "num_heads" in attention
        attention |= {
            "num_heads": heads,
            "head_dim": max(2, width // heads // 2 * 2) if fixed else _head_width(width),
        }
    attention.setdefault("num_heads", max(1, round(width / attention["head_dim"])))
    feed_forward, qrnn = dict(settings.get("feed_forward", {})), dict(settings.get("qrnn", {}))
    swiglu = feed_forward.get("activation") == "swiglu"
    feed_forward.setdefault("inner_size", round(width * 8 / 3 / 8) * 8 if swiglu else 4 * width)
    qrnn.setdefault("cell_size", 2 * width if qrnn.get("output_projection", True) else width)
    fused = dict(settings.get("attn_qrnn", {}))
    maps = MapsConfig.parse(settings.get("maps") or {}, where="model.maps")
    unit = fused.get("num_heads", 1) * (2 if fused.get("positions") == "rotary" else 1)
    unit = math.lcm(unit, _blocks(maps, "attention", "qrnn"))  # the gates of a fused block read the attention
    fused.setdefault("attention_size", max(1, width // 2 // unit) * unit)
    sections = {"attention": attention, "feed_forward": feed_forward, "qrnn": qrnn, "attn_qrnn": fused}
    return ModelConfig.parse({**settings, "pattern": pattern, "vocab_size": vocab_size, **sections}, where="model")


def count_parameters(config: ModelConfig) -> int:
    """Return the parameters of the model that ``config`` describes, without making it."""
    with torch.device("meta"):
        parts: list[torch.nn.Module] = [make_embedding(config)]
        if config.ngrams:
            parts.append(LatentBigrams(config.ngrams, config.hidden_size))
        if config.norm_placement == "pre":
            parts.append(make_norm(config.norm, config.hidden_size))
        kinds, centrals = config.block_kinds, config.centrals
        copies = [centrals.get(block, block) != block for block in range(len(kinds))]
        blocks = Counter(zip(kinds, config.of_blocks(), copies, strict=True))
        sizes = {key: _size(BLOCKS[key[0]](key[1]), copy=key[2]) for key in blocks}
    return sum(map(_size, parts)) + sum(sizes[key] * times for key, times in blocks.items())


def _size(module: torch.nn.Module, *, copy: bool = False) -> int:
    """Return the parameters of a module; a ``copy`` has no central tensors of its own."""
    named = module.named_parameters()
    return sum(parameter.numel() for name, parameter in named if not (copy and is_central(name)))


def _unit(settings: Mapping[str, Any]) -> int:
    """Return what must divide the model's width."""
    maps = MapsConfig.parse(settings.get("maps") or {}, where="model.maps")
    ngrams = _ngrams(settings)
    return math.lcm(_blocks(maps, *ROLES), ngrams.heads if ngrams else 1)


def _least(settings: Mapping[str, Any]) -> int:
    """Return the narrowest width that the settings allow."""
    maps = MapsConfig.parse(settings.get("maps") or {}, where="model.maps")
    used: list[MapConfig] = [getattr(maps, role) for role in ROLES]
    least = max(own.rank or 1 if own.kind in ("low_rank", "block_dense") else 1 for own in used)
    ngrams = _ngrams(settings)
    return max(least, ngrams.heads * (ngrams.width if ngrams.table_size else 1)) if ngrams else least


def _of_bigrams(settings: Mapping[str, Any]) -> str:
    """Tell the parameters of bigrams' tables, which no width changes."""
    if not (ngrams := _ngrams(settings)) or not ngrams.table_size:
        return ""
    return f", {ngrams.heads * ngrams.table_size * ngrams.width:,} of them bigrams' tables (model.ngrams.table_size)"


def _ngrams(settings: Mapping[str, Any]) -> NGramsConfig | None:
    """Return the bigrams that the settings ask for; an empty section asks for those of the defaults."""
    given = settings.get("ngrams")
    return None if given is None else NGramsConfig.parse(given, where="model.ngrams")


def _blocks(config: MapsConfig, *roles: str) -> int:
    """Return what must divide the widths of the maps of ``roles``, which may be made of blocks."""
    used: list[MapConfig] = [getattr(config, role) for role in roles]
    return math.lcm(*(maps.blocks for maps in used if maps.kind in ("block_dense", "block_shuffle")))


def _heads(width: int, kv_heads: int) -> int:
    """Return the number of heads by rule, a multiple of the key-value heads."""
    return max(1, round(width / _head_width(width) / kv_heads)) * kv_heads


def _head_width(width: int) -> int:
    return 32 if width <= 256 else 64


def _last(holds: Callable[[int], bool], most: int) -> int:
    """Return the last n in 1..most for which ``holds(n)`` (true up to some n, then false), 0 where there is none."""
    low, high = 0, 1
    while high <= most and holds(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _stretch(pattern: str, vocab_size: int, settings: Mapping[str, Any], budget: int) -> ModelConfig:
    """Return the configuration whose free widths, scaled together, come near to the budget.

    Round widths are faster: rows that begin at a cache line make a CPU's products quicker. So the
    coarsest step wins that comes within half the tolerance, or for steps below a cache line within a quarter.
    """
    base = configure(pattern, vocab_size, settings)
    free = _free_widths(base, settings)
    scaled = _scaled(base, free, settings, budget)
    best = base

    def miss(config: ModelConfig) -> float:
        return abs(count_parameters(config) / budget - 1)

    for step in (64, 32, CACHE_LINE, 8, 4, 2, 1):
        best = min([best, *_rounded(base, scaled, settings, step)], key=miss)
        if miss(best) <= TOLERANCE / (2 if step >= CACHE_LINE else 4):
            break
    if miss(best) > TOLERANCE:
        raise UserError(
            f"No width meets a budget of {budget:,} parameters within 1 %: the nearest has {count_parameters(best):,}; "
            "ask for that many, or leave more widths open."
        )
    return best


def _free_widths(config: ModelConfig, settings: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """Return the widths that may be stretched: those of blocks in use that ``settings`` leaves open."""
    kinds = set(config.block_kinds)

    def is_open(section: str, key: str) -> bool:
        return key not in settings.get(section, {})

    free = {}
    if "f" in kinds and is_open("feed_forward", "inner_size"):
        free["feed_forward", "inner_size"] = config.feed_forward.inner_size
    if kinds & set("qx") and config.qrnn.output_projection and is_open("qrnn", "cell_size"):
        free["qrnn", "cell_size"] = config.qrnn.cell_size
    if not free and "x" in kinds and is_open("attn_qrnn", "attention_size"):
        free["attn_qrnn", "attention_size"] = config.attn_qrnn.attention_size
    if not free and "a" in kinds and is_open("attention", "head_dim"):
        free["attention", "head_dim"] = config.attention.head_dim
    return free


def _scaled(
    base: ModelConfig, free: Mapping[tuple[str, str], int], settings: Mapping[str, Any], budget: int
) -> dict[tuple[str, str], float]:
    """Return the free widths, scaled together until the next step of the widest would pass the budget."""
    if not free:
        return {}
    widest = max(free.values())

    def fits(steps: int) -> bool:
        widths = {key: width * steps / widest for key, width in free.items()}
        try:
            return count_parameters(_with_widths(base, widths, settings, 1)) <= budget
        except TooNarrowError:  # the rank asks for more
            return True

    steps = max(1, _last(fits, 8 * MAX_WIDTH))
    return {key: width * steps / widest for key, width in free.items()}


def _rounded(
    base: ModelConfig, widths: Mapping[tuple[str, str], float], settings: Mapping[str, Any], step: int
) -> list[ModelConfig]:
    """Return the configurations with each width at the multiple of ``step`` below it or above it."""
    around = [(width - 0.49 * step, width, width + 0.49 * step) for width in widths.values()]
    return [_with_widths(base, dict(zip(widths, near, strict=True)), settings, step) for near in product(*around)]


def _with_widths(
    base: ModelConfig, widths: Mapping[tuple[str, str], float], settings: Mapping[str, Any], step: int
) -> ModelConfig:
    """Return the configuration with ``widths`` at their nearest multiples of ``step`` (or of what they must divide)."""
    changes: dict[str, Any] = dict(settings)
    for (section, key), width in widths.items():
        unit = max(step, 2) if key == "head_dim" else step
        unit = math.lcm(unit, _blocks(base.maps, *(("attention", "qrnn") if section == "attn_qrnn" else (section,))))
        unit = 2 * unit * base.attn_qrnn.num_heads if key == "attention_size" else unit
        changes = merge(changes, {section: {key: max(unit, round(width / unit) * unit)}})
    return configure(base.pattern, base.vocab_size, changes)
