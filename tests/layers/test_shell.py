"""A block's shell in fused passes against plain torch: norm, token shift and cast; block gate and residual."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import small_model
from weft.layers import shell
from weft.layers.norms import RMSNorm
from weft.layers.token_shift import TokenShift
from weft.ops import cpu

LEAST = cpu.LEAST_WIDTH
SHAPES = [(1, 1, LEAST), (3, 7, LEAST + 1), (2, 40, 72), (5, 33, 160)]


def parts(shape, dtype=torch.float32):
    """Return what goes through a shell: stream, last norm before, resets, and the parameters, all random."""
    batch, time, width = shape
    norm = RMSNorm(width).to(dtype)
    shift = TokenShift(width).to(dtype)
    with torch.no_grad():
        norm.weight.normal_()
        shift.share.uniform_()
    x = torch.randn(shape, dtype=dtype, requires_grad=True)
    before = torch.randn(batch, width, dtype=dtype, requires_grad=True)
    reset = torch.rand(batch, time) < 0.3
    return x, before, reset, norm, shift


def through(x, before, reset, norm, shift, weight, gain, *, fused):
    """Return a block whose mixer is a product with what it reads: its output, the last norm, and all gradients."""
    if fused:
        assert shell.can_enter(x, norm, shift)
        stream, h, last = shell.enter(x, norm, shift, before, reset)
    else:
        stream = x
        h = norm(x)
        if shift is not None:
            h, last = shift(h, before, reset)
    mixed = h * h
    if fused:
        assert shell.can_leave(stream, mixed, h, weight, gain)
        y = shell.leave(stream, mixed, h, weight, gain)
    else:
        gate = F.linear(h, weight[None] * h.shape[-1] ** -0.5).sigmoid().to(x.dtype)
        y = torch.addcmul(x, mixed.to(x.dtype), 2 * gain * gate)
    draw = torch.Generator().manual_seed(5)
    loss = (y * torch.randn(y.shape, generator=draw).to(y.dtype)).sum()
    wanted = [x, norm.weight, weight, gain]
    values = [y]
    if shift is not None:
        loss = loss + (last.to(x.dtype) * torch.randn(last.shape, generator=draw).to(x.dtype)).sum()
        wanted += [before, shift.share]
        values.append(last)
    return [*values, *torch.autograd.grad(loss, wanted)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shifted", [True, False])
def test_values_and_every_gradient_equal_plain_torch(shape, shifted):
    torch.manual_seed(0)
    x, before, reset, norm, shift = parts(shape)
    weight = torch.randn(shape[-1], requires_grad=True)
    gain = torch.full((1,), 1.3, requires_grad=True)
    mine = through(x, before, reset, norm, shift if shifted else None, weight, gain, fused=True)
    exact = [part.detach().double().requires_grad_() for part in (x, before, weight, gain)]
    norm, shift = norm.double(), shift.double()
    truth = through(*exact[:2], reset, norm, shift if shifted else None, *exact[2:], fused=False)
    for got, expected in zip(mine, truth, strict=True):
        scale = expected.abs().max().clamp(min=1)
        torch.testing.assert_close(got.double() / scale, expected / scale, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_under_autocast_it_is_as_near_as_plain_torch(shape):
    torch.manual_seed(1)
    x, before, reset, norm, shift = parts(shape)
    weight = torch.randn(shape[-1], requires_grad=True)
    gain = torch.full((1,), 0.7, requires_grad=True)
    given = (x, before, reset, norm, shift, weight, gain)
    with torch.autocast("cpu", torch.bfloat16):
        mine = through(*given, fused=True)
        plain = through(*given, fused=False)
    truth = through(*given, fused=False)
    torch.testing.assert_close(mine[1], plain[1], rtol=0, atol=0)  # what the state keeps
    for got, other, expected in zip(mine, plain, truth, strict=True):
        assert got.dtype == other.dtype
        error = (got.float() - expected).norm()
        # sums over all rows may come to little: they are as exact as what is summed
        assert error <= 1.5 * (other.float() - expected).norm() + 1e-2 * x.numel() ** 0.5


@pytest.mark.parametrize("bf16", [False, True])
def test_a_text_in_pieces_is_the_text_as_a_whole(bf16):
    torch.manual_seed(2)
    x, before, reset, norm, shift = parts((2, 50, 40))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.no_grad():
        _, whole, last = shell.enter(x, norm, shift, before, reset)
        pieces = []
        for start, stop in ((0, 1), (1, 18), (18, 50)):
            _, h, before = shell.enter(x[:, start:stop], norm, shift, before, reset[:, start:stop])
            pieces.append(h)
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert torch.equal(before, last)


def test_every_block_of_the_default_model_goes_through_it(monkeypatch):
    counted = {"enter": 0, "leave": 0}
    for name in counted:
        real = getattr(shell, name)

        def counting(*given, real=real, name=name):
            counted[name] += 1
            return real(*given)

        monkeypatch.setattr(f"weft.blocks.base.{name}", counting)
    model = small_model("qfaf", {"hidden_size": LEAST, "block_gates": True, "token_shift": True})
    model(torch.zeros(1, 5, dtype=torch.long))
    assert counted == {"enter": 4, "leave": 4}


def test_what_does_not_fit_together_is_told_and_not_read():
    x, before, reset, norm, shift = parts((4, 6, LEAST))
    assert shell.can_enter(x, norm, shift, before, reset)
    assert not shell.can_enter(x, norm, shift, before[:1], reset)
    assert not shell.can_enter(x, norm, shift, before, reset[:1])
    assert not shell.can_enter(x, norm, shift, before, reset.long())
    model = small_model("f", {"hidden_size": LEAST, "token_shift": True})
    _, state = model(torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(RuntimeError, match="size"):
        model(torch.zeros(4, 5, dtype=torch.long), state)


def test_a_norm_that_somebody_watches_is_called():
    model = small_model("q", {"hidden_size": LEAST})
    seen = []
    model.blocks[0].norm.register_forward_hook(lambda *_: seen.append(1))
    model(torch.zeros(1, 5, dtype=torch.long))
    assert seen


def test_autocast_in_float16_runs_in_plain_torch():
    model = small_model("qfaf", {"hidden_size": LEAST})
    tokens = torch.zeros(2, 5, dtype=torch.long)
    with torch.autocast("cpu", torch.float16), torch.no_grad():
        lower, _ = model(tokens)
    torch.testing.assert_close(lower, model(tokens)[0].detach(), rtol=2e-2, atol=2e-2)
