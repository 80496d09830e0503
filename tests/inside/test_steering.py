"""Steered writing: the last token of the prompt is the first that is steered, alone and beside others."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.conftest import small_model
from tests.test_exact_state import VARIANTS, close
from tests.test_generation import BOUNDARY, PADDING, byte_model
from weft.data import train_tokenizer
from weft.errors import UserError
from weft.generation import Sampling, Written, write, writing
from weft.generation.fused import covers
from weft.generation.steering import Steering
from weft.inside import Edits, shift_state
from weft.layers.state import map_state, tensors

PROMPTS = ["", "abcd", "a long one, longer than the others"]
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bytes", (), 258)


@pytest.fixture(params=["qfaf", "x[qa]2"])
def model(request):
    return byte_model(request.param).eval()


def delta_of(model, size=1.0):
    """What may be added to every vector of a state, for one text; what may not be touched is no number."""
    _, state = model.hidden(torch.arange(8)[None] % 5)

    def random(part):
        if part.dtype == torch.bool or part.dtype == torch.long:
            return part
        return size * torch.randn(part.shape, generator=torch.Generator().manual_seed(3))

    return map_state(random, state)


def steering(model, **how) -> Steering:
    width = model.config.hidden_size
    vector_D = torch.linspace(-2, 2, width)
    return Steering(Edits(add={1: vector_D}), partial(shift_state, delta=delta_of(model), multiplier=0.7), **how)


def written(model, tokenizer, prompts, steer=None, count=12, **how) -> list[list[int]]:
    lanes = [[] for _ in prompts]
    for event in write(
        model, tokenizer, prompts, max_new_tokens=count, sampling=GREEDY, steer=steer, precision="fp32", **how
    ):
        if isinstance(event, Written):
            lanes[event.lane].append(event.token.id)
    return lanes


@torch.no_grad()
def by_hand(model, tokenizer, prompt, steer, count) -> list[int]:
    """The same, one token after another, with the state in hand."""
    tokens = [BOUNDARY, *tokenizer.encode(prompt).tolist()]
    state = None
    before_edits = steer.edits if steer.everywhere else None
    if len(tokens) > 1:
        _, state = model(torch.tensor([tokens[:-1]]), edits=before_edits)
    if state is None:
        state = model.empty_state(1, torch.device("cpu"))
    state = steer.shift(state) if steer.shift else state
    new = []
    token = tokens[-1]
    for _ in range(count):
        logits, state = model(torch.tensor([[token]]), state, edits=steer.edits)
        logits[..., PADDING] = float("-inf")
        token = int(logits[0, -1].argmax())
        if token == BOUNDARY:
            break
        new.append(token)
    return new


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize("prefill", [7, 1024])
def test_a_batch_is_steered_as_each_text_by_hand(model, tokenizer, monkeypatch, everywhere, prefill):
    monkeypatch.setattr(writing, "PREFILL", prefill)
    steer = steering(model, everywhere=everywhere)
    together = written(model, tokenizer, PROMPTS, steer)
    assert together != written(model, tokenizer, PROMPTS)
    for prompt, tokens in zip(PROMPTS, together, strict=True):
        assert tokens == by_hand(model, tokenizer, prompt, steer, 12)
        assert written(model, tokenizer, [prompt], steer) == [tokens]


@pytest.mark.parametrize("part", ["edits", "shift"])
@torch.no_grad()
def test_the_first_new_token_is_steered_already(tokenizer, part):
    model = byte_model("qfaf").eval()
    whole = steering(model)
    steer = Steering(**{part: getattr(whole, part)})
    plain = model(torch.tensor([[BOUNDARY, *tokenizer.encode("abcd").tolist()]]))[0][0, -1]
    bits = {}
    for name, how in (("plain", None), ("steered", steer)):
        (event,) = [
            event
            for event in write(model, tokenizer, ["abcd"], max_new_tokens=1, sampling=GREEDY, bits=True, steer=how)
            if isinstance(event, Written)
        ]
        bits[name] = event.token.bits
    expected = -plain.log_softmax(-1).max() / torch.log(torch.tensor(2.0))
    assert bits["plain"] == pytest.approx(float(expected), abs=1e-4)
    assert abs(bits["steered"] - bits["plain"]) > 1e-3


def test_steering_by_nothing_writes_the_same(model, tokenizer):
    none = Steering(
        Edits(add={1: torch.zeros(model.config.hidden_size)}), partial(shift_state, delta=delta_of(model), multiplier=0)
    )
    assert written(model, tokenizer, PROMPTS, none) == written(model, tokenizer, PROMPTS)


def test_an_unsteered_text_beside_a_steered_one_is_its_own(tokenizer):
    model = byte_model("qfaf").eval()
    alone = written(model, tokenizer, ["abcd"])
    half_read = write(model, tokenizer, ["abcd"], sampling=GREEDY, steer=steering(model))
    for _ in range(3):
        next(half_read)
    assert covers(model)
    assert written(model, tokenizer, ["abcd"]) == alone


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def variant(request):
    return small_model(*request.param).eval()


@torch.no_grad()
def test_a_state_is_shifted_in_its_vectors_alone(variant):
    tokens = torch.arange(20).reshape(2, 10) % 11
    _, state = variant.hidden(tokens)
    before = [part.clone() for part in tensors(state)]
    delta = delta_of(variant)
    shifted = shift_state(state, delta, 2.0)
    for part, was in zip(tensors(state), before, strict=True):
        assert torch.equal(part, was)  # a function: nothing is changed in place
    for depth, (old, new) in enumerate(zip(state.blocks, shifted.blocks, strict=True)):
        of_delta = delta.blocks[depth]
        if hasattr(old, "last_BD"):
            close(new.last_BD, old.last_BD + 2 * of_delta.last_BD)
            old, new, of_delta = old.mixer, new.mixer, of_delta.mixer
        if hasattr(old, "cell_BC"):
            close(new.cell_BC, old.cell_BC + 2 * of_delta.cell_BC)
        if hasattr(old, "inputs_BWD"):
            torch.testing.assert_close(new.inputs_BWD, old.inputs_BWD + 2 * of_delta.inputs_BWD)  # may be empty
        attention = getattr(old, "attention", old)
        if hasattr(attention, "keys_BMGK"):
            same = zip(attention, getattr(new, "attention", new), strict=True)
            assert all(torch.equal(a, b) for a, b in same)
    assert all(torch.equal(a, b) for a, b in zip(tensors(shifted.embedding), tensors(state.embedding), strict=True))
    nothing = shift_state(state, delta, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(tensors(nothing), before, strict=True))
    here = shift_state(state, delta, 2.0, depths={1})
    assert all(torch.equal(a, b) for a, b in zip(tensors(here.blocks[0]), tensors(state.blocks[0]), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors(here.blocks[1]), tensors(shifted.blocks[1]), strict=True))


@torch.no_grad()
def test_a_state_of_another_model_is_refused():
    states = {}
    for pattern in ("qfaf", "qfa", "ffaf"):
        states[pattern] = small_model(pattern).eval().hidden(torch.arange(6)[None] % 5)[1]
    with pytest.raises(UserError, match="one has 4 blocks, one 3"):
        shift_state(states["qfaf"], states["qfa"])
    with pytest.raises(UserError, match="at depth 0 one is"):
        shift_state(states["qfaf"], states["ffaf"])
    wide = small_model("qfaf", {"qrnn": {"cell_size": 40}}).eval().hidden(torch.arange(6)[None] % 5)[1]
    with pytest.raises(UserError, match=r"cell_BC of depth 0 is \(1, "):
        shift_state(states["qfaf"], wide)
