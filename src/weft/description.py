"""What a model is made of: blocks, shapes, parameters, operations and state. ``weft describe`` prints it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from weft.blocks import Block
from weft.config import ModelConfig
from weft.layers.adaptive import widths
from weft.model import WeftModel
from weft.pattern import KINDS

STATE_CONTEXTS = (1_024, 16_384, 65_536)


@dataclass(frozen=True, kw_only=True)
class BlockRow:
    """One block application: its place in the stack, its shape and its cost.

    ``parameters`` is 0 where the parameters were counted at an earlier application (``shared_with``).
    ``flops`` are forward operations per token (a multiply-add is two) at a full window.
    """

    position: int
    kind: str
    letter: str
    shape: str
    parameters: int
    shared_with: int | None
    flops: int


@dataclass(frozen=True, kw_only=True)
class Description:
    """A model in figures. ``parameters`` counts shared storage once, ``body_parameters`` leaves the embeddings out.

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
    rows = _rows(model)
    parameters, body = model.parameter_count, model.body_parameter_count
    used = [model.blocks[block] for block in model.schedule]
    return Description(
        pattern=config.pattern,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        depth=len(used),
        parameters=parameters,
        body_parameters=body,
        embedding_parameters=parameters - body,
        embedding_shape=embedding_shape(config),
        softmax_parameters=model.embedding.softmax_parameters(),
        flops_per_token=sum(row.flops for row in rows) + model.embedding.flops(),
        state_bytes={
            n: sum(block.state_bytes(n) for block in used if isinstance(block, Block)) for n in STATE_CONTEXTS
        },
        blocks=rows,
    )


def _rows(model: WeftModel) -> tuple[BlockRow, ...]:
    first: dict[int, int] = {}
    rows = []
    for position, application in enumerate(model.config.applications):
        block = model.blocks[application.block]
        assert isinstance(block, Block)
        seen = first.setdefault(application.block, position)
        rows.append(
            BlockRow(
                position=position,
                kind=KINDS[application.kind],
                letter=application.kind,
                shape=shape(application.kind, model.config),
                parameters=sum(p.numel() for p in block.parameters()) if seen == position else 0,
                shared_with=None if seen == position else seen,
                flops=_product_flops(block) + block.mixing_flops(model.config.attention.memory + 1),
            )
        )
    return tuple(rows)


def embedding_shape(config: ModelConfig) -> str:
    """Return the sizes of the embedding in a few words."""
    if config.adaptive is None:
        return f"{config.vocab_size} x {config.hidden_size}"
    clusters = ", ".join(
        f"{last - first} x {width}"
        for (first, last), width in zip(
            pairwise((0, *config.adaptive.cutoffs, config.vocab_size)),
            widths(config.hidden_size, config.adaptive),
            strict=True,
        )
    )
    return f"adaptive: {clusters}"


def _product_flops(block: nn.Module) -> int:
    """Two operations for each weight of each linear map that a token passes through."""
    return sum(2 * module.weight.numel() for module in block.modules() if isinstance(module, nn.Linear))


def shape(kind: str, config: ModelConfig) -> str:
    """Return the sizes of a block in a few words."""
    attention, qrnn, fused = config.attention, config.qrnn, config.attn_qrnn
    if kind == "a":
        grouped = f", {attention.kv_heads} kv" if attention.kv_heads != attention.num_heads else ""
        return (
            f"{attention.num_heads} x {attention.head_dim}{grouped}, memory {attention.memory}, {attention.positions}"
        )
    if kind == "f":
        return f"{config.hidden_size} -> {config.feed_forward.inner_size}, {config.feed_forward.activation}"
    pooling = f"{qrnn.pooling} pooling"
    if kind == "q":
        return f"{qrnn.cell_size} cells, window {qrnn.window}, {pooling}"
    return f"{qrnn.cell_size} cells, {pooling}; attention {fused.attention_size}, memory {attention.memory}"
