"""A block's gate and gain: what a block adds is multiplied, position by position."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import block_by_hand, block_case, small_config
from weft.model import build
from weft.training.optimizer import make_optimizers
from weft.training.recipe import TrainingConfig


@pytest.mark.parametrize("preset", ["modern", "classic"])
@pytest.mark.parametrize("kind", "afqx")
def test_what_a_block_adds_is_multiplied_by_its_gain_and_gate(kind, preset):
    with torch.no_grad():
        block, x_BTD, h_BTD = block_case(kind, {"block_gates": True, "token_shift": False}, preset)
        y_BTD, _ = block(x_BTD)
        share_BT = 2 * block.block_gain * torch.sigmoid((h_BTD * block.block_gate).sum(-1) / 4)
        expected = block_by_hand(block, x_BTD, share_BT[..., None] * block.mix(h_BTD, None, None)[0])
    assert share_BT.std() > 0.01
    torch.testing.assert_close(y_BTD, expected)


def test_at_the_start_a_gated_model_is_the_one_without_gates():
    gated, plain = (build(small_config("qfaf", {"block_gates": g, "residual_init": "normal"}), seed=0) for g in (1, 0))
    tokens = torch.arange(10)[None] % 11
    torch.testing.assert_close(gated(tokens)[0], plain(tokens)[0])
    assert gated.parameter_count - plain.parameter_count == 4 * 17


@pytest.mark.parametrize("optimizer", ["normuon", "adamw"])
def test_gates_and_gains_learn_and_are_not_decayed(optimizer):
    model = build(small_config("qf", {"residual_init": "normal"}), seed=0)
    tokens = torch.arange(10)[None] % 11
    model.loss(tokens, tokens)[0].backward()
    for block in model.blocks:
        assert block.block_gate.grad.abs().max() > 0
        assert block.block_gain.grad.abs().max() > 0
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for each in make_optimizers(
        model, TrainingConfig(optimizer={"name": optimizer, "learning_rate": 0.5, "weight_decay": 0.5})
    ):
        each.step()  # which decays, and does nothing else
    for name, parameter in model.named_parameters():
        kept = torch.equal(parameter, before[name])
        assert kept == name.endswith(("block_gate", "block_gain", "norm.weight", "token_shift.share", "bias")), name
