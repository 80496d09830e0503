"""Generation: what the explicit state writes is what reading the whole text again at each step would write."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import small_model
from weft import generation
from weft.data import train_tokenizer
from weft.errors import UserError
from weft.generation import Sampling, generate, stream, stream_tokens

BOUNDARY, PADDING = 256, 257
GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=1.5, top_p=1.0, seed=3)
PROMPTS = ["", "Ruoŧŧa", "a", "A prompt that is longer than the memory."]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bytes", (), 258)


def byte_model(pattern="qfaf", **bias):
    """A model over bytes; ``bias`` favours the boundary or the padding token."""
    model = small_model(pattern, {"tie_embeddings": False, "head_bias": True}, vocab_size=258)
    with torch.no_grad():
        model.embedding.head_VD.normal_(generator=torch.Generator().manual_seed(1))
        model.embedding.bias_V[BOUNDARY] = bias.get("boundary", -100.0)
        model.embedding.bias_V[PADDING] = bias.get("padding", 0.0)
    return model


@pytest.fixture(scope="module", params=["qfaf", "[xa]2f"])
def model(request):
    return byte_model(request.param)


def written(model, tokenizer, prompts, sampling=GREEDY, count=25) -> list[list[int | None]]:
    """The tokens of each prompt."""
    steps = stream_tokens(model, tokenizer, prompts, max_new_tokens=count, sampling=sampling)
    return [list(lane) for lane in zip(*steps, strict=True)]


@torch.no_grad()
def greedy_without_state(model, tokenizer, prompt, count=25) -> list[int]:
    tokens = [BOUNDARY, *tokenizer.encode(prompt).tolist()]
    for _ in range(count):
        logits, _ = model(torch.tensor([tokens]))
        logits[..., PADDING] = float("-inf")
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[-count:]


def scripted(monkeypatch, *scripts):
    """Let lane i (whose generator has seed i) draw the tokens of script i."""
    queues = {seed: iter(script) for seed, script in enumerate(scripts)}
    monkeypatch.setattr(generation, "draw", lambda *drawn_from: next(queues[drawn_from[-1].initial_seed()]))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_is_the_argmax_after_the_whole_text(model, tokenizer, prompt):
    tokens = greedy_without_state(model, tokenizer, prompt)
    assert len(set(tokens)) > 3  # or the comparison would say little
    assert written(model, tokenizer, [prompt]) == [tokens]


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_a_batch_writes_what_each_prompt_alone_would(model, tokenizer, sampling):
    together = written(model, tokenizer, PROMPTS, sampling)
    for lane, prompt in enumerate(PROMPTS):
        alone = Sampling(temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed + lane)
        assert written(model, tokenizer, [prompt], alone) == [together[lane]]
    assert len({tuple(lane) for lane in together}) == len(PROMPTS)


@pytest.mark.parametrize("prefill", [1, 3, 7])
def test_a_long_prompt_is_read_in_pieces(model, tokenizer, monkeypatch, prefill):
    whole = written(model, tokenizer, PROMPTS)
    assert max(map(len, PROMPTS)) > model.config.attention.memory > prefill - 3
    monkeypatch.setattr(generation, "PREFILL", prefill)
    assert written(model, tokenizer, PROMPTS) == whole


@pytest.mark.parametrize("cut", [{"top_k": 1, "top_p": 1.0}, {"top_p": 1e-9}], ids=["top-k 1", "top-p tiny"])
def test_cutting_all_but_one_token_off_is_greedy(model, tokenizer, cut):
    cold = written(model, tokenizer, PROMPTS)
    assert written(model, tokenizer, PROMPTS, Sampling(temperature=1.3, seed=8, **cut)) == cold


def test_cutting_off_keeps_the_likeliest_tokens():
    logits = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]).log()

    def drawn(**settings) -> dict[int, float]:
        generator, sampling = torch.Generator().manual_seed(0), Sampling(**settings)
        tokens = [generation.draw(logits, sampling, generator) for _ in range(2000)]
        return {token: tokens.count(token) / 2000 for token in set(tokens)}

    near = pytest.approx
    assert drawn(temperature=1.0, top_p=1.0) == near({0: 0.1, 1: 0.4, 2: 0.05, 3: 0.3, 4: 0.15}, abs=0.04)
    assert drawn(temperature=1.0, top_p=1.0, top_k=2) == near({1: 4 / 7, 3: 3 / 7}, abs=0.04)
    assert drawn(temperature=1.0, top_p=0.6) == near({1: 4 / 7, 3: 3 / 7}, abs=0.04)  # 0.4 alone is not enough
    assert drawn(temperature=1.0, top_p=0.3) == {1: 1.0}
    assert drawn(temperature=0.5, top_p=1.0, top_k=2) == near({1: 16 / 25, 3: 9 / 25}, abs=0.04)


def test_a_seed_decides_the_text(model, tokenizer):
    one, again, other = (written(model, tokenizer, ["a"], Sampling(seed=seed)) for seed in (5, 5, 6))
    assert one == again
    assert one != other


def test_the_boundary_token_ends_a_text(tokenizer, monkeypatch):
    scripted(monkeypatch, [65, BOUNDARY, 66, 67], [97, 98, 99, BOUNDARY])
    lanes = written(byte_model(), tokenizer, ["x", "yz"], count=9)
    assert lanes == [[65, None, None], [97, 98, 99]]


def test_generate_leaves_the_end_out_and_stops_there(tokenizer, monkeypatch):
    scripted(monkeypatch, [65, BOUNDARY, 66], [97, 98, 99])
    assert generate(byte_model(), tokenizer, ["x", "yz"], max_new_tokens=3, sampling=Sampling()) == ["A", "abc"]
    eager = byte_model(boundary=1000.0)
    monkeypatch.undo()
    assert generate(eager, tokenizer, ["x", ""], sampling=GREEDY) == ["", ""]
    assert list(stream(eager, tokenizer, "x", sampling=WARM)) == []
    assert generate(eager, tokenizer, []) == []


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_padding_is_never_drawn(tokenizer, sampling):
    lanes = written(byte_model(padding=1000.0), tokenizer, ["a", "longer"], sampling)
    assert all(token < BOUNDARY for lane in lanes for token in lane)
    assert [len(lane) for lane in lanes] == [25, 25]


TEXTS = {
    "many scripts": "Ruoŧŧa 漢字 🙂 é\n".encode(),
    "cut inside a character": "abc🙂".encode()[:-1],
    "never a character": b"\xff\xc3(\xf0\x9f\x80\x80A\x80\xe2\x82",
    "every kind of byte": bytes(range(1, 256, 4)),
}


@pytest.mark.parametrize("data", TEXTS.values(), ids=TEXTS)
def test_streamed_pieces_are_whole_characters_and_join_to_the_text(tokenizer, monkeypatch, data):
    scripted(monkeypatch, data)
    pieces = list(stream(byte_model(), tokenizer, "", max_new_tokens=len(data), sampling=Sampling()))
    scripted(monkeypatch, data)
    (text,) = generate(byte_model(), tokenizer, [""], max_new_tokens=len(data), sampling=Sampling())
    assert "".join(pieces) == text == data.decode(errors="replace")
    assert all(pieces)
    text.encode()  # no surrogates


def test_pieces_come_as_soon_as_they_are_whole(tokenizer, monkeypatch):
    scripted(monkeypatch, "aŧ🙂".encode())
    assert list(stream(byte_model(), tokenizer, "", max_new_tokens=7, sampling=Sampling())) == ["a", "ŧ", "🙂"]


def test_model_and_random_state_are_left_as_they_were(tokenizer):
    model = byte_model().train()
    random = torch.get_rng_state()
    generate(model, tokenizer, ["a", "bc"], max_new_tokens=3)
    assert model.training
    pieces = stream(model, tokenizer, "a", sampling=WARM)
    next(pieces)
    pieces.close()  # a reader who leaves early
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


BAD = [
    {"temperature": -0.1},
    {"temperature": float("nan")},
    {"temperature": float("inf")},
    {"top_k": -1},
    {"top_p": 0.0},
    {"top_p": 1.1},
    {"top_p": float("nan")},
]


@pytest.mark.parametrize("settings", BAD, ids=str)
def test_impossible_sampling_is_refused(settings):
    with pytest.raises(UserError, match="temperature from 0 to 100, top-k >= 0 and 0 < top-p <= 1"):
        Sampling(**settings)
