"""Attention in fused passes on a CPU in bfloat16: as near to float32 as the plain form, and nothing more is seen."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import small_model
from weft.layers.norms import RMSNorm
from weft.layers.state import detach
from weft.layers.window_attention import AttentionState, can_attend_joined, joined_attention, window_attention
from weft.ops import cpu
from weft.ops.cpu.attention import Norms

WIDTH = 2 * cpu.LEAST_WIDTH
HEADS = 4
GROUPS = 2


def attended(dtype, *, fused, length, remembered, resets, window, rotary=True, normed=True):
    """Return attention's output and state, and the gradients of a function of both."""
    draw = torch.Generator().manual_seed(0)
    joined = torch.randn(3, length, (HEADS + 2 * GROUPS) * WIDTH, generator=draw).to(dtype).requires_grad_()
    norms = [RMSNorm(WIDTH), RMSNorm(WIDTH)]
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5, generator=draw)
    state = None
    if remembered:
        keys = torch.randn(3, remembered, GROUPS, WIDTH, generator=draw).to(dtype)
        values = torch.randn(3, remembered, GROUPS, WIDTH, generator=draw).to(dtype)
        known = torch.tensor([0, remembered // 2, remembered])[:, None]
        state = AttentionState(keys, values, torch.arange(remembered)[None] >= known)
    reset = torch.rand(3, length, generator=draw) < 0.1 if resets else None
    wanted = [joined]
    if normed:
        wanted += [norm.weight for norm in norms]
    if fused:
        assert can_attend_joined(joined, state, WIDTH, window)
        weights = [norm.weight if normed else None for norm in norms]
        how = {"heads": HEADS, "groups": GROUPS, "window": window, "rotary": rotary}
        y, after = joined_attention(joined, state, reset, Norms(*weights, norms[0].eps), **how)
    else:
        rows = [HEADS * WIDTH, GROUPS * WIDTH, GROUPS * WIDTH]
        heads = [part.unflatten(-1, (-1, WIDTH)) for part in joined.split(rows, -1)]
        if normed:
            heads[:2] = [norm(head).to(dtype) for norm, head in zip(norms, heads[:2], strict=True)]
        y, after = window_attention(*heads, state, reset, window=window, rotary=rotary)
        y = y.flatten(2)
    # what is remembered takes part in the loss, as where a gradient goes from piece to piece
    loss = 0
    for part in (y, after.keys_BMGK, after.values_BMGK):
        loss = loss + (part.float() * torch.randn(part.shape, generator=draw)).sum()
    return [y, *torch.autograd.grad(loss, wanted)], after


CASES = {
    "memory and resets": {"length": 128, "remembered": 48, "resets": True, "window": 48},
    "two blocks": {"length": 160, "remembered": 48, "resets": True, "window": 48},
    "a short window": {"length": 128, "remembered": 16, "resets": True, "window": 16},
    "a long window": {"length": 64, "remembered": 16, "resets": False, "window": 256},
    "the start of a text": {"length": 96, "remembered": 0, "resets": False, "window": 32},
    "without positions": {"length": 96, "remembered": 32, "resets": True, "window": 32, "rotary": False},
    "without norms": {"length": 96, "remembered": 32, "resets": True, "window": 32, "normed": False},
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_as_near_to_float32_as_the_plain_form(name):
    mine, after = attended(torch.bfloat16, fused=True, **CASES[name])
    plain, plain_after = attended(torch.bfloat16, fused=False, **CASES[name])
    truth, _ = attended(torch.float32, fused=False, **CASES[name])
    for got, other, expected in zip(mine, plain, truth, strict=True):
        error = (got.float() - expected).norm()
        assert error <= 1.3 * (other.float() - expected).norm()
    for got, expected in zip(after, plain_after, strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("window", [32, 256])
def test_other_documents_and_later_keys_are_not_seen(window):
    torch.manual_seed(0)
    joined = torch.randn(1, 64, (HEADS + 2 * GROUPS) * WIDTH).bfloat16()
    reset = torch.zeros(1, 64, dtype=torch.bool)
    reset[0, 40] = True
    how = {"heads": HEADS, "groups": GROUPS, "window": window, "rotary": True}

    def run(x):
        return joined_attention(x, None, reset, Norms(None, None, 0.0), **how)[0][0]

    before = run(joined)
    for place in (0, 20, 39, 40, 63):
        changed = joined.clone()
        changed[0, place] += 1
        moved = (run(changed) != before).any(-1).nonzero().flatten().tolist()
        end = min(40 if place < 40 else 64, place + window + 1)
        assert moved == list(range(place, end))


def test_what_the_kernels_do_not_take_is_left_to_torch():
    def taken(dtype=torch.bfloat16, length=128, head_dim=WIDTH, remembered=0, grad=False):
        x = torch.zeros(1, length, 64, dtype=dtype)
        keys = torch.zeros(1, remembered, 1, head_dim, dtype=dtype, requires_grad=grad)
        state = AttentionState(keys, keys, torch.ones(1, remembered, dtype=torch.bool))
        return can_attend_joined(x, state, head_dim, 256)

    assert taken()
    assert not taken(dtype=torch.float32)
    assert not taken(length=121)
    assert not taken(head_dim=WIDTH + 2)
    assert not taken(remembered=16, grad=True)


def test_a_training_step_in_bfloat16_goes_through_it(monkeypatch):
    calls = []
    real = joined_attention
    monkeypatch.setattr("weft.blocks.attention.joined_attention", lambda *a, **k: calls.append(1) or real(*a, **k))
    settings = {"hidden_size": WIDTH, "attention": {"num_heads": 1, "head_dim": WIDTH, "window": 32}}
    model = small_model("af", settings)
    tokens = torch.zeros(2, 32, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        _, state = model(tokens)
        model(tokens, detach(state))
    assert len(calls) == 2
    model(tokens)
    assert len(calls) == 2
