"""Token shift: each channel of a block's input is partly what it was one position before."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import block_by_hand, block_case, small_config, small_model
from weft.layers.token_shift import START, ShiftedState, TokenShift
from weft.model import build


def shifted_by_hand(x_BTD, share_D, reset_BT=None):
    """Return (1 - m) h_t + m h_{t-1}, one position after the other."""
    rows = []
    for time in range(x_BTD.shape[1]):
        before_BD = x_BTD[:, time - 1] if time else torch.zeros_like(x_BTD[:, 0])
        if reset_BT is not None:
            before_BD = torch.where(reset_BT[:, time, None], 0.0, before_BD)
        rows.append((1 - share_D) * x_BTD[:, time] + share_D * before_BD)
    return torch.stack(rows, dim=1)


@pytest.mark.parametrize("resets", [False, True])
def test_inputs_are_mixed_with_those_before_them(resets):
    generator = torch.Generator().manual_seed(0)
    shift, x_BTD = TokenShift(5), torch.randn(3, 9, 5, generator=generator)
    with torch.no_grad():
        shift.share.copy_(torch.rand(5, generator=generator))
    reset_BT = torch.rand(3, 9, generator=generator) < 0.3 if resets else None
    mixed_BTD, last_BD = shift(x_BTD, None, reset_BT)
    torch.testing.assert_close(mixed_BTD, shifted_by_hand(x_BTD, shift.share, reset_BT))
    assert torch.equal(last_BD, x_BTD[:, -1])


@pytest.mark.parametrize("preset", ["modern", "classic"])
@pytest.mark.parametrize("kind", "afqx")
def test_a_block_mixes_what_it_has_normed_and_remembers_it(kind, preset):
    with torch.no_grad():
        block, x_BTD, h_BTD = block_case(kind, {"token_shift": True, "block_gates": False}, preset)
        y_BTD, state = block(x_BTD)
        mixed_BTD, _ = block.mix(shifted_by_hand(h_BTD, block.token_shift.share), None, None)
        expected = block_by_hand(block, x_BTD, mixed_BTD)
    torch.testing.assert_close(y_BTD, expected)
    assert isinstance(state, ShiftedState)
    assert torch.equal(state.last_BD, h_BTD[:, -1])


def test_shares_start_alike_and_learn_each_by_itself():
    model = build(small_config("qfa", {"residual_init": "normal"}), seed=0)
    tokens = torch.arange(10)[None] % 11
    model.loss(tokens, tokens)[0].backward()
    for block in model.blocks:
        share = block.token_shift.share
        assert torch.equal(share, torch.full_like(share, START))
        assert share.grad.std() > 0


def test_the_state_counts_the_remembered_input():
    plain, shifted = (small_model("qf", {"token_shift": on}, "modern") for on in (False, True))
    for one, other in zip(plain.blocks, shifted.blocks, strict=True):
        assert other.state_bytes(100) - one.state_bytes(100) == 4 * 16
