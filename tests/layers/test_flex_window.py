"""The GPU's window attention equals the loop over blocks of queries, and its table of blocks is that of torch.

There need be no GPU: what decides is traced and run in plain torch.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from weft.layers import flex_window
from weft.layers.window_attention import AttentionState, window_attention

SHAPES = [(128, 0, 64), (256, 128, 128), (300, 77, 200), (130, 1, 1), (600, 512, 512), (129, 300, 300)]


def documents(length: int, seed: int, often: float = 0.01) -> Tensor:
    begins = torch.rand(2, length, generator=torch.Generator().manual_seed(seed)) < often
    return begins.to(torch.int32).cumsum(1, dtype=torch.int32) - 1


def dense(counts: Tensor | None, columns: Tensor | None) -> Tensor:
    """Return the table (B, 1, Q, N) of which blocks a list of them names."""
    assert counts is not None
    assert columns is not None
    listed = torch.arange(columns.shape[-1]) < counts[..., None]
    return torch.zeros(columns.shape, dtype=torch.bool).scatter_(-1, columns.long(), listed)


def tables(mask: torch_flex.BlockMask) -> tuple[Tensor, Tensor]:
    """Return which blocks are visited with a look at the mask, and which without."""
    return dense(mask.kv_num_blocks, mask.kv_indices), dense(mask.full_kv_num_blocks, mask.full_kv_indices)


def both_masks(numbers: Tensor, time: int, memory: int) -> tuple[torch_flex.BlockMask, torch_flex.BlockMask]:
    past = torch.tensor(numbers.shape[1] - time, dtype=torch.int32)
    ours = flex_window.block_mask(numbers, past, time, memory)
    return ours, torch_flex.create_block_mask(ours.mask_mod, 2, None, time, numbers.shape[1], device="cpu")


@pytest.mark.parametrize(("time", "past", "memory"), SHAPES)
def test_the_blocks_of_one_document_are_those_that_torch_finds(time, past, memory):
    ours, theirs = both_masks(torch.zeros(2, past + time, dtype=torch.int32), time, memory)
    for mine, true in zip(tables(ours), tables(theirs), strict=True):
        assert torch.equal(mine, true)


@pytest.mark.parametrize(("time", "past", "memory"), SHAPES)
def test_no_block_of_several_documents_is_forgotten_or_seen_too_freely(time, past, memory):
    ours, theirs = both_masks(documents(past + time, seed=time), time, memory)
    looked, whole = tables(ours)
    must_look, may_be_whole = tables(theirs)
    assert not (looked & whole).any()
    assert ((looked | whole) | ~(must_look | may_be_whole)).all()
    assert (may_be_whole | ~whole).all()


@pytest.mark.parametrize("often", [0.0, 0.01])
def test_the_way_back_visits_the_same_blocks(often):
    mask, _ = both_masks(documents(600, 1, often), 400, 200)
    assert torch.equal(dense(mask.q_num_blocks, mask.q_indices), tables(mask)[0].transpose(2, 3))
    assert torch.equal(dense(mask.full_q_num_blocks, mask.full_q_indices), tables(mask)[1].transpose(2, 3))


@pytest.fixture
def graphs(monkeypatch) -> list[Any]:
    """Take the GPU's way, traced but run by plain torch, and return the graphs that were traced."""
    traced: list[Any] = []

    def backend(graph: Any, _inputs: Any) -> Any:
        traced.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(flex_window._attend, fullgraph=True, backend=backend)
    monkeypatch.setattr(flex_window, "_compiled", lambda: compiled)
    monkeypatch.setattr(
        torch_flex, "_validate_device", lambda *_: None
    )  # plain torch can do the gradient, on a CPU too
    return traced


def piece(time: int, past: int, heads: int, groups: int, kind: str, seed: int = 0) -> tuple[list[Tensor], Any, Any]:
    """Return queries, keys and values that want gradients, then a state or None, and a reset or None."""
    make = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(2, time, n, 16, generator=make).requires_grad_() for n in (heads, groups, groups)]
    state = None
    if past:
        remembered = [torch.randn(2, past, groups, 16, generator=make) for _ in range(2)]
        valid = torch.arange(past)[None] >= torch.tensor([[0], [past // 2]])
        state = AttentionState(*remembered, valid)
    reset = torch.rand(2, time, generator=make) < 0.02 if kind == "resets" else None
    return inputs, state, reset


# The tracer asks the queries, which are no leaves, for their gradient.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    ("time", "past", "heads", "groups", "kind", "rotary"),
    [
        (130, 0, 2, 2, "none", False),
        (130, 60, 4, 2, "resets", True),
        (300, 70, 3, 1, "none", True),
        (257, 0, 2, 2, "resets", False),
    ],
)
def test_it_equals_the_loop_over_blocks_in_value_and_gradient(
    graphs, monkeypatch, time, past, heads, groups, kind, rotary
):
    inputs, state, reset = piece(time, past, heads, groups, kind)
    results = []
    for use in (True, False):
        monkeypatch.setattr(flex_window, "suits", lambda _, use=use: use)
        attended, after = window_attention(*inputs, state, reset, window=70, rotary=rotary)
        weights = torch.linspace(-1, 2, attended.numel()).view_as(attended)
        results.append([attended, *after, *torch.autograd.grad((attended * weights).sum(), inputs)])
    assert len(graphs) == 1
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)


def test_a_new_length_traces_nothing_once_lengths_are_known_to_change(graphs, monkeypatch):
    monkeypatch.setattr(flex_window, "suits", lambda _: True)
    seen = []
    for time, past in [(128, 70), (200, 60), (300, 50), (290, 70), (1000, 33)]:
        inputs, state, reset = piece(time, past, 2, 2, "resets")
        with torch.no_grad():
            window_attention(*inputs, state, reset, window=70)
        seen.append(len(graphs))
    assert seen[1] == seen[-1] == 2


def test_the_whole_model_may_be_compiled_around_it(graphs, monkeypatch):
    monkeypatch.setattr(flex_window, "suits", lambda query: query.shape[1] >= 128)
    inputs, state, reset = piece(200, 60, 4, 2, "resets")
    whole = torch.compile(window_attention, fullgraph=True, backend="eager")
    with torch.no_grad():
        ours, after = whole(*inputs, state, reset, window=70, rotary=True)
        truth, kept = window_attention(*inputs, state, reset, window=70, rotary=True)
    torch.testing.assert_close((ours, *after), (truth, *kept))


@pytest.mark.parametrize(
    ("shape", "dtype", "device", "suits"),
    [
        ((1, 128, 2, 16), torch.bfloat16, "cuda", True),
        ((1, 127, 2, 16), torch.bfloat16, "cuda", False),
        ((1, 128, 2, 8), torch.bfloat16, "cuda", False),
        ((1, 128, 2, 16), torch.float64, "cuda", False),
        ((1, 128, 2, 16), torch.bfloat16, "cpu", False),
    ],
)
def test_short_narrow_and_precise_pieces_are_left_to_sdpa(monkeypatch, shape, dtype, device, suits):
    class Query:
        pass

    query: Any = Query()
    query.shape, query.dtype, query.device = shape, dtype, torch.device(device)
    monkeypatch.setattr(flex_window, "USABLE", True)
    assert flex_window.suits(query) is suits
    monkeypatch.setattr(flex_window, "USABLE", False)
    assert not flex_window.suits(query)
