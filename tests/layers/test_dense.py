"""Dense maps under autocast on a CPU: products by copies of the weights, and who may keep such copies."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.nn import functional as F

from weft.layers import copies, dense
from weft.layers.dense import Dense
from weft.training.fused import FusedAdamW, keep_bf16


class Owner:
    """Somebody who promises to renew copies."""


def both(x, layer):
    """Return value and gradients of the map and of ``nn.Linear`` under autocast."""
    results = []
    for how in (layer, lambda x: F.linear(x, layer.weight, layer.bias)):
        x = x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = how(x)
        gradients = torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])
        results.append([y, *gradients])
    return results


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_autocasts_linear_map_in_value_and_every_gradient(shape, dtype, bias):
    mine, torchs = both(torch.randn(shape).to(dtype), Dense(24, 40, bias=bias))
    for got, expected in zip(mine, torchs, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


def test_without_autocast_it_is_nn_linear():
    layer = Dense(24, 40, bias=False)
    x = torch.randn(3, 24)
    assert torch.equal(layer(x), F.linear(x, layer.weight))
    assert layer(x.double().to(torch.float32)).dtype == torch.float32


def test_without_an_owner_nothing_is_kept():
    weight = torch.nn.Parameter(torch.randn(4, 4))
    first = copies.bf16_copy(weight)
    weight.data.add_(1)  # leaves no trace
    assert torch.equal(copies.bf16_copy(weight), weight.detach().bfloat16())
    assert not torch.equal(first, copies.bf16_copy(weight))
    assert copies.copy_to_renew(weight) is None


def test_a_kept_copy_follows_every_change_that_counts():
    owner = Owner()
    weight = torch.nn.Parameter(torch.randn(4, 4))
    copies.keep_copies([weight], owner)
    copy = copies.bf16_copy(weight)
    assert copies.bf16_copy(weight) is copy
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(copies.bf16_copy(weight), weight.detach().bfloat16())


def test_a_renewed_copy_is_taken_as_it_is():
    owner = Owner()
    weight = torch.nn.Parameter(torch.randn(4, 4))
    copies.keep_copies([weight], owner)
    copies.bf16_copy(weight)
    with torch.no_grad():
        weight.zero_()
    copies.copy_to_renew(weight).fill_(7)
    copies.renewed(weight)
    assert torch.equal(copies.bf16_copy(weight), torch.full((4, 4), 7.0, dtype=torch.bfloat16))


def test_copies_end_with_their_owner():
    owner = Owner()
    weight = torch.nn.Parameter(torch.randn(4, 4))
    copies.keep_copies([weight], owner)
    copies.bf16_copy(weight)
    del owner
    gc.collect()
    weight.data.add_(1)
    assert torch.equal(copies.bf16_copy(weight), weight.detach().bfloat16())
    assert weight not in copies._kept


def test_copies_end_with_their_weight():
    owner = Owner()
    weight = torch.nn.Parameter(torch.randn(4, 4))
    copies.keep_copies([weight], owner)
    copies.bf16_copy(weight)
    before = len(copies._kept)
    del weight
    gc.collect()
    assert len(copies._kept) == before - 1


def test_a_frozen_weight_and_an_input_without_gradient_cost_nothing(monkeypatch):
    layer = Dense(8, 8, bias=False).requires_grad_(requires_grad=False)
    x = torch.randn(2, 8, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).requires_grad
        layer(x).float().sum().backward()
        assert x.grad is not None
        assert layer.weight.grad is None
        assert not dense.product(torch.randn(2, 8), layer.weight).requires_grad


def test_maps_side_by_side_are_the_maps():
    maps = [Dense(24, 40, bias=False), Dense(24, 8, bias=False), Dense(24, 16, bias=False)]
    owner = Owner()
    copies.keep_copies([part.weight for part in maps], owner)
    weights = [part.weight for part in maps]
    for _ in range(2):
        results = []
        for together in (True, False):
            x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
            with torch.autocast("cpu", torch.bfloat16):
                ys = dense.side_by_side(x, maps) if together else [F.linear(x, weight) for weight in weights]
            loss = sum(y.float().square().sum() for y in ys)
            results.append([*ys, *torch.autograd.grad(loss, [x, *weights])])
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)
        # and after a change of one of them, each alone still being a part of what is kept
        with torch.no_grad():
            maps[1].weight.mul_(3)
        assert torch.equal(copies.bf16_copy(maps[1].weight), maps[1].weight.detach().bfloat16())
        assert copies.copy_to_renew(maps[0].weight)._base is copies.copy_to_renew(maps[2].weight)._base


def test_a_map_with_a_hook_is_called():
    maps = [Dense(8, 8, bias=False), Dense(8, 8, bias=False)]
    seen = []
    maps[1].register_forward_hook(lambda *_: seen.append(1))
    with torch.autocast("cpu", torch.bfloat16):
        dense.side_by_side(torch.randn(2, 8), maps)
    assert seen


def test_one_map_beside_itself():
    layer = Dense(24, 8, bias=False)
    owner = Owner()
    copies.keep_copies([layer.weight], owner)
    x = torch.randn(3, 24)
    with torch.autocast("cpu", torch.bfloat16):
        first, second = dense.side_by_side(x, [layer, layer])
    assert torch.equal(first, second)
    torch.testing.assert_close(first.float(), layer(x).detach(), rtol=2e-2, atol=2e-2)


def test_what_inference_has_copied_is_trained_with():
    layer = Dense(24, 8, bias=False)
    owner = Owner()
    copies.keep_copies([layer.weight], owner)
    x = torch.randn(3, 24)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.inference_mode():
            layer(x)
        layer(x).float().sum().backward()
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.equal(copies.bf16_copy(layer.weight), layer.weight.detach().bfloat16())


def test_a_step_between_forward_and_backward_is_noticed():
    layer = Dense(32, 32, bias=False)
    optimizer = FusedAdamW([layer.weight], lr=0.1)
    keep_bf16(optimizer)
    x = torch.randn(4, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
        y = layer(x).float().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()
