"""The figures that ``weft describe`` shows are those of the real model."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import small_config
from weft.description import STATE_CONTEXTS, describe
from weft.layers.state import tensors
from weft.model import build


@pytest.mark.parametrize("pattern", ["qfafx", "[qa]3f", "a", "f2"])
def test_parameters_are_those_of_the_model(pattern):
    config = small_config(pattern)
    described, model = describe(config), build(config)
    assert described.parameters == sum(p.numel() for p in model.parameters())
    assert described.embedding_parameters == config.vocab_size * config.hidden_size
    norm = config.hidden_size
    assert sum(row.parameters for row in described.blocks) + norm == described.body_parameters
    assert described.depth == len(model.schedule)


@pytest.mark.parametrize("kind", "afqx")
@pytest.mark.parametrize("context", [1, 3, 30])
def test_state_bytes_are_those_of_the_real_state(kind, context):
    model = build(small_config(kind, {"qrnn": {"kernel_size": 3}}))
    _, state = model(torch.zeros(1, context, dtype=torch.long))
    real = sum(tensor.numel() * tensor.element_size() for tensor in tensors(state))
    assert model.blocks[0].state_bytes(context) == real


def test_shared_blocks_are_counted_once_and_say_so():
    described = describe(small_config("[qf]2"))
    assert [row.shared_with for row in described.blocks] == [None, None, 0, 1]
    assert described.parameters == describe(small_config("qf")).parameters
    assert described.flops_per_token > describe(small_config("qf")).flops_per_token


def test_flops_of_products_by_hand():
    config = small_config("f")
    described = describe(config)
    products = 2 * 2 * 16 * 24
    assert described.flops_per_token == products + 2 * config.vocab_size * config.hidden_size


@pytest.mark.parametrize("tied", [True, False])
def test_an_adaptive_embedding_is_described(tied):
    settings = {
        "block_gates": False,
        "token_shift": False,
        "adaptive": {"cutoffs": [3, 7], "div_val": 2},
        "tie_embeddings": tied,
        "head_bias": True,
    }
    config = small_config("f", settings)
    described, model = describe(config), build(config)
    assert described.embedding_shape == "adaptive: 3 x 16, 4 x 8, 4 x 4"
    assert described.parameters == model.parameter_count
    assert described.body_parameters == model.blocks[0].norm.weight.numel() + 2 * 16 * 24 + 16
    matrices = 3 * 16 + 4 * 8 + 4 * 4 + 16 * (16 + 8 + 4)
    assert described.softmax_parameters == (0 if tied else matrices)
    assert described.embedding_parameters == matrices * (1 if tied else 2) + 11 + 2 * 16 + 2
    products = 2 * 2 * 16 * 24
    logits, maps = 3 * 16 + 4 * 8 + 4 * 4 + 2 * 16, 16 * (16 + 8 + 4)
    assert described.flops_per_token == products + 2 * logits + 2 * 2 * maps


def test_a_softmax_of_its_own_is_told_apart():
    assert describe(small_config("f")).softmax_parameters == 0
    assert describe(small_config("f", {"tie_embeddings": False})).softmax_parameters == 11 * 16
    assert describe(small_config("f")).embedding_shape == "11 x 16"


def test_state_does_not_grow_beyond_the_window():
    described = describe(small_config("qa"))
    assert len({described.state_bytes[n] for n in STATE_CONTEXTS}) == 1


@pytest.mark.parametrize(("pattern", "memory", "tokens"), [("qa", 5, 5), ("af", 256, 256), ("qf", 5, 1)])
def test_it_is_told_from_where_on_the_state_grows_no_more(pattern, memory, tokens):
    config = small_config(pattern, {"attention": {"window": memory}})
    assert describe(config).full_after == tokens
