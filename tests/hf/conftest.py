"""A run directory with a tokenizer."""

from __future__ import annotations

import pytest

from tests.conftest import small_model
from tests.hf.adapted import (
    VOCABULARY,
)
from weft.data import train_tokenizer
from weft.hf import register
from weft.pretrained import save_model


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bpe", [b"the weaver and the weft and the warp " * 20], VOCABULARY)


@pytest.fixture
def run(tmp_path, tokenizer):
    native = small_model("[qfax]2", {}, vocab_size=VOCABULARY)
    save_model(native, tokenizer, tmp_path / "run")
    register()
    return tmp_path / "run"
