"""The promise of the house: exact recurrent state, for every block and for random patterns."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import BIGRAMS, MAPS, small_model

VARIANTS = {
    "attention": ("aa", {}, "modern"),
    "attention, relative": ("aa", {}, "classic"),
    "attention, no positions": ("aa", {"attention": {"positions": "none"}}, "modern"),
    "attention, grouped": ("aa", {"attention": {"num_heads": 4, "num_kv_heads": 2}}, "modern"),
    "attention, one head": ("aa", {"attention": {"num_heads": 1}}, "modern"),
    "feed-forward": ("ff", {}, "modern"),
    "feed-forward, swiglu": ("ff", {"feed_forward": {"activation": "swiglu"}}, "modern"),
    "qrnn, window 1": ("qq", {"qrnn": {"kernel_size": 1}}, "modern"),
    "qrnn, window 2": ("qq", {"qrnn": {"kernel_size": 2}, "token_shift": False}, "modern"),
    "qrnn, window 3, token shift": ("qq", {"qrnn": {"kernel_size": 3}}, "modern"),
    "qrnn, window 4, ifo": ("qq", {"qrnn": {"kernel_size": 4, "pooling": "ifo"}}, "modern"),
    "qrnn, f, no projection": (
        "qq",
        {"qrnn": {"pooling": "f", "output_projection": False, "cell_size": 16}},
        "modern",
    ),
    "qrnn, zoneout": ("qq", {"qrnn": {"zoneout": 0.3}}, "classic"),
    "fused": ("xx", {}, "modern"),
    "fused, rotary": ("xx", {"attn_qrnn": {"positions": "rotary"}}, "modern"),
    "hybrid": ("qfaf", {}, "modern"),
    "everything, classic": ("qafx", {}, "classic"),
    "token shift, post-norm": ("qafx", {"token_shift": True}, "classic"),
    "recurrent stacking": ("[qa]2f", {}, "modern"),
    "structured maps": ("f[qaf]2x", {"maps": MAPS}, "modern"),
    "matrix products": ("{qaf}2x", {"maps": {"attention": {"kind": "matrix_product", "adapter": 2}}}, "modern"),
    "latent bigrams": ("qaf", {"ngrams": BIGRAMS}, "modern"),
    "embedding normed": ("qaf", {"ngrams": {"heads": 2, "table_size": 0}}, "modern"),
    "adaptive": ("qaf", {"adaptive": {"cutoffs": [3, 7], "div_val": 2}}, "classic"),
}
patterns = st.text("afqx", min_size=1, max_size=5) | st.sampled_from(["[qa]3", "(xf)2a", "[q[f]2]2a2"])


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def model(request):
    pattern, changes, preset = request.param
    return small_model(pattern, changes, preset)


def tokens_and_reset(seed, batch=3, time=21, probability=0.15):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 11, (batch, time), generator=generator)
    return tokens, torch.rand(batch, time, generator=generator) < probability


def in_pieces(model, tokens, reset, cuts):
    logits, state = [], None
    for start, stop in zip([0, *cuts], [*cuts, tokens.shape[1]], strict=True):
        piece, state = model(tokens[:, start:stop], state, None if reset is None else reset[:, start:stop])
        logits.append(piece)
    return torch.cat(logits, dim=1), state


def close(a, b):
    """Equal to 1e-5 of the largest logit (random weights make logits of 20 and more)."""
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * max(1.0, b.abs().max().item()))


@torch.no_grad()
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("cuts", [[7], [1, 2, 15], list(range(1, 21))], ids=["two pieces", "pieces", "token by token"])
def test_pieces_equal_the_whole(model, resets, cuts):
    tokens, reset = tokens_and_reset(1)
    whole, end = model(tokens, None, reset if resets else None)
    pieces, state = in_pieces(model, tokens, reset if resets else None, cuts)
    close(pieces, whole)
    following, _ = tokens_and_reset(2)
    close(model(following, state)[0], model(following, end)[0])


@torch.no_grad()
def test_a_batch_equals_its_lanes_alone(model):
    tokens, reset = tokens_and_reset(3)
    together, _ = model(tokens, None, reset)
    for lane in range(tokens.shape[0]):
        close(model(tokens[lane : lane + 1], None, reset[lane : lane + 1])[0][0], together[lane])


@torch.no_grad()
def test_packed_documents_equal_documents_alone(model):
    tokens, _ = tokens_and_reset(4, batch=1, time=24)
    cuts = [0, 9, 10, 17, 24]
    reset = torch.zeros(1, 24, dtype=torch.bool)
    reset[:, cuts[:-1]] = True
    packed, _ = model(tokens, None, reset)
    for start, stop in pairwise(cuts):
        close(model(tokens[:, start:stop])[0], packed[:, start:stop])


@torch.no_grad()
def test_no_output_sees_a_later_token(model):
    tokens, reset = tokens_and_reset(5)
    before, _ = model(tokens, None, reset)
    changed = tokens.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % 11
    after, _ = model(changed, None, reset)
    torch.testing.assert_close(after[:, :12], before[:, :12], rtol=0, atol=0)
    assert not torch.allclose(after[:, 12:], before[:, 12:])


def test_no_gradient_reaches_a_later_embedding_or_crosses_a_reset(model):
    tokens, _ = tokens_and_reset(6, batch=1, time=12)
    reset = torch.zeros(1, 12, dtype=torch.bool)
    reset[:, 4] = True
    embedded = []
    model.embedding.register_forward_hook(lambda *a: embedded.append(a[2].requires_grad_()) or a[2])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    logits, _ = model(tokens, None, reset)
    (gradient,) = torch.autograd.grad(logits[:, 8].sum(), embedded[0])
    reached = gradient.abs().sum(-1)[0] > 0
    assert reached[8]
    assert not reached[9:].any()
    assert not reached[:4].any()


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    pattern=patterns,
    seed=st.integers(0, 99),
    cut=st.integers(1, 20),
    preset=st.sampled_from(["modern", "classic"]),
)
def test_random_patterns_are_causal_and_stream_exactly(pattern, seed, cut, preset):
    model = small_model(pattern, preset=preset, seed=seed)
    tokens, reset = tokens_and_reset(seed, batch=2)
    whole, _ = model(tokens, None, reset)
    close(in_pieces(model, tokens, reset, [cut])[0], whole)
    close(model(tokens[:, :cut], None, reset[:, :cut])[0], whole[:, :cut])


@torch.no_grad()
@pytest.mark.parametrize(("preset", "token_shift"), [("modern", False), ("classic", False), ("modern", True)])
def test_attention_reaches_memory_positions_back_and_no_further(preset, token_shift):
    model = small_model("a", {"token_shift": token_shift}, preset)
    tokens, _ = tokens_and_reset(7, batch=1)
    before, _ = model(tokens)
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 11
    moved = (model(changed)[0] - before).abs().amax(-1)[0] > 1e-7
    assert moved.nonzero().flatten().tolist() == [10, 11, 12, 13, 14, 15, 16][: 6 + token_shift]


@torch.no_grad()
def test_a_window_longer_than_a_query_block_is_exact(monkeypatch):
    model = small_model("aax", {"attention": {"window": 9}})
    tokens, reset = tokens_and_reset(8, time=40)
    whole, _ = model(tokens, None, reset)
    monkeypatch.setattr("weft.layers.window_attention.QUERY_BLOCK", 4)
    close(model(tokens, None, reset)[0], whole)
    close(in_pieces(model, tokens, reset, [3, 17, 30])[0], whole)


@torch.no_grad()
def test_far_into_a_text_nothing_drifts():
    """After 20,000 tokens in large and small pieces the model gives what it gives on the last window alone."""
    model = small_model("a")
    tokens = torch.randint(0, 11, (1, 20_000), generator=torch.Generator().manual_seed(0))
    _, state = in_pieces(model, tokens[:, :-10], None, [15_000, 15_001, 19_000])
    close(model(tokens[:, -10:], state)[0], model(tokens[:, -16:])[0][:, -10:])


def test_training_mode_streams_the_same_window(model):
    """In training, too, a position sees the same past whether it came in this piece or in the state."""
    model.train()
    if any(getattr(block, "zoneout", 0) for block in model.config.blocks):
        pytest.skip("zoneout is random in training")
    tokens, reset = tokens_and_reset(9)
    with torch.no_grad():
        close(in_pieces(model, tokens, reset, [8, 13])[0], model(tokens, None, reset)[0])
