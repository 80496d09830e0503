"""Parameters that accelerate keeps elsewhere: what is read outside of its module's forward pass is there, too."""

from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload, disk_offload

from tests.conftest import small_config
from tests.hf.adapted import VARIANTS, VOCABULARY, adapted, adapter_of, texts
from weft.hf import WeftForCausalLM
from weft.model import build


def assert_close(got, expected):
    """Compare numbers: where a norm's weight is elsewhere, norm and token shift are two passes and round otherwise."""
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings(
    "ignore:You are calling .generate:UserWarning"
)  # transformers 5.17, of parameters elsewhere
@pytest.mark.parametrize("variant", [*VARIANTS, "adaptive"])
@torch.no_grad()
def test_offloaded_parameters_give_the_same_logits(variant):
    if variant == "adaptive":
        config = small_config("qa", {"adaptive": {"cutoffs": [40, 100], "div_val": 2}}, vocab_size=VOCABULARY)
        model = adapter_of(build(config, seed=0))
    else:
        _, model = adapted(variant)
    tokens = texts(2, 9)
    expected, written = model(tokens).logits, model.generate(tokens, max_new_tokens=4)
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert_close(model(tokens).logits, expected)
    assert torch.equal(model.generate(tokens, max_new_tokens=4), written)


@torch.no_grad()
def test_parameters_on_the_disk_give_the_same_logits(run, tmp_path):
    tokens = texts(2, 9)
    expected = WeftForCausalLM.from_pretrained(run)(tokens).logits
    model = WeftForCausalLM.from_pretrained(run)
    disk_offload(model, tmp_path / "aside", execution_device=torch.device("cpu"))
    assert_close(model(tokens).logits, expected)
    parts = {"embedding": "cpu", "blocks": "disk", "norm": "disk", "dropout": "cpu", "lm_head": "cpu"}
    placed = WeftForCausalLM.from_pretrained(run, device_map=parts, offload_folder=tmp_path / "folder")
    assert_close(placed(tokens).logits, expected)
    assert_close(placed.base_model(tokens).last_hidden_state, model.base_model(tokens).last_hidden_state)
