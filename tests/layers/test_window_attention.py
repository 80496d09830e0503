"""The CPU's own attention in bfloat16 is torch's."""

from __future__ import annotations

import pytest
import torch

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
