"""Which parameters each optimizer takes, how large their updates are, and the running average."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from tests.conftest import small_model
from weft.training.methods.average import Average, AverageConfig
from weft.training.muon import Muon
from weft.training.optimizer import make_optimizers, set_learning_rate
from weft.training.recipe import TrainingConfig

CASES = [("qfaf", "modern"), ("afqx", "classic"), ("[qf]2", "modern"), ("x2", "modern")]


def names_of(model, optimizer) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize(("pattern", "preset"), CASES)
def test_muon_takes_the_linear_maps_in_blocks_and_adamw_the_rest(pattern, preset):
    model = small_model(pattern, {"tie_embeddings": False}, preset)
    muon, adamw = make_optimizers(model, TrainingConfig())
    assert isinstance(muon, Muon)
    assert isinstance(adamw, AdamW)
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert linear
    assert all(name.startswith("blocks.") for name in linear)
    assert sorted(names_of(model, muon)) == sorted(linear)  # lists: each once
    everything = {name for name, _ in model.named_parameters()}
    assert sorted(names_of(model, adamw)) == sorted(everything - linear)
    assert {"embedding.weight_VD", "embedding.head_VD"} <= set(names_of(model, adamw))


@pytest.mark.parametrize(
    ("kinds", "dimensions"), [(("matrices", "blocks"), {2, 3}), (("matrices",), {2}), (("tensors",), {4})]
)
def test_muon_takes_of_structured_maps_what_it_is_told(kinds, dimensions):
    maps = {"feed_forward": {"kind": "block_dense", "rank": 8, "dense_first": 0}, "qrnn": {"kind": "matrix_product"}}
    model = small_model("qf", {"maps": maps})
    muon, adamw = make_optimizers(model, TrainingConfig(optimizer={"muon_takes": kinds}))
    taken = [parameter for group in muon.param_groups for parameter in group["params"]]
    assert {parameter.dim() for parameter in taken} == dimensions
    rest = [parameter for group in adamw.param_groups for parameter in group["params"]]
    assert len(taken) + len(rest) == len(list(model.parameters()))


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_vectors_and_scalars_do_not_decay(optimizer):
    model = small_model("afqx", preset="classic")
    optimizers = make_optimizers(model, TrainingConfig(optimizer={"name": optimizer, "weight_decay": 0.3}))
    assert len(optimizers) == (2 if optimizer == "muon" else 1)
    decay = {id(p): group["weight_decay"] for o in optimizers for group in o.param_groups for p in group["params"]}
    assert len(decay) == sum(len(g["params"]) for o in optimizers for g in o.param_groups)
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.3 if parameter.dim() >= 2 else 0.0), name


def test_the_configuration_reaches_the_optimizers():
    config = TrainingConfig(optimizer={"betas": (0.7, 0.8), "momentum": 0.6, "learning_rate": 0.5})
    muon, adamw = make_optimizers(small_model("qf"), config)
    assert all(group["betas"] == (0.7, 0.8) and group["lr"] == 0.5 for group in adamw.param_groups)
    assert all(group["momentum"] == 0.6 and group["lr"] == 0.5 for group in muon.param_groups)
    set_learning_rate([muon, adamw], 0.125)
    assert {group["lr"] for optimizer in (muon, adamw) for group in optimizer.param_groups} == {0.125}


def update_sizes(optimizer_name: str, steps: int = 60) -> dict[str, float]:
    """The root mean square of the last update of each matrix in blocks, per unit of learning rate."""
    model, generator = small_model("qfaf", {"hidden_size": 32}), torch.Generator().manual_seed(0)
    rate = 1e-3
    config = TrainingConfig(optimizer={"name": optimizer_name, "weight_decay": 0.0, "learning_rate": rate})
    optimizers = make_optimizers(model, config)
    matrices = {name: p for name, p in model.blocks.named_parameters() if p.dim() == 2}
    for _ in range(steps):
        before = {name: p.detach().clone() for name, p in matrices.items()}
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()
    return {name: float((p.detach() - before[name]).square().mean().sqrt()) / rate for name, p in matrices.items()}


def test_one_learning_rate_means_the_same_for_both_optimizers():
    muon, adamw = update_sizes("muon"), update_sizes("adamw")
    assert muon.keys() == adamw.keys()
    for name, size in muon.items():
        assert 0.5 < size / adamw[name] < 2.0, name


def test_the_average_by_hand():
    model = nn.Linear(1, 1, bias=False)

    def set_weight(value: float) -> None:
        with torch.no_grad():
            model.weight.fill_(value)

    set_weight(8.0)
    average = Average(model, AverageConfig(decay=0.16))
    average.begin([])
    set_weight(2.0)
    average.after_step()  # the decay of the first update is 1/11, of the second 2/12, and so 0.16 from there on
    first = 8 / 11 + 2 * 10 / 11
    assert average.average["weight"].item() == pytest.approx(first, rel=1e-6)
    set_weight(-4.0)
    average.after_step()
    second = 0.16 * first - 0.84 * 4
    assert average.average["weight"].item() == pytest.approx(second, rel=1e-5)
    with average.validating():
        assert model.weight.item() == pytest.approx(second, rel=1e-5)
        assert average.average["weight"].item() == -4.0
    assert model.weight.item() == -4.0


def test_the_average_does_not_share_storage_with_the_model():
    model = nn.Linear(2, 2)
    average = Average(model, AverageConfig(decay=0.9))
    average.begin([])
    before = {name: tensor.clone() for name, tensor in average.average.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in average.average.items())
