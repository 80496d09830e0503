"""Matrix products: the published counts, exactness, sharing, and what learns."""

from __future__ import annotations

from math import prod

import pytest
import torch

from tests.conftest import small_config, small_model
from weft.compress.merge import merge_maps
from weft.compress.tensorise import tensorise_maps
from weft.config import MapConfig
from weft.data import train_tokenizer
from weft.description import describe
from weft.errors import UserError
from weft.layers.matrix_product import MatrixProduct, bonds, decomposed, multiplied_out, parts_of
from weft.model import build
from weft.pattern import expand
from weft.pretrained import load_model, save_model
from weft.sizing import count_parameters, sized
from weft.training.optimizer import make_optimizers
from weft.training.recipe import TrainingConfig

PAPER = ((4, 4, 4, 4, 3), (4, 4, 8, 6, 4), (3, 4, 4, 4, 4))


def a_product(inputs: int, outputs: int, **how) -> MatrixProduct:
    torch.manual_seed(0)
    return MatrixProduct(inputs, outputs, MapConfig(kind="matrix_product", **how), bias=False)


def count(shapes_of: MatrixProduct) -> int:
    return sum(tensor.numel() for tensor in shapes_of.tensors)


@pytest.mark.parametrize(
    ("outputs", "inputs", "factors", "total", "central"),
    [
        (768, 768, PAPER[:1], 676_433, 0.872),
        (3072, 768, PAPER[1:], 2_544_016, 0.927),
        (128, 128, ((2, 2, 8, 2, 2),), 16_928, 0.968),
        (128, 128, ((2, 4, 2, 4, 2),), 24_608, 0.666),
        (512, 128, ((2, 4, 8, 4, 2), (2, 2, 8, 2, 2)), 67_616, 0.969),
    ],
)
def test_the_published_counts_come_out(outputs, inputs, factors, total, central):
    with torch.device("meta"):
        layer = a_product(inputs, outputs, factors=factors)
    assert count(layer) == total
    assert layer.central_aijd.numel() / total == pytest.approx(central, abs=5e-4)


@pytest.mark.parametrize(("size", "parts"), [(128, (2, 2, 8, 2, 2)), (256, (2, 4, 4, 4, 2)), (512, (2, 4, 8, 4, 2))])
def test_sizes_find_their_own_factors(size, parts):
    assert parts_of(size, ()) == parts


@pytest.mark.parametrize("size", [1, 7, 13, 24, 208, 832, 1000])
def test_any_size_has_factors(size):
    assert prod(parts_of(size, ())) == size


@pytest.mark.parametrize("shape", [(768, 768), (3072, 768), (24, 16), (7, 13)])
def test_a_matrix_comes_back(shape):
    torch.manual_seed(0)
    weight = torch.randn(shape)
    layer = a_product(shape[1], shape[0], factors=PAPER)
    told = layer.approximate_(weight)
    torch.testing.assert_close(layer.dense_weight(), weight, rtol=0, atol=1e-5)
    relative = (layer.double().dense_weight() - weight).norm() / weight.norm()
    assert told == pytest.approx(relative.item(), rel=1e-3)
    assert told < 1e-6


def test_one_entry_by_hand():
    layer = a_product(16, 24)
    with torch.no_grad():
        for tensor in layer.tensors:
            tensor.normal_()
    rows, columns = (torch.unravel_index(torch.tensor(n), p) for n, p in ((17, layer.out_parts), (11, layer.in_parts)))
    product = torch.ones(1, 1)
    for tensor, i, j in zip(layer.tensors, rows, columns, strict=True):
        product = product @ tensor[:, i, j]
    torch.testing.assert_close(layer.dense_weight()[17, 11], product[0, 0])


def test_what_a_bond_cuts_off_is_the_error():
    """With one bond cut, the error is the energy of the singular values that it leaves out."""
    torch.manual_seed(0)
    weight, parts = torch.randn(24, 16), (parts_of(24, ()), parts_of(16, ()))
    full = bonds(*parts, None)
    cut = [*full[:2], full[2] // 2, *full[3:]]
    found = multiplied_out(decomposed(weight, *parts, cut))
    order = [place for k in range(5) for place in (k, 5 + k)]
    interleaved = weight.double().reshape(*parts[0], *parts[1]).permute(order)
    unfolded = interleaved.reshape(prod(parts[0][:2]) * prod(parts[1][:2]), -1)
    left_out = torch.linalg.svdvals(unfolded)[cut[2] :].square().sum().sqrt()
    torch.testing.assert_close((found - weight).norm(), left_out)


@pytest.mark.parametrize("adapter", [0, 3])
def test_a_map_is_its_dense_matrix(adapter):
    layer = a_product(16, 24, adapter=adapter).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(2, 5, 16, dtype=torch.float64, requires_grad=True)
    dense = x @ layer.dense_weight().T
    torch.testing.assert_close(layer(x), dense)
    taken, seed = [x, *layer.parameters()], torch.randn_like(dense)
    ours = torch.autograd.grad(layer(x), taken, seed, retain_graph=True)
    for one, other in zip(ours, torch.autograd.grad(dense, taken, seed), strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_the_matrix_is_made_once_until_a_tensor_changes():
    layer, x = a_product(16, 24).eval(), torch.randn(3, 16)
    layer.initialise(1.0)
    first = layer(x)
    kept = layer._whole()
    assert layer._whole() is kept
    layer.before[0].mul_(2)
    torch.testing.assert_close(layer(x), 2 * first)
    layer.central_aijd.data = layer.central_aijd.data.clone().mul_(2)
    torch.testing.assert_close(layer(x), 4 * first)
    assert layer.train()._whole() is not layer._whole()
    with torch.enable_grad():
        assert layer.eval()(x).requires_grad


def test_a_new_adapter_adds_nothing():
    layer = a_product(16, 24, adapter=3)
    layer.initialise(0.1)
    torch.testing.assert_close(layer.dense_weight(), layer.product_weight())


def test_it_starts_like_a_dense_map():
    layer = a_product(256, 512)
    layer.initialise(0.25)
    weight = layer.dense_weight()
    assert weight.std().item() == pytest.approx(0.25, rel=0.03)
    assert weight.mean().item() == pytest.approx(0, abs=0.005)
    values = torch.linalg.svdvals(weight)
    random = torch.linalg.svdvals(torch.randn(512, 256) * 0.25)
    torch.testing.assert_close(values[[0, 128, -1]], random[[0, 128, -1]], rtol=0.1, atol=0)


@pytest.mark.parametrize("bond", [16, 32])
def test_cut_bonds_start_as_large(bond):
    layer = a_product(256, 512, bond=bond)
    layer.initialise(0.25)
    assert layer.dense_weight().std().item() == pytest.approx(0.25, rel=0.1)


def test_a_deep_stack_starts_smaller():
    how = {"kind": "matrix_product", "depth_scaled": True}
    shallow = {"kind": "matrix_product"}
    scaled, plain = (
        build(small_config("f8", {"maps": {"feed_forward": maps}}), seed=0).blocks[0].inner.dense_weight()
        for maps in (how, shallow)
    )
    torch.testing.assert_close(scaled, plain * 16**-0.25)


def test_copies_in_braces_share_their_central_tensors():
    pairs = dict(enumerate(expand("q {fa}3 [f]2 {q}2").centrals))
    assert pairs == {0: None, 1: 1, 2: 2, 3: 1, 4: 2, 5: 1, 6: 2, 7: None, 8: 8, 9: 8}
    nested = dict(enumerate(expand("{f{a}2}2").centrals))
    assert nested == {0: 0, 1: 1, 2: 1, 3: 0, 4: 1, 5: 1}
    model = small_model("q{fa}3")
    assert isinstance(model.blocks[0].gates, torch.nn.Linear)
    inner = [model.blocks[block].inner for block in (1, 3, 5)]
    assert len({part.central_aijd.data_ptr() for part in inner}) == 1
    assert len({part.before[0].data_ptr() for part in inner}) == 3
    assert len({model.blocks[block].norm.weight.data_ptr() for block in (1, 3, 5)}) == 3


@pytest.mark.parametrize("name", ["{qfaf}2", "qf{af}3", "[{qf}2]2", "({f}2)2"])
def test_shared_storage_is_counted_once(name):
    config = sized(name, parameters=200_000, vocab_size=512)
    model = build(config)
    storages = {parameter.data_ptr(): parameter.numel() for parameter in model.parameters()}
    assert sum(storages.values()) == model.parameter_count == count_parameters(config) == describe(config).parameters
    assert abs(model.parameter_count / 200_000 - 1) <= 0.01
    rows = describe(config).blocks
    assert sum(row.parameters for row in rows) + config.hidden_size == describe(config).body_parameters


def test_one_step_keeps_centrals_one():
    model = small_model("{qf}2").train()
    optimizers = make_optimizers(model, TrainingConfig(optimizer={"learning_rate": 1e-2}))
    taken = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    assert len({id(p) for p in taken}) == len(taken) == len(list(model.parameters()))
    tokens = torch.randint(0, 11, (2, 8))
    loss, _ = model.loss(tokens, tokens)
    loss.backward()
    first, second = model.blocks[0].gates, model.blocks[2].gates
    assert first.central_aijd.grad is second.central_aijd.grad
    for optimizer in optimizers:
        optimizer.step()
    assert torch.equal(first.central_aijd, second.central_aijd)


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["{qf}2a", "[{qf}2]2"])
def test_merged_it_says_the_same(pattern):
    model = small_model(pattern)
    merged, tokens = merge_maps(model), torch.randint(0, 11, (2, 9))
    whole = model(tokens)[0]
    torch.testing.assert_close(merged(tokens)[0], whole, rtol=1e-5, atol=1e-5 * whole.abs().max().item())
    assert "{" not in merged.config.pattern


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_a_dense_model_becomes_products_exactly(bias):
    model = small_model("qfaxf", {"bias": bias})
    products, errors = tensorise_maps(model, MapConfig(adapter=2))
    assert len(errors) == 2 + 2 + 4 + 5 + 2
    assert max(errors.values()) < 1e-6
    tokens = torch.randint(0, 11, (2, 9))
    whole = model(tokens)[0]
    torch.testing.assert_close(products(tokens)[0], whole, rtol=1e-5, atol=1e-5 * whole.abs().max().item())
    fewer, errors = tensorise_maps(model, MapConfig(bond=4))
    assert fewer.parameter_count < products.parameter_count
    assert 0.01 < max(errors.values()) < 1
    with pytest.raises(UserError, match="run weft merge first"):
        tensorise_maps(products, MapConfig())


def test_a_folder_holds_shared_tensors_once(tmp_path):
    model, tokenizer = small_model("{qf}2", vocab_size=262), train_tokenizer("bpe", [b"text of words " * 20], 262)
    save_model(model, tokenizer, tmp_path / "run")
    loaded, tokens = load_model(tmp_path / "run"), torch.randint(0, 250, (2, 9))
    assert torch.equal(loaded(tokens)[0], model(tokens)[0])
    assert loaded.parameter_count == model.parameter_count
    assert loaded.blocks[0].gates.central_aijd is loaded.blocks[2].gates.central_aijd


def test_factors_that_are_none_are_told():
    with pytest.raises(UserError, match="factors are five numbers"):
        small_config("f", {"maps": {"feed_forward": {"kind": "matrix_product", "factors": [[4, 4]]}}})
