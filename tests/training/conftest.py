"""A small text and a small recipe, so that a run takes a second."""

from __future__ import annotations

import copy

import pytest

from weft.config import merge

TINY = {
    "model": {"pattern": "qfa", "hidden_size": 16, "attention": {"window": 16}},
    "data": {"tokenizer": "bytes"},
    "training": {
        "steps": 12,
        "batch": {"batch_size": 4, "sequence_length": 32},
        "logging": {"validations": 3, "samples": 4, "checkpoint_every": 3, "log_every": 2},
        "precision": "fp32",
    },
}


@pytest.fixture
def corpus(tmp_path, corpus_text):
    path = tmp_path / "texts" / "sami.txt"
    path.parent.mkdir()
    path.write_text(corpus_text, encoding="utf-8")
    return path


@pytest.fixture
def tiny(corpus):
    """Return a maker of tiny recipes on the corpus."""

    def make(**changes):
        return merge(merge(copy.deepcopy(TINY), {"data": {"sources": [str(corpus)]}}), changes)

    return make
