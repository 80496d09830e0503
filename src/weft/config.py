"""The description of a model, as data: frozen, keyword-only, validated when it is made.

A model is a shell (:class:`Shell`: what all blocks and the embedding have in common), a tuple of block
configurations, one for each block that has parameters of its own, and the schedule of their applications. The
configuration of a kind of block stands in the file of that kind (:mod:`weft.blocks`); :mod:`weft.kinds` knows
them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, SerializeAsAny, field_validator, model_validator

from weft.kinds import kind_named, kind_of, known_kinds
from weft.numbers import MAX_DEPTH, MAX_WIDTH, Below1, Place, TokenId, Vocabulary, Width
from weft.pattern import Loop, Stack, written
from weft.settings import FrozenConfig


class MapConfig(FrozenConfig):
    """What the linear maps of a block are made of (:mod:`weft.layers.maps`).

    ``share`` is the part of a dense map's parameters that the rank is chosen for, unless ``rank`` says it;
    ``block_shuffle``'s follows from ``blocks`` alone.

    Of a ``matrix_product`` (:mod:`weft.layers.matrix_product`), ``factors`` are what sizes are products of,
    such as [[4, 4, 4, 4, 3]] for 768 (others find their own); ``bond`` is the largest bond (None: none is too
    small for any matrix), ``adapter`` the rank of what is added, and ``depth_scaled`` lets it start smaller
    by (2 L)^(1/4) in a stack of L blocks, as deep post-norm stacks need.
    """

    kind: Literal["dense", "low_rank", "block_dense", "block_shuffle", "matrix_product"] = "dense"
    share: float = Field(default=0.32, gt=0, le=1)
    rank: Width | None = None
    blocks: Width = 4
    factors: tuple[tuple[Width, ...], ...] = ()
    bond: Width | None = None
    adapter: int = Field(default=0, ge=0, le=MAX_WIDTH)
    depth_scaled: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        for parts in self.factors:
            if len(parts) != 5:
                raise ValueError(f"factors are five numbers whose product is a size, not {list(parts)}")
        return self


class AdaptiveConfig(FrozenConfig):
    """Adaptive input and softmax (Grave et al. 2017, arXiv 1609.04309; Baevski and Auli 2019, arXiv 1809.10853).

    Token ids must fall in frequency. ``cutoffs`` end the shortlist and each further cluster but the last,
    which ends with the vocabulary. Cluster i's vectors have ``embedding_size // div_val**i`` features (at
    least one; ``embedding_size`` None: the model's width); where that is not the model's width for every
    cluster, linear maps join the two: one for all clusters when ``div_val`` is 1, else one for each.
    """

    cutoffs: tuple[Vocabulary, ...] = Field(min_length=1)
    div_val: Width = 1
    embedding_size: Width | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for before, after in pairwise(self.cutoffs):
            if after <= before:
                raise ValueError(f"the cutoffs must increase, which {list(self.cutoffs)} do not")
        return self


class NGramsConfig(FrozenConfig):
    """Latent bigrams beside the embedding (:mod:`weft.layers.ngrams`).

    Each of ``heads`` parts of a token's vector has ``clusters`` latent ids, and a table of ``table_size``
    rows of ``width`` features for pairs of them. A ``table_size`` of 0 leaves the layer's norm alone, which
    is the control. Centroids keep ``decay`` of their place at each step.
    """

    heads: int = Field(default=4, gt=0, le=1024)
    clusters: int = Field(default=128, gt=0, le=1 << 16)
    table_size: int = Field(default=4096, ge=0, le=1 << 26)
    width: Width = 16
    decay: Below1 = 0.99

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.table_size >= self.clusters**2:
            raise ValueError(
                f"a table_size of {self.table_size} is enough for all pairs of {self.clusters} clusters: choose less "
                f"than {self.clusters**2}, or more clusters"
            )
        return self


class BlockConfig(FrozenConfig):
    """The base of the configurations of all kinds of blocks; a kind's own says ``kind`` and its fields.

    The class variables say how a recipe reaches the fields: ``map_roles`` names each field of maps with its
    role in ``model.maps``, ``inherited`` the sections of other kinds that give what a recipe leaves open,
    with the fields. ``free`` names the fields on which no parameters depend: they may differ from those of the
    run that another starts from.
    """

    kind: str

    map_roles: ClassVar[Mapping[str, str]] = {}
    inherited: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    free: ClassVar[tuple[str, ...]] = ("dropout", "zoneout", "window")

    @classmethod
    def with_widths(cls, given: Mapping[str, Any], hidden_size: int, parts: int) -> dict[str, Any]:  # noqa: ARG003
        """Return ``given``, some of the fields, with every width that it leaves open, by rule from ``hidden_size``.

        ``parts`` must divide the widths of maps, which may be made of so many blocks.
        """
        return dict(given)

    def may_stretch(self, width: str) -> bool:  # noqa: ARG002
        """Say whether sizing may change a width that a recipe leaves open."""
        return True

    def width_step(self, width: str, step: int, parts: int) -> int:  # noqa: ARG002
        """Return what a stretched width must be a multiple of: of ``step``, and of ``parts`` of its maps."""
        return math.lcm(step, parts)

    def check_shell(self, shell: Shell) -> None:
        """Raise ValueError where the block does not fit into a model with this shell."""

    @property
    def all_maps(self) -> dict[str, MapConfig]:
        """The fields that say what maps are made of."""
        return {name: getattr(self, name) for name in self.map_roles}


def _read_block(value: Any) -> BlockConfig:
    """Return the configuration of a block, as its kind has it."""
    if isinstance(value, BlockConfig):
        return value
    name = value.get("kind") if isinstance(value, Mapping) else None
    spec = kind_named(name) if isinstance(name, str) else None
    if spec is None:
        raise ValueError(f"a block says its kind, which is one of {known_kinds()}")
    # Blocks as values come from nowhere but a config.json: recipes give sections, and
    # code gives configurations.
    return spec.config.parse(value, where=f"config.json.blocks.{spec.name}")


# A block of any registered kind: read by its ``kind``, and written with all fields of its own class.
AnyBlock = SerializeAsAny[Annotated[BlockConfig, PlainValidator(_read_block)]]


class Shell(FrozenConfig):
    """What stands around the blocks, and is the same for all; ``hidden_size`` is the width D of the residual stream."""

    hidden_size: Width
    norm: Literal["rms", "layer"] = "rms"
    norm_placement: Literal["pre", "post"] = "pre"
    bias: bool = False  # biases in linear maps (the QRNN's gates always have theirs)
    tie_embeddings: bool = True
    head_bias: bool = False
    dropout: Below1 = 0.0  # of the embedding, of each block's output and of the last hidden state
    init: Literal["modern", "classic"] = "modern"
    residual_init: Literal["zero", "scaled", "normal"] = "zero"
    token_shift: bool = False  # each block's input is mixed with the one before it (layers/token_shift.py)
    block_gates: bool = False  # a gain for each block, and a gate for each position (blocks/base.py)
    adaptive: AdaptiveConfig | None = None  # None: every token has a vector as wide as the model
    ngrams: NGramsConfig | None = None  # None: blocks read the tokens' vectors alone


class ModelConfig(Shell):
    """Everything that decides a model's parameters and what it computes.

    ``blocks`` are the blocks that have parameters of their own; ``schedule`` lists the block of each
    application, in order. ``loops`` are the stretches of the schedule that the pattern's ``[ ]`` repeat,
    ``centrals`` says for each block whose central tensors it uses (None: all that it has are its own; empty:
    so it is for all). ``pattern`` is what somebody wrote, for people to read. ``vocab_size`` counts the
    boundary and padding tokens.
    """

    pattern: str
    vocab_size: Vocabulary
    boundary_id: TokenId | None = None
    padding_id: TokenId | None = None
    blocks: tuple[AnyBlock, ...] = Field(min_length=1)
    schedule: tuple[Place, ...] = Field(min_length=1, max_length=MAX_DEPTH)
    centrals: tuple[Place | None, ...] = ()
    loops: tuple[Loop, ...] = ()

    @field_validator("centrals")
    @classmethod
    def _none_shared(cls, centrals: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Say in one way that no central tensors are shared."""
        return () if set(centrals) == {None} else centrals

    @property
    def shared_centrals(self) -> dict[int, int]:
        """The blocks in the pattern's ``{ }``, and for each the block whose central tensors it uses."""
        shared = {}
        for block, central in enumerate(self.centrals):
            if central is not None:
                shared[block] = central
        return shared

    @property
    def stack(self) -> Stack:
        """The letters of the blocks and how they are applied, as :func:`weft.pattern.expand` gives them."""
        letters = tuple(kind_of(block).letter for block in self.blocks)
        centrals = self.centrals or (None,) * len(self.blocks)
        return Stack(letters, self.schedule, centrals, self.loops)

    @property
    def window(self) -> int:
        """The most tokens that any block's attention reaches back; 0 without attention."""
        return max(getattr(block, "window", 0) for block in self.blocks)

    @property
    def has_structured_maps(self) -> bool:
        """Whether some maps are made of factors."""
        return any(maps.kind != "dense" for block in self.blocks for maps in block.all_maps.values())

    def with_blocks(self, blocks: tuple[BlockConfig, ...]) -> Self:
        """Return the same stack of other blocks."""
        return self.changed(blocks=blocks)

    def with_stack(self, stack: Stack, blocks: tuple[BlockConfig, ...] | None = None) -> Self:
        """Return the model with other applications, of the same or of other blocks; its pattern is written anew."""
        return self.changed(
            pattern=written(stack),
            blocks=blocks or self.blocks,
            schedule=stack.schedule,
            centrals=stack.centrals,
            loops=stack.loops,
        )

    def with_window(self, window: int) -> Self:
        """Return the model whose attention reaches ``window`` tokens back, in each block that has one."""
        changed = []
        for block in self.blocks:
            attends = "window" in type(block).model_fields
            changed.append(block.changed(window=window) if attends else block)
        return self.with_blocks(tuple(changed))

    @model_validator(mode="after")
    def _check(self) -> Self:
        # Parameters that are never used would be trained by nobody, so every block must be applied.
        if set(self.schedule) != set(range(len(self.blocks))):
            raise ValueError(f"schedule must name each of the {len(self.blocks)} blocks, by numbers from 0")
        for block in self.blocks:
            block.check_shell(self)
        self._check_centrals()
        if self.adaptive and self.adaptive.cutoffs[-1] >= self.vocab_size:
            raise ValueError(
                f"adaptive.cutoffs must lie below the vocabulary of {self.vocab_size} tokens, but the last is "
                f"{self.adaptive.cutoffs[-1]}: keep only those below"
            )
        return self._check_ngrams()

    def _check_centrals(self) -> None:
        """Raise ValueError where blocks cannot use the central tensors of others, or loops do not fit the schedule."""
        if len(self.centrals) not in (0, len(self.blocks)):
            raise ValueError(f"centrals must say something of each of the {len(self.blocks)} blocks, or be empty")
        # The owner comes first and is configured as the others: its tensors have the
        # shapes that theirs would have.
        for block, owner in self.shared_centrals.items():
            if owner > block or self.blocks[owner] != self.blocks[block]:
                raise ValueError(f"block {block} cannot use the central tensors of block {owner}, which is not like it")
        for loop in self.loops:
            if loop.start + loop.length * loop.times > len(self.schedule):
                raise ValueError(f"the loop {tuple(loop)} goes beyond the schedule's {len(self.schedule)} applications")

    def _check_ngrams(self) -> Self:
        """Raise ValueError where the embedding cannot have bigrams."""
        if self.ngrams is None:
            return self
        if self.adaptive:
            raise ValueError("ngrams need every token's vector in one table: leave out adaptive or ngrams")
        if self.hidden_size % self.ngrams.heads:
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be a multiple of ngrams.heads ({self.ngrams.heads})"
            )
        features = self.hidden_size // self.ngrams.heads
        if self.ngrams.table_size and self.ngrams.width > features:
            raise ValueError(f"ngrams.width ({self.ngrams.width}) is more than hidden_size / ngrams.heads ({features})")
        return self


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` laid over it, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged
