"""Attention in fused passes on a CPU in bfloat16: as near to float32 as the plain form, and nothing more is seen."""

from __future__ import annotations

import pytest
import torch

from weft.layers import window_attention as module
from weft.layers.positions import rotary_tables, rotate
from weft.layers.seen_attention import attend_seen, rotated_by_head
from weft.layers.window_attention import AttentionState, window_attention
from weft.ops import cpu

WIDTH = 2 * cpu.LEAST_WIDTH


def attended(monkeypatch, dtype, *, fused, length, remembered, resets, window, heads=4, groups=2):
    """Return attention's output, gradients and state, and in how many blocks it was fused."""
    draw = torch.Generator().manual_seed(0)
    given = []
    for count in (heads, groups, groups):
        given.append(torch.randn(3, length, count, WIDTH, generator=draw).to(dtype).requires_grad_())
    state = None
    if remembered:
        keys = torch.randn(3, remembered, groups, WIDTH, generator=draw).to(dtype)
        values = torch.randn(3, remembered, groups, WIDTH, generator=draw).to(dtype)
        known = torch.tensor([0, remembered // 2, remembered])[:, None]
        state = AttentionState(keys, values, torch.arange(remembered)[None] >= known)
    reset = torch.rand(3, length, generator=draw) < 0.1 if resets else None
    taken = []
    with monkeypatch.context() as patch:
        real = module.can_attend
        patch.setattr(module, "can_attend", lambda *a: fused and real(*a))
        patch.setattr(module, "attend_seen", lambda *a, **k: taken.append(1) or attend_seen(*a, **k))
        if not fused:
            patch.setattr(module, "can_rotate", lambda _: False)
        y, after = window_attention(*given, state, reset, window=window, rotary=True)
    weights = torch.randn(y.shape, generator=draw)
    return [y, *torch.autograd.grad((y.float() * weights).sum(), given)], after, len(taken)


CASES = {
    "memory and resets": {"length": 128, "remembered": 48, "resets": True, "window": 48, "blocks": 1},
    "two blocks": {"length": 160, "remembered": 48, "resets": True, "window": 48, "blocks": 2},
    "a short window": {"length": 128, "remembered": 16, "resets": True, "window": 16, "blocks": 1},
    "a long window": {"length": 64, "remembered": 16, "resets": False, "window": 256, "blocks": 1},
    "the start of a text": {"length": 96, "remembered": 0, "resets": False, "window": 32, "blocks": 1},
    "an odd length": {"length": 61, "remembered": 0, "resets": True, "window": 32, "blocks": 0},
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_as_near_to_float32_as_the_plain_form(monkeypatch, name):
    case = dict(CASES[name])
    blocks = case.pop("blocks")
    mine, after, taken = attended(monkeypatch, torch.bfloat16, fused=True, **case)
    plain, plain_after, _ = attended(monkeypatch, torch.bfloat16, fused=False, **case)
    truth, _, _ = attended(monkeypatch, torch.float32, fused=False, **case)
    assert taken == blocks
    for got, other, expected in zip(mine, plain, truth, strict=True):
        error = (got.float() - expected).norm()
        assert error <= 1.1 * (other.float() - expected).norm()
    for got, expected in zip(after, plain_after, strict=True):
        assert torch.equal(got, expected)


def test_other_documents_and_later_keys_are_not_seen():
    query = torch.zeros(1, 1, 32, WIDTH, dtype=torch.bfloat16)
    key = torch.zeros(1, 1, 64, WIDTH, dtype=torch.bfloat16)
    value = torch.arange(64.0).bfloat16().view(1, 1, 64, 1).expand(1, 1, 64, WIDTH).contiguous()
    documents = torch.zeros(1, 64, dtype=torch.int32)
    documents[0, :30] = -1
    documents[0, 50:] = 1
    y = attend_seen(query, key, value, documents, at=32, window=8)[0, 0, :, 0].float()
    for place in range(32):
        first = max(30 if place < 18 else 50, 32 + place - 8)
        seen = torch.arange(first, 32 + place + 1, dtype=torch.float32)
        torch.testing.assert_close(y[place], seen.mean(), rtol=1e-2, atol=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_by_head_is_rotation(dtype):
    x = torch.randn(2, 5, 3, WIDTH).to(dtype).requires_grad_()
    cos, sin = rotary_tables(5, WIDTH, torch.empty(0))
    mine = rotated_by_head(x, cos, sin, 0.5)
    truth = 0.5 * rotate(x.double(), cos.double(), sin.double()).transpose(1, 2)
    grad = torch.randn(truth.shape, dtype=torch.float64)
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(mine.double(), truth, **tolerance)
    (got,) = torch.autograd.grad(mine, x, grad.to(dtype))
    (expected,) = torch.autograd.grad(truth, x, grad)
    torch.testing.assert_close(got.double(), expected.double(), **tolerance)
