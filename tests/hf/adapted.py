"""Small models behind the adapter, and texts for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.conftest import BIGRAMS, MAPS, small_model
from weft.errors import UserError
from weft.hf import WeftConfig, WeftForCausalLM

VOCABULARY = 270
BOUNDARY, PADDING = VOCABULARY - 2, VOCABULARY - 1
GROUPED = {"attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 4}}
# Every kind of block, shared blocks, grouped heads, both shells, separate softmax.
VARIANTS = {
    "attention": ("afaf", GROUPED, "modern"),
    "qrnn": ("qfq", {"qrnn": {"kernel_size": 3, "pooling": "ifo"}}, "modern"),
    "fused": ("xfx", {}, "modern"),
    "shared": ("[qfax]2", {"tie_embeddings": False, "head_bias": True}, "modern"),
    "matrix products": ("{qfa}2", {"tie_embeddings": False}, "modern"),
    "bigrams": ("qfa", {"ngrams": BIGRAMS}, "modern"),
    "structured": ("fqafx", {"maps": MAPS}, "modern"),
    "classic": ("aqf", {}, "classic"),
}


def adapted(variant: str = "shared", seed: int = 0, **settings):
    """Return a native model and the adapter with the same parameters."""
    pattern, own, preset = VARIANTS[variant]
    native = small_model(pattern, {**own, **settings}, preset, seed=seed, vocab_size=VOCABULARY)
    return native, adapter_of(native)


def adapter_of(native) -> WeftForCausalLM:
    model = WeftForCausalLM(WeftConfig.of(native.config)).eval()
    model.load_state_dict(native.state_dict())
    return model


def texts(rows: int, length: int, seed: int = 1) -> Tensor:
    """Return random texts, each with its boundary first."""
    tokens = torch.randint(0, BOUNDARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = BOUNDARY
    return tokens


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Return texts of different lengths as one batch, and its mask."""
    longest = max(len(row) for row in rows)
    tokens, mask = torch.full((len(rows), longest), PADDING), torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        tokens[i, where], mask[i, where] = row, 1
    return tokens, mask


LENGTHS = (3, 12, 8)


def error_of(function) -> str:
    with pytest.raises(UserError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)
