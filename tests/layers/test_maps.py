"""Structured linear maps: what they compute, how they start, and models made of them."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import small_config, small_model
from weft.config import MapConfig
from weft.description import describe
from weft.errors import UserError
from weft.kinds import map_roles
from weft.layers.linear import linear, make_map, rank_of
from weft.layers.maps import BlockDense, BlockShuffle, LowRank, StructuredMap
from weft.model import build
from weft.sizing import count_parameters, sized
from weft.training.optimizer import make_optimizers
from weft.training.recipe import TrainingConfig

KINDS = ("low_rank", "block_dense", "block_shuffle")
SHAPES = [(16, 24), (24, 16), (16, 16)]


def a_map(kind: str, inputs: int, outputs: int, *, bias: bool = True, **how) -> StructuredMap:
    found = make_map(MapConfig(kind=kind, **how), inputs, outputs, bias=bias)
    assert found is not None
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.normal_()
    return found.double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_map_is_its_dense_matrix(kind, inputs, outputs):
    layer = a_map(kind, inputs, outputs)
    x = torch.randn(3, 5, inputs, dtype=torch.float64, requires_grad=True)
    weight, bias = layer.dense_weight(), layer.bias
    assert weight.shape == (outputs, inputs)
    dense = x @ weight.T + bias
    torch.testing.assert_close(layer(x), dense)
    taken = [x, *layer.parameters()]
    seed = torch.randn_like(dense)
    structured = torch.autograd.grad(layer(x), taken, seed, retain_graph=True)
    for ours, theirs in zip(structured, torch.autograd.grad(dense, taken, seed), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_bias_that_the_caller_adds_is_not_added():
    found = make_map(MapConfig(kind="low_rank"), 16, 24, bias=True, adds_bias=False)
    assert found is not None
    found.initialise(0.1)
    before = found(torch.ones(16))
    torch.nn.init.ones_(found.bias)
    torch.testing.assert_close(found(torch.ones(16)), before)


def test_block_shuffle_by_hand():
    """One row, from the equation: z_k = D_k x_k; o_b = E_b (z of all blocks in turn); out[s K + b] = o_b[s]."""
    layer = a_map("block_shuffle", 24, 16, blocks=4, bias=False)
    x = torch.randn(24, dtype=torch.float64)
    z = torch.cat([layer.first_Kmn[k] @ x.view(4, 6)[k] for k in range(4)])
    shuffled = z.view(4, 4).T.flatten()
    expected = torch.empty(16, dtype=torch.float64)
    for b in range(4):
        expected[torch.arange(4) * 4 + b] = layer.second_Kmn[b] @ shuffled.view(4, 4)[b]
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 256), (256, 64), (64, 64)])
def test_parameters_are_the_published_formulas(inputs, outputs):
    low = make_map(MapConfig(kind="low_rank", rank=32), inputs, outputs)
    dense = make_map(MapConfig(kind="block_dense", rank=32), inputs, outputs)
    shuffle = make_map(MapConfig(kind="block_shuffle"), inputs, outputs)
    assert isinstance(low, LowRank)
    assert isinstance(dense, BlockDense)
    assert isinstance(shuffle, BlockShuffle)
    counts = [sum(p.numel() for p in part.parameters()) for part in (low, dense, shuffle)]
    assert counts == [
        32 * (inputs + outputs),
        32 * (outputs + inputs // 4),
        min(inputs, outputs) * (inputs + outputs) // 4,
    ]


@pytest.mark.parametrize("kind", ["low_rank", "block_dense"])
def test_the_rank_makes_the_share_of_the_parameters(kind):
    config = MapConfig(kind=kind, share=0.32, blocks=2)
    found = make_map(config, 512, 2048)
    assert sum(p.numel() for p in found.parameters()) == pytest.approx(0.32 * 512 * 2048, rel=0.03)
    assert rank_of(config, 512, 2048) % 8 == 0


def test_no_share_asks_for_a_higher_rank_than_a_matrix_has():
    assert rank_of(MapConfig(kind="block_dense", share=0.63, blocks=4), 4096, 1024) == 1024
    assert rank_of(MapConfig(kind="low_rank", share=1.0), 20, 30) == 12
    assert rank_of(MapConfig(kind="low_rank", share=1.0), 20, 20) == 10


def test_low_rank_starts_as_the_nearest_map_to_a_dense_one():
    torch.manual_seed(0)
    weight = torch.randn(24, 16)
    layer = LowRank(16, 24, 5, bias=False)
    layer.approximate_(weight)
    tail = torch.linalg.svdvals(weight)[5:].square().sum().sqrt()
    torch.testing.assert_close((weight - layer.dense_weight()).norm(), tail)
    up, down = (torch.linalg.svdvals(factor) for factor in (layer.up_MR, layer.down_RN))
    torch.testing.assert_close(up, down)  # the singular values are shared


@pytest.mark.parametrize("kind", ["block_dense", "block_shuffle"])
def test_blocks_start_orthogonal(kind):
    layer = make_map(MapConfig(kind=kind), 16, 24)
    layer.initialise(0.02)
    for factor in layer.factors():
        for matrix in factor if factor.dim() == 3 else [factor]:
            torch.testing.assert_close(torch.linalg.svdvals(matrix), torch.ones(min(matrix.shape)))


def test_sizes_that_do_not_go_into_the_blocks_are_told():
    with pytest.raises(UserError, match="choose a number that divides both"):
        linear(MapConfig(kind="block_shuffle", blocks=5), 16, 24)
    with pytest.raises(UserError, match="choose a multiple of 4"):
        linear(MapConfig(kind="block_dense", rank=6), 16, 24)
    with pytest.raises(UserError, match="choose at most 16"):
        linear(MapConfig(kind="low_rank", rank=17), 16, 24)


def kinds_of(model, name):
    return [type(getattr(block, name)).__name__ for block in model.blocks if hasattr(block, name)]


def test_the_first_feed_forward_is_dense_as_published_and_depth_can_be_chosen():
    maps = {"maps": {"feed_forward": {"kind": "low_rank"}}}
    assert kinds_of(small_model("fqff", maps), "inner") == ["Dense", "LowRank", "LowRank"]
    maps["maps"]["feed_forward"]["dense_first"] = 2
    assert kinds_of(small_model("fqff", maps), "output") == ["Dense", "Dense", "Dense", "LowRank"]
    every = {role: {"kind": "block_dense", "dense_first": 0, "blocks": 2} for role in map_roles()}
    model = small_model("fqax", {"maps": every})
    assert not any(isinstance(m, torch.nn.Linear) for m in model.blocks.modules())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["hybrid", "transformer", "x3", "[qfaf]2"])
def test_a_budget_is_met_with_structured_maps(kind, name):
    maps = {role: {"kind": kind} for role in map_roles()}
    config = sized(name, parameters=300_000, vocab_size=512, settings={"maps": maps})
    with torch.device("meta"):
        assert build(config).parameter_count == count_parameters(config)
    assert abs(count_parameters(config) / 300_000 - 1) <= 0.01
    assert config.hidden_size > sized(name, parameters=300_000, vocab_size=512).hidden_size


@pytest.mark.parametrize("kind", ["block_dense", "block_shuffle"])
def test_widths_are_found_that_go_into_many_blocks(kind):
    maps = {"qrnn": {"kind": kind, "blocks": 8}}
    config = sized("x3", parameters=500_000, vocab_size=300, settings={"maps": maps})
    assert abs(count_parameters(config) / 500_000 - 1) <= 0.01


def test_a_width_is_found_that_has_the_rank():
    """The first model of docs/fewer-parameters.md."""
    maps = {"feed_forward": {"kind": "low_rank"}, "qrnn": {"kind": "block_dense", "rank": 64, "blocks": 2}}
    config = sized("hybrid", parameters=1e6, vocab_size=2048, settings={"maps": maps})
    assert abs(count_parameters(config) / 1e6 - 1) <= 0.01
    with pytest.raises(UserError, match="has at least"):
        sized("hybrid", parameters=5e4, vocab_size=300, settings={"maps": maps})


def test_the_map_starts_at_nothing_where_the_dense_one_does():
    shuffled = {"kind": "block_shuffle", "dense_first": 0, "blocks": 2}
    model = build(small_config("qfaf", {"maps": {"qrnn": {"kind": "low_rank"}, "feed_forward": shuffled}}))
    tokens = torch.randint(0, 11, (2, 7))
    embedded = model.norm(model.embedding(tokens))
    torch.testing.assert_close(model.hidden(tokens)[0], embedded)


def test_describe_counts_what_maps_really_have_and_do():
    maps = {"feed_forward": {"kind": "low_rank", "rank": 3, "dense_first": 0}}
    described, dense = describe(small_config("f", {"maps": maps})), describe(small_config("f"))
    factors = 2 * 3 * (16 + 24)
    assert dense.body_parameters - described.body_parameters == 2 * 16 * 24 - factors
    assert dense.flops_per_token - described.flops_per_token == 2 * (2 * 16 * 24 - factors)
    assert "feed_forward low_rank (rank 3)" in described.blocks[0].shape


def test_a_row_of_matrices_gets_the_steps_that_each_would_get():
    """Muon on the blocks of a map, beside Muon on the same matrices one by one."""
    torch.manual_seed(0)
    settings = {"maps": {"feed_forward": {"kind": "block_shuffle", "dense_first": 0, "blocks": 2}}}
    model = build(small_config("f", settings))
    row = model.blocks[0].inner.first_Kmn
    alone = torch.nn.ParameterList([torch.nn.Parameter(matrix.clone()) for matrix in row.detach()])
    config = TrainingConfig(steps=1)
    muon = make_optimizers(model, config)[0]
    assert any(parameter is row for parameter in muon.param_groups[0]["params"])
    other = type(muon)(alone, lr=config.optimizer.learning_rate, weight_decay=0.1, momentum=0.95, normalise=True)
    for _ in range(3):
        row.grad = torch.randn_like(row)
        for matrix, gradient in zip(alone, row.grad, strict=True):
            matrix.grad = gradient.clone()
        muon.step()
        other.step()
    torch.testing.assert_close(row.detach(), torch.stack([matrix.detach() for matrix in alone]))
