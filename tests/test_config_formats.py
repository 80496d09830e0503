"""Format 1 of ``config.json``, which 0.1.0 wrote, is read as it was; format 2 comes back as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from weft.config import ModelConfig
from weft.errors import OldKeyWarning
from weft.hf import WeftConfig
from weft.model import build
from weft.older import model_fields
from weft.sizing import configure

FOLDER = Path(__file__).parent / "older" / "configs-0.1.0"


@pytest.fixture(params=sorted(path.stem for path in FOLDER.glob("*.json")))
def older(request) -> dict:
    """A ``config.json``, the shapes of the model's parameters, and the sum of its logits' sizes."""
    return json.loads((FOLDER / f"{request.param}.json").read_text(encoding="utf-8"))


def test_format_1_describes_the_same_model(older):
    config = ModelConfig.parse(model_fields(older["config"]))
    model = build(config, seed=0).eval()
    assert {name: list(x.shape) for name, x in model.named_parameters()} == older["parameters"]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        logits = model(torch.arange(11)[None])[0]
    assert logits.double().abs().sum().item() == pytest.approx(older["logits_sum"], rel=1e-5)


def test_format_2_comes_back(older):
    config = ModelConfig.parse(model_fields(older["config"]))
    values = json.loads(json.dumps(config.model_dump(mode="json")))
    assert ModelConfig.parse(model_fields(values)) == config


def test_the_adapter_reads_both(older):
    theirs = WeftConfig(**older["config"])
    native = ModelConfig.parse(model_fields(older["config"]))
    assert theirs.native.blocks == native.blocks
    assert WeftConfig.from_dict(theirs.to_dict()).native == theirs.native


def test_old_keys_of_a_recipes_model_are_read_with_a_warning():
    settings = {"hidden_size": 16, "attention": {"memory": 7}, "qrnn": {"window": 3}}
    with pytest.warns(OldKeyWarning, match="model.attention.memory is model.attention.window"):
        config = configure("aqx", 30, settings)
    assert [getattr(block, "window", None) for block in config.blocks] == [7, None, 7]
    assert config.blocks[1].kernel_size == 3
