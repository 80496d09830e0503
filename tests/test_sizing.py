"""Budgets are met, counts are those of real models and of published formulas."""

from __future__ import annotations

import pytest
import torch

from weft.architectures import ARCHITECTURES, PRESETS, default_pairs
from weft.config import merge
from weft.errors import UserError
from weft.kinds import kind_of
from weft.model import build
from weft.sizing import configure, count_parameters, of_width, sized


@pytest.mark.parametrize("name", [*ARCHITECTURES, "qfaf", "a4", "q3", "[qfaf]3", "x2f", "f"])
@pytest.mark.parametrize(("parameters", "vocab_size"), [(60_000, 300), (2_000_000, 2048), (41_000_000, 205)])
def test_a_budget_is_met_within_one_percent(name, parameters, vocab_size):
    config = sized(name, parameters=parameters, vocab_size=vocab_size)
    with torch.device("meta"):
        real = build(config).parameter_count
    assert abs(real - parameters) <= 0.01 * parameters
    assert count_parameters(config) == real


def test_fixed_values_stay_fixed():
    config = sized(
        "hybrid",
        parameters="1M",
        vocab_size=512,
        settings={"hidden_size": 96, "feed_forward": {"activation": "swiglu"}, "attention": {"window": 33}},
    )
    assert (config.hidden_size, config.blocks[1].activation, config.window) == (96, "swiglu", 33)
    assert abs(count_parameters(config) - 1e6) <= 1e4


@pytest.mark.parametrize(("name", "parameters", "vocab_size"), [("hybrid", 1000, 4096), ("transformer", 50, 300)])
def test_a_budget_that_no_width_meets(name, parameters, vocab_size):
    with pytest.raises(UserError, match="No width meets a budget"):
        sized(name, parameters=parameters, vocab_size=vocab_size)


def test_a_budget_that_tables_of_bigrams_fill():
    with pytest.raises(UserError, match=r"262,144 of them bigrams' tables \(model.ngrams.table_size\)"):
        sized("hybrid", parameters=250_000, vocab_size=300, settings={"ngrams": {}})


def test_a_width_that_misses_the_budget_is_told():
    settings = {
        "hidden_size": 64,
        "feed_forward": {"inner_size": 8},
        "qrnn": {"cell_size": 8},
        "attention": {"head_dim": 8},
    }
    with pytest.raises(UserError, match="within 1 %"):
        sized("hybrid", parameters=5e6, vocab_size=300, settings=settings)


def test_unknown_names_are_told():
    with pytest.raises(UserError, match="transformer-xl"):
        sized("transformr", parameters=1e6)
    with pytest.raises(UserError, match="preset"):
        sized("hybrid", parameters=1e6, preset="baroque")


def classic(pattern, **settings):
    base = {
        "hidden_size": 512,
        "attention": {"num_heads": 8, "head_dim": 64},
        "feed_forward": {"inner_size": 2048},
    }
    return configure(pattern, 204, merge(merge(PRESETS["classic"], base), settings))


def test_transformer_xl_counts_its_published_size():
    """12 layers of width 512, 8 heads of 64, inner width 2048, vocabulary 204: 41.05M (Dai et al. 2019)."""
    assert abs(count_parameters(classic("(af)12")) / 41.05e6 - 1) < 0.003


@pytest.mark.parametrize("name", ["hybrid", "transformer", "transformer-xl", "qrnn"])
@pytest.mark.parametrize("width", [64, 176, 512])
def test_a_width_has_the_depth_of_the_size_that_it_comes_to(name, width):
    config = of_width(name, vocab_size=2048, settings={"hidden_size": width})
    assert config.hidden_size == width
    assert config.pattern == ARCHITECTURES[name].pattern(default_pairs(count_parameters(config)))


def test_transformer_xls_width_has_its_depth():
    assert of_width("transformer-xl", vocab_size=204, settings={"hidden_size": 512}).pattern == "(af)12"


PUBLISHED_CLUSTERS = {"cutoffs": [20000, 40000, 200000], "div_val": 1}


def test_transformer_xl_on_wikitext_103_counts_its_published_size():
    """16 layers of width 410, 10 heads of 41, inner width 2100: about 151.1M, 41.07M in the body (Dai et al. 2019)."""
    settings = {
        "hidden_size": 410,
        "attention": {"num_heads": 10, "head_dim": 41},
        "feed_forward": {"inner_size": 2100},
        "adaptive": PUBLISHED_CLUSTERS,
    }
    config = configure("(af)16", 267_737, merge(PRESETS["classic"], settings))
    with torch.device("meta"):
        model = build(config)
    assert count_parameters(config) == model.parameter_count == 151_120_660
    assert model.body_parameter_count == 41_079_520
    assert abs(model.body_parameter_count / 41.07e6 - 1) < 0.0005


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("adaptive", "tables"),
    [
        ({}, 300 * 16),
        ({"embedding_size": 12}, 300 * 12 + 16 * 12),
        ({"div_val": 2}, 50 * 16 + 50 * 8 + 200 * 4 + 16 * (16 + 8 + 4)),
        ({"div_val": 4, "embedding_size": 8}, 50 * 8 + 50 * 2 + 200 * 1 + 16 * (8 + 2 + 1)),
    ],
)
def test_adaptive_count_by_formula(adaptive, tables, tied):
    settings = {"hidden_size": 16, "adaptive": {"cutoffs": [50, 100], **adaptive}, "tie_embeddings": tied}
    config = configure("f", 300, {**settings, "head_bias": True})
    clusters = 2 * adaptive.get("embedding_size", 16) + 2  # vectors and biases of the two tail clusters
    body = block_size("f", config) + 16
    assert count_parameters(config) == body + tables * (1 if tied else 2) + clusters + 300


@pytest.mark.parametrize("adaptive", [{"div_val": 1}, {"div_val": 4}, {"div_val": 2, "embedding_size": 64}])
@pytest.mark.parametrize("name", ["hybrid", "transformer-xl"])
def test_a_budget_with_adaptive_embeddings_is_met(name, adaptive):
    settings = {"adaptive": {"cutoffs": [2000, 8000], **adaptive}}
    config = sized(name, parameters="4M", vocab_size=20_000, settings=settings)
    with torch.device("meta"):
        real = build(config).parameter_count
    assert count_parameters(config) == real
    assert abs(real - 4e6) <= 4e4


def block_size(kind, config):
    block = next(block for block in build(config).blocks if kind_of(block.config).letter == kind)
    return sum(p.numel() for p in block.parameters())


def test_block_counts_by_formula():
    config = classic("afq", qrnn={"cell_size": 1024, "kernel_size": 1})
    d, norm = 512, 2 * 512
    assert block_size("f", config) == 2 * d * 2048 + 2048 + d + norm
    assert block_size("q", config) == 3 * d * 1024 + 3 * 1024 + 1024 * d + d + norm
    wider = classic("afq", qrnn={"cell_size": 1024, "kernel_size": 2})
    assert block_size("q", wider) - block_size("q", config) == 3 * d * 1024
    gated = classic("afq", qrnn={"cell_size": 1024, "kernel_size": 1}, block_gates=True)
    assert all(block_size(kind, gated) - block_size(kind, config) == d + 1 for kind in "afq")
    assert block_size("a", config) == 5 * d * d + 2 * d + norm  # q, k, v, output, distances; u and v
    assert abs(block_size("q", config) / block_size("f", config) - 1) < 0.001


@pytest.mark.parametrize(("window", "pooling", "gates"), [(1, "f", 2), (2, "fo", 3), (3, "ifo", 4)])
def test_qrnn_count_by_formula(window, pooling, gates):
    config = configure(
        "q", 10, {"hidden_size": 16, "qrnn": {"kernel_size": window, "pooling": pooling, "cell_size": 24}}
    )
    assert block_size("q", config) == window * 16 * gates * 24 + gates * 24 + 24 * 16 + 16


def test_fused_block_count_by_formula():
    config = configure("x", 10, {"hidden_size": 16, "attn_qrnn": {"attention_size": 8}, "qrnn": {"cell_size": 12}})
    assert block_size("x", config) == 16 * 8 + 2 * 8 * 8 + 8 + 1 + 8 * 36 + 36 + 12 * 16 + 16


def test_grouped_heads_count_by_formula():
    settings = {
        "hidden_size": 16,
        "attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 6, "query_key_norm": False},
    }
    assert block_size("a", configure("a", 10, settings)) == 2 * 16 * 24 + 2 * 16 * 12 + 16


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"attention": {"num_heads": 3, "num_kv_heads": 2}}, "multiple of num_kv_heads"),
        ({"attention": {"head_dim": 5}}, "even head_dim"),
        ({"qrnn": {"output_projection": False, "cell_size": 20}}, "output_projection"),
        ({"attention": {"windw": 5}}, "did you mean 'window'"),
        ({"norn": "rms"}, "did you mean 'norm'"),
        ({"dropout": 1.5}, "dropout"),
    ],
)
def test_impossible_configurations_say_what_to_do(settings, word):
    with pytest.raises(UserError, match=word):
        configure("qfaf", 10, {"hidden_size": 16, **settings})
