"""Whoever asks the walk sees what every block application reads, and can change it; nobody else notices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.conftest import BIGRAMS, small_model
from weft.layers.state import tensors
from weft.model import ModelState

TOKENS = torch.arange(24).reshape(2, 12) % 11
CASES = [("qfa", {}, "modern"), ("[qf]2 x", {"ngrams": BIGRAMS}, "modern"), ("afq", {}, "classic")]


@pytest.mark.parametrize(("pattern", "settings", "preset"), CASES)
@torch.no_grad()
def test_every_site_is_seen_in_order_and_nothing_changes(pattern, settings, preset):
    model = small_model(pattern, settings, preset)
    plain, state = model.hidden(TOKENS)
    sites, streams = [], []

    def watch(site, x_BTD):
        sites.append(site)
        streams.append(x_BTD)

    seen, after = model.hidden(TOKENS, watch=watch)
    assert torch.equal(seen, plain)
    assert all(torch.equal(a, b) for a, b in zip(tensors(after), tensors(state), strict=True))
    assert sites == list(range(model.depth + 1))
    for site, block in enumerate(model.schedule):
        y_BTD, _ = model.blocks[block](streams[site])
        assert torch.equal(y_BTD, streams[site + 1])
    assert torch.equal(model.normed(streams[-1]), plain)
    assert torch.equal(model.unembed(streams[-1]), model(TOKENS)[0])
    assert model.unembed(streams[0]).shape == (2, 12, 11)  # any hidden states


@torch.no_grad()
def test_an_edit_is_what_is_read_and_seen_from_there_on():
    model = small_model("qfqf")
    plain, edited = {}, {}
    model.hidden(TOKENS, watch=plain.__setitem__)
    hidden_BTD, _ = model.hidden(TOKENS, watch=edited.__setitem__, edits={2: lambda x_BTD: 2 * x_BTD})
    same = [torch.equal(plain[site], edited[site]) for site in range(5)]
    assert same == [True, True, False, False, False]
    assert torch.equal(edited[2], 2 * plain[2])
    assert torch.equal(model.normed(edited[4]), hidden_BTD)


@torch.no_grad()
def test_an_edit_reaches_the_state_so_a_text_goes_on_as_edited():
    model = small_model("qfa")
    edits = {0: torch.zeros_like, 1: lambda x_BTD: x_BTD + 1}
    whole, _ = model.hidden(TOKENS, edits=edits)
    first, state = model.hidden(TOKENS[:, :5], edits=edits)
    rest, _ = model.hidden(TOKENS[:, 5:], state, edits=edits)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_flow_through_what_is_seen_and_what_is_put_in(checkpointed):
    model = small_model("qf").train()
    model.checkpoint_activations = checkpointed
    added_D = torch.zeros(16, requires_grad=True)
    seen = {}
    hidden_BTD, _ = model.hidden(TOKENS, watch=seen.__setitem__, edits={1: lambda x_BTD: x_BTD + added_D})
    gradients = torch.autograd.grad(hidden_BTD.sum(), [added_D, seen[0], seen[2]])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_two_threads_with_one_model_do_not_meet():
    model = small_model("qfqf")
    factors = [0.0, 0.5, 1.0, 2.0] * 4

    @torch.no_grad()
    def read(factor):
        return model.hidden(TOKENS, edits={1: lambda x_BTD: factor * x_BTD})[0]

    alone = [read(factor) for factor in factors]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(read, factors))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(("pattern", "settings", "preset"), CASES)
@torch.no_grad()
def test_the_state_has_names_and_the_order_of_0_1_0(pattern, settings, preset):
    model = small_model(pattern, settings, preset)
    _, state = model.hidden(TOKENS)
    assert isinstance(state, ModelState)
    assert len(state.blocks) == model.depth
    of_blocks = [tensor for part in state.blocks for tensor in tensors(part)]
    of_bigrams = tensors(state.embedding)
    assert [id(x) for x in tensors(state)] == [id(x) for x in (*of_blocks, *of_bigrams)]
    assert len(of_bigrams) == ("ngrams" in settings)
