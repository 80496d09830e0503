"""The QRNN's pooling follows its equations; initial forget gates remember for as long as they say."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import small_config
from weft.layers.pooling import GATES, init_forget_bias_, pool
from weft.model import build


@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
def test_pooling_by_hand(pooling):
    gates = torch.randn(2, 6, GATES[pooling] * 3, dtype=torch.float64)
    z, f, *rest = gates.chunk(GATES[pooling], dim=-1)
    cell, expected = torch.zeros(2, 3, dtype=torch.float64), []
    for t in range(6):
        forget = torch.sigmoid(f[:, t])
        update = torch.sigmoid(rest[1][:, t]) if pooling == "ifo" else 1 - forget
        cell = forget * cell + update * torch.tanh(z[:, t])
        expected.append(cell if pooling == "f" else torch.sigmoid(rest[0][:, t]) * cell)
    hidden, last = pool(gates, None, None, None, pooling, 0.0, False)
    torch.testing.assert_close(hidden, torch.stack(expected, 1))
    torch.testing.assert_close(last, cell)


def test_zoneout_keeps_old_values_in_training_and_scales_updates_otherwise():
    gates = torch.randn(1, 2000, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    cells, _ = pool(gates, None, None, None, "f", 0.5, True)
    kept = (cells[:, 1:] == cells[:, :-1]).float().mean().item()
    assert abs(kept - 0.5) < 0.05
    z, f = gates.chunk(2, dim=-1)
    update = 0.5 * (1 - f.sigmoid())
    cell = torch.zeros(1, 3)
    for t in range(5):
        cell = (1 - update[:, t]) * cell + update[:, t] * z[:, t].tanh()
    torch.testing.assert_close(pool(gates, None, None, None, "f", 0.5, False)[0][:, 4], cell)


@pytest.mark.parametrize("pooling", ["fo", "ifo"])
def test_forget_biases_spread_from_one_step_to_the_longest(pooling):
    bias = torch.empty(GATES[pooling] * 64)
    init_forget_bias_(bias, pooling, 256.0)
    parts = bias.chunk(GATES[pooling])
    tau = -1 / parts[1].double().sigmoid().log()
    assert tau.min().item() == pytest.approx(1, rel=1e-3)
    assert tau.max().item() == pytest.approx(256, rel=1e-2)
    assert (parts[0] == 0).all()
    if pooling == "ifo":
        torch.testing.assert_close(parts[3].sigmoid(), 1 - parts[1].sigmoid())


@pytest.mark.parametrize("kind", "qx")
@pytest.mark.parametrize("pooling", ["f", "fo", "ifo"])
def test_the_forget_gates_of_a_new_model_rest_at_one_half(pooling, kind):
    gates = build(small_config(kind, {"qrnn": {"pooling": pooling}}), seed=0).blocks[0].gates
    assert (gates.bias.chunk(GATES[pooling])[1].sigmoid() == 0.5).all()
