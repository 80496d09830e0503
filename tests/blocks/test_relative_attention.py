"""Transformer-XL's relative attention against the equation of Dai et al. 2019, one pair of positions at a time."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from tests.conftest import small_model
from weft.layers import window_attention


def by_the_equation(block, x_TD):
    """Softmax over A_ij = (W_q x_i + u) . W_k x_j + (W_q x_i + v) . W_r R_(i-j), all over sqrt(K), of the window."""
    heads, width = block.config.num_heads, block.config.head_dim
    size = x_TD.shape[1]
    attended_TE = torch.zeros(x_TD.shape[0], heads * width, dtype=x_TD.dtype)
    for i, head in ((i, head) for i in range(x_TD.shape[0]) for head in range(heads)):
        part = slice(head * width, (head + 1) * width)
        query_K = block.query.weight[part] @ x_TD[i]
        seen = range(max(0, i - block.window), i + 1)
        scores = []
        for j in seen:
            angles = [(i - j) / 10000 ** (2 * n / size) for n in range(size // 2)]
            distance_D = torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=x_TD.dtype)
            key_K, distance_K = block.key.weight[part] @ x_TD[j], block.distance.weight[part] @ distance_D
            content = (query_K + block.content_bias[part]) @ key_K
            scores.append(content + (query_K + block.position_bias[part]) @ distance_K)
        weights = (torch.stack(scores) / math.sqrt(width)).softmax(0)
        attended_TE[i, part] = sum(w * (block.value.weight[part] @ x_TD[j]) for w, j in zip(weights, seen, strict=True))
    return block.output(attended_TE)


@pytest.fixture
def block():
    block = small_model("a", {}, "classic").blocks[0].double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return block


@pytest.mark.parametrize("cuts", [[], [1], [3, 4, 11]])
def test_relative_attention_is_the_equation(block, cuts, monkeypatch):
    monkeypatch.setattr(window_attention, "QUERY_BLOCK", 4)
    x_TD = torch.randn(17, block.query.in_features, generator=torch.Generator().manual_seed(2)).double()
    truth = by_the_equation(block, x_TD)
    pieces, state = [], None
    for start, stop in pairwise([0, *cuts, 17]):
        mixed_BTD, state = block.mix(x_TD[None, start:stop], state, None)
        pieces.append(mixed_BTD[0])
    torch.testing.assert_close(torch.cat(pieces), truth, rtol=1e-5, atol=1e-5)  # our sinusoids are of float32 angles
    parameters = [p for name, p in block.named_parameters() if not name.startswith("norm")]
    ours, theirs = (torch.autograd.grad(y.square().sum(), parameters) for y in (torch.cat(pieces), truth))
    for ours_one, theirs_one in zip(ours, theirs, strict=True):
        torch.testing.assert_close(ours_one, theirs_one, rtol=1e-5, atol=1e-5)


def test_under_autocast_queries_keep_the_precision_of_the_keys(block, monkeypatch):
    seen = []
    attend = window_attention._attend

    def record(query, key, value, mask, dropout):
        seen.append((query.dtype, key.dtype, mask.dtype))
        return attend(query, key, value, mask, dropout)

    monkeypatch.setattr(window_attention, "_attend", record)
    block.float()
    x_BTD = torch.randn(1, 9, block.query.in_features, generator=torch.Generator().manual_seed(2))
    exact_BTD, _ = block.mix(x_BTD, None, None)
    with torch.autocast("cpu", torch.bfloat16):
        mixed_BTD, _ = block.mix(x_BTD, None, None)
    assert seen[-1] == (torch.bfloat16,) * 3
    assert (mixed_BTD.float() - exact_BTD).norm() / exact_BTD.norm() < 3e-2
