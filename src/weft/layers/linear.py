"""The linear maps inside blocks, dense or not: made as the block's :class:`~weft.config.MapConfig` says."""

from __future__ import annotations

import math

from weft.config import MapConfig
from weft.errors import UserError
from weft.layers.dense import Dense
from weft.layers.maps import BlockDense, BlockShuffle, LowRank, Map, StructuredMap
from weft.layers.matrix_product import MatrixProduct

COARSE = 8  # a rank above four times as much is a multiple of it: rows of whole vectors are quicker


class TooNarrowError(UserError):
    """A map has fewer features than the rank that it was given."""


def make_map(
    config: MapConfig, in_features: int, out_features: int, *, bias: bool = False, adds_bias: bool = True
) -> StructuredMap | None:
    """Return the map of ``config``, its values not yet set; None where it is dense, of which the caller knows its kind.

    Raises UserError where the sizes do not go into the blocks.
    """
    how = {"bias": bias, "adds_bias": adds_bias}
    if config.kind == "dense":
        return None
    if config.kind == "matrix_product":
        return MatrixProduct(in_features, out_features, config, **how)
    if config.kind == "low_rank":
        return LowRank(in_features, out_features, rank_of(config, in_features, out_features), **how)
    for size in (in_features, out_features):
        if size % config.blocks:
            raise UserError(
                f"A {config.kind} map from {in_features} to {out_features} features cannot have {config.blocks} "
                "blocks: choose a number that divides both."
            )
    if config.kind == "block_shuffle":
        return BlockShuffle(in_features, out_features, config.blocks, **how)
    return BlockDense(in_features, out_features, rank_of(config, in_features, out_features), config.blocks, **how)


def linear(config: MapConfig, in_features: int, out_features: int, *, bias: bool = False) -> Map:
    """Return the map of ``config``, dense or not, its values not yet set."""
    return make_map(config, in_features, out_features, bias=bias) or Dense(in_features, out_features, bias=bias)


def rank_of(config: MapConfig, in_features: int, out_features: int) -> int:
    """Return the rank that ``config`` says, or that makes its ``share`` of a dense map's parameters."""
    blocks = config.blocks if config.kind == "block_dense" else 1
    if config.rank is not None:
        if config.rank % blocks:
            raise UserError(f"A rank of {config.rank} does not go into {blocks} blocks: choose a multiple of {blocks}.")
        if config.rank > min(in_features, out_features):
            raise TooNarrowError(
                f"A map from {in_features} to {out_features} features cannot have a rank of {config.rank}: choose at "
                f"most {min(in_features, out_features)}."
            )
        return config.rank
    rank = config.share * in_features * out_features / (out_features + in_features / blocks)
    unit = math.lcm(blocks, COARSE) if rank > 4 * COARSE else blocks
    most = min(in_features, out_features) // unit * unit  # more would be another way to write a smaller one
    return max(unit, min(most, round(rank / unit) * unit))
