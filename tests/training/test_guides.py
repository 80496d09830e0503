"""Self-guided training: the first step changes nothing, the guide fades and is freed."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import MAPS, small_model
from tests.training.test_run import last_weights
from weft.config import merge
from weft.errors import UserError
from weft.layers.maps import is_guide
from weft.model import build
from weft.training.methods.guides import Guides, GuidesConfig, guide_share
from weft.training.optimizer import make_optimizers
from weft.training.parallel import Processes
from weft.training.recipe import TrainingConfig
from weft.training.run import train

GUIDES = {"guides": {"until": 0.5}}


def guided(until: float = 0.5, *, skip: bool = False):
    model = small_model("fqafx", {"maps": MAPS})
    guides = Guides(model, GuidesConfig(until=until, skip=skip))
    guides.prepare()
    optimizers = make_optimizers(model, TrainingConfig())
    guides.begin(optimizers)
    return model, guides, optimizers


def logits(model):
    return model(torch.arange(8)[None])[0]


def test_the_first_step_changes_nothing():
    plain = small_model("fqafx", {"maps": MAPS})
    model, guides, _ = guided()
    assert len(guides.maps) == 2 + 2 + 4 + 2 + 3  # q, f, a and x; the first feed-forward is dense
    guides.before_step(0.0)
    model.train()
    torch.testing.assert_close(logits(model), logits(plain))


def test_the_output_is_the_mixture_of_the_equation():
    model, guides, _ = guided()
    guides.before_step(0.2)
    layer = model.blocks[1].gates.train()
    with torch.no_grad():
        layer.guide_MN.normal_()
    x, share = torch.randn(3, layer.in_features), guide_share(0.2, 0.5)
    mixed = share * F.linear(x, layer.guide_MN) + (1 - share) * layer.product(x)
    torch.testing.assert_close(layer(x), mixed)
    torch.testing.assert_close(layer.eval()(x), layer.product(x))  # the guide is no part of the model


def test_the_share_falls_from_one_to_nothing():
    shares = [guide_share(done, 0.5) for done in (0.0, 0.125, 0.25, 0.375, 0.5, 0.75)]
    assert shares == pytest.approx([1, 0.8536, 0.5, 0.1464, 0, 0], abs=1e-4)


def test_guides_learn_are_not_counted_and_are_freed():
    model, guides, optimizers = guided()
    before = small_model("fqafx", {"maps": MAPS}).parameter_count
    assert model.parameter_count == before
    muon = optimizers[0]
    taken = {id(parameter) for group in muon.param_groups for parameter in group["params"]}
    names = [name for name, parameter in model.named_parameters() if is_guide(name) and id(parameter) in taken]
    assert len(names) == len(guides.maps)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    guides.before_step(0.5)
    assert not [name for name, _ in model.named_parameters() if is_guide(name)]
    kept = {id(parameter) for parameter in model.parameters()}
    assert all(id(p) in kept for o in optimizers for group in o.param_groups for p in group["params"])
    assert all(id(parameter) in kept for optimizer in optimizers for parameter in optimizer.state)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimizer in optimizers:
        optimizer.step()


def test_the_cheaper_form_has_the_guide_as_often_as_its_share():
    _, guides, _ = guided(skip=True)
    torch.manual_seed(0)
    had = []
    for _ in range(400):
        guides.before_step(0.25)  # a share of one half
        had.append(guides.maps[0].guided)
    assert 0.4 < sum(had) / len(had) < 0.6


def test_a_run_keeps_nothing_of_its_guides(tiny, tmp_path):
    values = tiny(model={"pattern": "fqaf", "maps": MAPS}, training={"methods": GUIDES, "logging": {"samples": 0}})
    train(values, tmp_path / "run")
    assert not any("guide" in name for name in last_weights(tmp_path / "run"))


def test_a_guide_changes_the_training(tiny, tmp_path):
    values = tiny(model={"pattern": "fqaf", "maps": MAPS}, training={"logging": {"samples": 0}})
    train(values, tmp_path / "plain")
    train(merge(values, {"training": {"methods": GUIDES}}), tmp_path / "guided")
    plain, with_guide = (last_weights(tmp_path / name) for name in ("plain", "guided"))
    assert any(not torch.equal(plain[name], with_guide[name]) for name in plain)


def test_an_optimizer_of_guides_alone_goes_with_them():
    model = small_model("{qf}2")
    guides = Guides(model, GuidesConfig())
    guides.prepare()
    config = TrainingConfig(optimizer={"muon_takes": ("matrices",)})  # of which there are none but the guides
    optimizers = make_optimizers(model, config)
    assert len(optimizers) == 2
    guides.begin(optimizers)
    guides.before_step(0.5)
    assert len(optimizers) == len(make_optimizers(model, config)) == 1


def test_what_cannot_be_guided_is_told():
    with pytest.raises(UserError, match="but there are none"):
        GuidesConfig().build(build(small_model("qf").config), Processes())
    together = Processes()
    together.count = 2
    with pytest.raises(UserError, match="one process"):
        GuidesConfig().build(small_model("ff", {"maps": MAPS}), together)
