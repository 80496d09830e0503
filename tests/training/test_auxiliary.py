"""Lightweight tuning: of a model of matrix products all but the central tensors learns."""

from __future__ import annotations

import pytest
import torch

from tests.command import assert_mistake, run_weft
from tests.conftest import BIGRAMS
from tests.training.test_run import last_weights
from weft.errors import UserError
from weft.layers.matrix_product import is_central
from weft.pretrained import load_model
from weft.training.run import train

ONLY = {"only": {"parameters": "auxiliary"}}


def test_only_the_auxiliary_tensors_learn(tiny, tmp_path):
    train(tiny(training={"logging": {"samples": 0}}), tmp_path / "dense")
    told = run_weft("tensorise", tmp_path / "dense", "--out", tmp_path / "products", "--adapter", 2, "--json").json()
    assert told["error"] < 1e-6
    values = tiny(training={"methods": ONLY, "logging": {"samples": 0}, "steps": 6})
    del values["model"]["pattern"]
    train(values, tmp_path / "tuned", init_from=tmp_path / "products")
    before = dict(load_model(tmp_path / "products").named_parameters())
    after = last_weights(tmp_path / "tuned")
    fixed = [name for name in before if is_central(name) or not name.startswith("blocks.")]
    assert all(torch.equal(before[name], after[name]) for name in fixed)
    assert any(not torch.equal(before[name], after[name]) for name in before if name not in fixed)
    with pytest.raises(UserError, match="this model has none"):
        train(tiny(training={"methods": ONLY}), tmp_path / "none")
    ran = run_weft("tensorise", tmp_path / "products", "--out", tmp_path / "again")
    assert_mistake(ran, "run weft merge first")


def test_latent_bigrams_stay_as_they_are(tiny, tmp_path):
    train(tiny(model={"ngrams": BIGRAMS}, training={"logging": {"samples": 0}, "steps": 3}), tmp_path / "dense")
    run_weft("tensorise", tmp_path / "dense", "--out", tmp_path / "products")
    values = tiny(training={"methods": ONLY, "logging": {"samples": 0}, "steps": 3})
    del values["model"]["pattern"]
    train(values, tmp_path / "tuned", init_from=tmp_path / "products")
    before, after = dict(load_model(tmp_path / "products").named_parameters()), last_weights(tmp_path / "tuned")
    names = [name for name in before if name.startswith("ngrams.")]
    assert len(names) == 6
    assert all(torch.equal(before[name], after[name]) for name in names)
