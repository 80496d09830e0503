"""What a model is made of: blocks, shapes, parameters, operations and state. ``weft describe`` prints it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from weft.config import ModelConfig
from weft.kinds import kind_of
from weft.layers.adaptive import widths
from weft.layers.maps import StructuredMap
from weft.model import WeftModel

STATE_CONTEXTS = (1_024, 16_384, 65_536)
_ENDLESS = 1 << 40  # more tokens than any window has


@dataclass(frozen=True, kw_only=True)
class BlockRow:
    """One block application: its place in the stack, its shape and its cost.

    ``shape`` are the block's sizes in a few words, ``window`` the tokens that its attention reaches back (0 without).
    ``parameters`` is 0 where the parameters were counted at an earlier application (``shared_with``).
    ``flops`` are forward operations per token (a multiply-add is two) at a full window.
    """

    position: int
    kind: str
    letter: str
    shape: str
    window: int
    parameters: int
    shared_with: int | None
    flops: int


@dataclass(frozen=True, kw_only=True)
class Description:
    """A model in figures. ``parameters`` counts shared storage once, ``body_parameters`` leaves the embeddings out.

    ``full_after`` are the tokens after which the state grows no more (None where it always does).
    ``softmax_parameters`` are those among ``embedding_parameters`` that only the softmax has (0 where it is tied).
    """

    pattern: str
    vocab_size: int
    hidden_size: int
    depth: int
    parameters: int
    body_parameters: int
    embedding_parameters: int
    embedding_shape: str
    softmax_parameters: int
    flops_per_token: int
    state_bytes: dict[int, int]
    full_after: int | None
    blocks: tuple[BlockRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for ``--json``."""
        return asdict(self)


def describe(config: ModelConfig) -> Description:
    """Describe the model of ``config`` without allocating it.

    ``flops_per_token`` are forward operations with the attention windows full and every logit made; ``state_bytes``
    maps a context in tokens to the float32 bytes of state that one sequence carries after it.
    """
    with torch.device("meta"):
        model = WeftModel(config)
    return describe_model(model)


def describe_model(model: WeftModel) -> Description:
    """Describe a model that is there, by its blocks; see :func:`describe`."""
    config = model.config
    rows = _rows(model)
    parameters = model.parameter_count
    body = model.body_parameter_count
    return Description(
        pattern=config.pattern,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        depth=len(model.schedule),
        parameters=parameters,
        body_parameters=body,
        embedding_parameters=parameters - body,
        embedding_shape=embedding_shape(config),
        softmax_parameters=model.embedding.softmax_parameters(),
        flops_per_token=sum(row.flops for row in rows) + model.embedding.flops(),
        state_bytes={n: model.state_bytes(n) for n in STATE_CONTEXTS},
        full_after=_full_after(model.state_bytes),
        blocks=rows,
    )


def _full_after(state: Callable[[int], int]) -> int | None:
    """Return the fewest tokens after which the bytes of ``state``, which never fall, are the most that they will be."""
    largest = state(_ENDLESS)
    if state(_ENDLESS // 2) < largest:
        return None  # it still grows
    return bisect_left(range(_ENDLESS), largest, lo=1, key=state)


def _rows(model: WeftModel) -> tuple[BlockRow, ...]:
    """Ask the block of each application."""
    first: dict[int, int] = {}  # the position at which each own block is applied first
    rows: list[BlockRow] = []
    counted: set[int] = set()  # by identity: different blocks may share a tensor
    for position, number in enumerate(model.schedule):
        block = model.own_blocks[number]
        spec = kind_of(block.config)
        seen = first.setdefault(number, position)
        own = {id(parameter): parameter.numel() for parameter in block.parameters()}
        rows.append(
            BlockRow(
                position=position,
                kind=spec.name,
                letter=spec.letter,
                shape=block.sizes(),
                window=block.window,
                parameters=sum(count for key, count in own.items() if key not in counted),
                shared_with=None if seen == position else seen,
                flops=_product_flops(block) + block.mixing_flops(block.window + 1),
            )
        )
        counted |= own.keys()
    return tuple(rows)


def embedding_shape(config: ModelConfig) -> str:
    """Return the sizes of the embedding in a few words."""
    if config.adaptive is None:
        return f"{config.vocab_size} x {config.hidden_size}{_ngrams(config)}"
    bounds = pairwise((0, *config.adaptive.cutoffs, config.vocab_size))
    clusters = []
    for (first, last), width in zip(bounds, widths(config.hidden_size, config.adaptive), strict=True):
        clusters.append(f"{last - first} x {width}")
    return f"adaptive: {', '.join(clusters)}"


def _ngrams(config: ModelConfig) -> str:
    """Say what stands beside the embedding, where there is something."""
    ngrams = config.ngrams
    if ngrams is None:
        return ""
    if not ngrams.table_size:
        return f"; {ngrams.heads} parts, each normed"
    return f"; latent bigrams {ngrams.heads} x {ngrams.table_size} x {ngrams.width}, of {ngrams.clusters} clusters"


def _product_flops(block: nn.Module) -> int:
    """Two operations for each weight of each linear map that a token passes through."""
    parts = list(block.modules())
    dense = sum(2 * part.weight.numel() for part in parts if isinstance(part, nn.Linear))
    return dense + sum(other.flops() for other in parts if isinstance(other, StructuredMap))
