"""The description of a model, as data: frozen, keyword-only, validated when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from weft.numbers import MAX_WIDTH, Below1, Place, Reach, TokenId, Vocabulary, Width
from weft.pattern import KINDS, Application, expand
from weft.settings import FrozenConfig

ROLES = {"feed_forward": "f", "attention": "ax", "qrnn": "qx"}  # of linear maps, and the kinds of blocks that have them


class AttentionConfig(FrozenConfig):
    """Multi-head causal attention over a window: each position sees itself and at most ``memory`` before it."""

    num_heads: Width
    num_kv_heads: Width | None = None  # None: as many as heads; fewer: grouped keys and values
    head_dim: Width
    memory: Reach = 256
    positions: Literal["rotary", "relative", "none"] = "rotary"
    query_key_norm: bool = True
    dropout: Below1 = 0.0  # of attention probabilities

    @property
    def kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_kv_heads or self.num_heads

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.kv_heads})")
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {self.head_dim}")
        if self.num_heads * self.head_dim > MAX_WIDTH:
            raise ValueError(
                f"num_heads x head_dim ({self.num_heads:,} x {self.head_dim:,}) is more than {MAX_WIDTH:,} features"
            )
        return self


class FeedForwardConfig(FrozenConfig):
    """Position-wise feed-forward map of ``inner_size`` hidden units."""

    inner_size: Width
    activation: Literal["relu", "relu_squared", "gelu", "swiglu"] = "relu_squared"
    dropout: Below1 = 0.0  # after the activation


class QRNNConfig(FrozenConfig):
    """Quasi-recurrent layer (Bradbury et al. 2017, arXiv 1611.01576)."""

    cell_size: Width
    window: int = Field(
        default=1, gt=0, le=1024
    )  # docs/study.md, "What decided": beside token shift a wider one is of no use
    pooling: Literal["f", "fo", "ifo"] = "fo"
    zoneout: Below1 = 0.0
    output_projection: bool = True
    forget_bias: Literal["classic", "spread"] = "classic"  # at one half: docs/study.md, "Inside a QRNN block"


class AttnQRNNConfig(FrozenConfig):
    """The attention inside a fused block; its cells and pooling are those of ``qrnn``, its memory ``attention``'s."""

    attention_size: Width
    num_heads: Width = 1
    positions: Literal["rotary", "none"] = "none"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.attention_size % self.num_heads:
            raise ValueError(
                f"attention_size ({self.attention_size}) must be a multiple of num_heads ({self.num_heads})"
            )
        if self.positions == "rotary" and self.attention_size // self.num_heads % 2:
            raise ValueError("rotary positions need an even attention_size / num_heads")
        return self


class MapConfig(FrozenConfig):
    """What linear maps of one role are made of (:mod:`weft.layers.maps`).

    ``share`` is the part of a dense map's parameters that the rank is chosen for, unless ``rank`` says it;
    ``block_shuffle``'s follows from ``blocks`` alone. The first ``dense_first`` blocks of the role keep dense maps
    (None: one for structured feed-forwards, as published, else none; matrix products have none), and so do
    ``dense_blocks``, which are numbers among those of the role.

    Of a ``matrix_product`` (:mod:`weft.layers.matrix_product`), ``factors`` are what sizes are products of, such as
    [[4, 4, 4, 4, 3]] for 768 (others find their own); ``bond`` is the largest bond (None: none is too small for any
    matrix), ``adapter`` the rank of what is added, and ``depth_scaled`` lets it start smaller by (2 L)^(1/4) in a stack
    of L blocks, as deep post-norm stacks need.
    """

    kind: Literal["dense", "low_rank", "block_dense", "block_shuffle", "matrix_product"] = "dense"
    share: float = Field(default=0.32, gt=0, le=1)
    rank: Width | None = None
    blocks: Width = 4
    dense_first: Place | None = None
    dense_blocks: tuple[Place, ...] = ()
    factors: tuple[tuple[Width, ...], ...] = ()
    bond: Width | None = None
    adapter: int = Field(default=0, ge=0, le=MAX_WIDTH)
    depth_scaled: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if wrong := [list(parts) for parts in self.factors if len(parts) != 5]:
            raise ValueError(f"factors are five numbers whose product is a size, not {wrong[0]}")
        return self


class MapsConfig(FrozenConfig):
    """The linear maps by role: those of feed-forward blocks, of attention (fused too), of recurrence (fused too)."""

    feed_forward: MapConfig = MapConfig()
    attention: MapConfig = MapConfig()
    qrnn: MapConfig = MapConfig()

    def is_dense(self, role: str, place: int) -> bool:
        """Tell whether the block that is number ``place`` of those with ``role`` keeps dense maps."""
        own: MapConfig = getattr(self, role)
        published = 1 if role == "feed_forward" and own.kind != "matrix_product" else 0
        first = published if own.dense_first is None else own.dense_first
        return own.kind == "dense" or place < first or place in own.dense_blocks

    def in_braces(self) -> Self:
        """Return the maps of a block in the pattern's ``{ }``: matrix products, as each role has them or by default."""
        others = [role for role in ROLES if getattr(self, role).kind != "matrix_product"]
        return self.model_copy(update=dict.fromkeys(others, MapConfig(kind="matrix_product")))


class AdaptiveConfig(FrozenConfig):
    """Adaptive input and softmax (Grave et al. 2017, arXiv 1609.04309; Baevski and Auli 2019, arXiv 1809.10853).

    Token ids must fall in frequency. ``cutoffs`` end the shortlist and each further cluster but the last, which ends
    with the vocabulary. Cluster i's vectors have ``embedding_size // div_val**i`` features (at least one;
    ``embedding_size`` None: the model's width); where that is not the model's width for every cluster, linear maps join
    the two: one for all clusters when ``div_val`` is 1, else one for each.
    """

    cutoffs: tuple[Vocabulary, ...] = Field(min_length=1)
    div_val: Width = 1
    embedding_size: Width | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(after <= before for before, after in pairwise(self.cutoffs)):
            raise ValueError(f"the cutoffs must increase, which {list(self.cutoffs)} do not")
        return self


class NGramsConfig(FrozenConfig):
    """Latent bigrams beside the embedding (:mod:`weft.layers.ngrams`).

    Each of ``heads`` parts of a token's vector has ``clusters`` latent ids, and a table of ``table_size`` rows of
    ``width`` features for pairs of them. A ``table_size`` of 0 leaves the layer's norm alone, which is the control.
    Centroids keep ``decay`` of their place at each step.
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


class ModelConfig(FrozenConfig):
    """Everything that decides a model's parameters and what it computes.

    ``pattern`` is read by :func:`weft.pattern.expand`; sizes are in units (features). ``vocab_size`` counts
    the boundary and padding tokens.
    """

    pattern: str
    vocab_size: Vocabulary
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
    boundary_id: TokenId | None = None
    padding_id: TokenId | None = None
    attention: AttentionConfig
    feed_forward: FeedForwardConfig
    qrnn: QRNNConfig
    attn_qrnn: AttnQRNNConfig
    adaptive: AdaptiveConfig | None = None  # None: every token has a vector as wide as the model
    maps: MapsConfig = MapsConfig()
    ngrams: NGramsConfig | None = None  # None: blocks read the tokens' vectors alone

    @property
    def applications(self) -> tuple[Application, ...]:
        """The block applications of ``pattern``, in order."""
        return expand(self.pattern)

    @property
    def block_kinds(self) -> tuple[str, ...]:
        """The kind (a letter) of each block that has parameters of its own, by its number."""
        return tuple({each.block: each.kind for each in self.applications}.values())

    @property
    def centrals(self) -> dict[int, int]:
        """The blocks in ``{ }``, and for each the block whose central tensors it uses."""
        return {each.block: each.central for each in self.applications if each.central is not None}

    @property
    def has_factors(self) -> bool:
        """Whether some maps may be made of factors: ``maps`` asks for them, or the pattern's ``{ }``."""
        return self.maps != MapsConfig() or bool(self.centrals)

    def of_blocks(self) -> tuple[ModelConfig, ...]:
        """Return the configuration that each block with parameters of its own has: maps may differ by depth."""
        kinds, centrals = self.block_kinds, self.centrals
        if not self.has_factors:
            return (self,) * len(kinds)
        seen = dict.fromkeys(ROLES, 0)
        configs = []
        for block, kind in enumerate(kinds):
            if block in centrals:
                configs.append(self.model_copy(update={"maps": self.maps.in_braces()}))
                continue
            roles = [role for role, kinds in ROLES.items() if kind in kinds]
            dense = {role: MapConfig() for role in roles if self.maps.is_dense(role, seen[role])}
            seen |= {role: seen[role] + 1 for role in roles}
            configs.append(self.model_copy(update={"maps": self.maps.model_copy(update=dense)}))
        return tuple(configs)

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = set(self.block_kinds)
        if kinds & set("qx") and not self.qrnn.output_projection and self.qrnn.cell_size != self.hidden_size:
            raise ValueError(
                f"a QRNN without output_projection needs cell_size ({self.qrnn.cell_size}) "
                f"equal to hidden_size ({self.hidden_size})"
            )
        assert kinds <= set(KINDS)
        if self.adaptive and self.adaptive.cutoffs[-1] >= self.vocab_size:
            raise ValueError(
                f"adaptive.cutoffs must lie below the vocabulary of {self.vocab_size} tokens, but the last is "
                f"{self.adaptive.cutoffs[-1]}: keep only those below"
            )
        return self._check_ngrams()

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


# Shells around the blocks. `modern` is what ModelConfig's own defaults say, with gates and token shift; `classic` is
# Transformer-XL's (kimiyoung/transformer-xl, Dai et al. 2019): post-norm, LayerNorm, ReLU, relative positions, biased
# feed-forwards and softmax, N(0, 0.02) everywhere, dropout also after the activation.
PRESETS: dict[str, dict[str, Any]] = {
    "modern": {"block_gates": True, "token_shift": True},  # docs/study.md, "What decided"
    "classic": {
        "norm": "layer",
        "norm_placement": "post",
        "bias": True,
        "head_bias": True,
        "init": "classic",
        "residual_init": "normal",
        "attention": {"positions": "relative", "query_key_norm": False},
        "feed_forward": {"activation": "relu"},
    },
}


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` laid over it, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged
