"""The parts of window attention: what a query sees, and attending on a CPU."""

from __future__ import annotations

import pytest
import torch

from weft.layers import window_attention as attention
from weft.layers.window_attention import _attend


@pytest.mark.parametrize("additive", [False, True])
def test_bfloat16_attention_equals_torch_in_float32(additive):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 8, generator=generator) for n in (5, 9, 9))
    mask = torch.rand(2, 1, 5, 9, generator=generator) < 0.5
    mask[..., 0] = True
    if additive:
        mask = torch.randn(2, 3, 5, 9, generator=generator).masked_fill(~mask, float("-inf"))
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        inputs = [x.bfloat16().to(dtype).requires_grad_() for x in (query, key, value)]
        attended = _attend(*inputs, mask if mask.dtype == torch.bool else mask.to(dtype), 0.0)
        gradients = torch.autograd.grad(attended.float().square().sum(), inputs)
        results.append([attended.float(), *(gradient.float() for gradient in gradients)])
    for ours, truth in zip(*results, strict=True):
        assert (ours - truth).norm() / truth.norm() < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["none", "boolean", "additive"])
@pytest.mark.parametrize("queries", [1, 5])
def test_heads_that_share_keys_equal_repeated_keys(dtype, kind, queries):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, queries, 8, generator=generator).to(dtype)
    key, value = (torch.randn(2, 2, 9, 8, generator=generator).to(dtype) for _ in range(2))
    mask = None
    if kind != "none":
        mask = torch.rand(2, 1, queries, 9, generator=generator) < 0.5
        mask[..., 0] = True
    if kind == "additive":
        assert mask is not None
        mask = torch.randn(2, 6, queries, 9, generator=generator).masked_fill(~mask, float("-inf")).to(dtype)
    repeated = (x.repeat_interleave(3, dim=1) for x in (key, value))
    torch.testing.assert_close(_attend(query, key, value, mask, 0.0), _attend(query, *repeated, mask, 0.0))


def test_rotary_tables_are_made_once_and_serve_training_after_inference(monkeypatch):
    made = []
    fresh = attention.rotary_tables
    monkeypatch.setattr(attention, "rotary_tables", lambda *a: made.append(a[0]) or fresh(*a))
    attention._kept_tables.cache_clear()
    query = torch.randn(1, 5, 2, 8)
    with torch.inference_mode():
        tables = [attention._tables(length, query) for length in (5, 6, 8, 9)]
    assert made == [8, 16]
    for length, ours in zip((5, 6, 8, 9), tables, strict=True):
        for mine, true in zip(ours, fresh(length, 8, query), strict=True):
            assert torch.equal(mine, true)
    keys = torch.randn(1, 5, 2, 8, requires_grad=True)
    attention._turn(query, keys)[1].sum().backward()
    assert keys.grad is not None


def test_a_single_query_asks_for_no_mask_but_that_of_documents():
    like = torch.zeros(1)
    assert attention._mask(7, 8, slice(2, 8), 5, None, like) is None
    numbers = torch.tensor([[-1, -1, -1, -1, 0, 0, 0, 0]])
    assert attention._mask(7, 8, slice(2, 8), 5, numbers, like).tolist() == [[[[False, False, True, True, True, True]]]]
    assert attention._mask(6, 8, slice(1, 8), 5, None, like).tolist() == [
        [[[True] * 6 + [False], [False] + [True] * 6]]
    ]
