"""The chunked loss equals torch's, in value and gradient, and does not hold the logits."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from weft.layers import cross_entropy as module


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("ignored", ["none", "some", "all"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_loss_and_gradients_equal_torch(monkeypatch, bias, ignored, rows):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", rows * 7)
    monkeypatch.setattr(module, "FEWEST_ROWS", 1)
    torch.manual_seed(0)
    hidden = torch.randn(10, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(7, dtype=torch.float64, requires_grad=True) if bias else None
    targets = torch.randint(0, 7, (10,))
    if ignored != "none":
        targets[slice(None) if ignored == "all" else slice(2, 7)] = -100
    wanted = [tensor for tensor in (hidden, weight, offset) if tensor is not None]
    ours = module.cross_entropy(hidden, weight, offset, targets)
    nats = F.cross_entropy(F.linear(hidden, weight, offset), targets, ignore_index=-100, reduction="none")
    truth = nats.sum() / max(1, int((targets != -100).sum()))
    torch.testing.assert_close(ours, truth)
    for one, other in zip(torch.autograd.grad(3 * ours, wanted), torch.autograd.grad(3 * truth, wanted), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(module.surprisal(hidden, weight, offset, targets), nats.detach())


def test_large_logits_do_not_overflow():
    hidden, weight = torch.full((2, 1), 1e4), torch.tensor([[1.0], [-1.0]])
    assert module.cross_entropy(hidden, weight, None, torch.tensor([0, 0])).item() == pytest.approx(0.0)


def test_logits_of_a_long_batch_never_stand_whole(monkeypatch):
    sizes = []
    logits = module._logits
    monkeypatch.setattr(module, "_logits", lambda *a: sizes.append(r := logits(*a)) or r)
    module.cross_entropy(torch.randn(5000, 2), torch.randn(4096, 2), None, torch.zeros(5000, dtype=torch.long))
    assert max(part.numel() for part in sizes) <= module.CHUNK_ELEMENTS
    assert sum(part.shape[0] for part in sizes) == 5000


def test_a_part_of_a_batch_is_divided_by_the_whole_count():
    hidden, weight, targets = torch.randn(6, 3), torch.randn(5, 3), torch.randint(0, 5, (6,))
    whole = module.cross_entropy(hidden, weight, None, targets)
    count = module.count_targets(targets)
    parts = [module.cross_entropy(hidden[rows], weight, None, targets[rows], count) for rows in ([0, 3], [1, 2, 4, 5])]
    torch.testing.assert_close(sum(parts), whole)


def test_a_large_vocabulary_is_read_for_many_tokens_at_once():
    assert [part.stop - part.start for part in module._chunks(300, 1 << 30)] == [128, 128, 44]
