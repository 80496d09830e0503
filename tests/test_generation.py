"""Generation: what the explicit state writes is what reading the whole text again at each step would write."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import small_model
from weft.data import train_tokenizer
from weft.errors import UserError
from weft.generation import (
    Ended,
    GrowingText,
    PlainDecoder,
    Read,
    Sampling,
    Written,
    generate,
    in_order,
    make_decoder,
    stream,
    stream_all,
    write,
    writing,
)

BOUNDARY, PADDING = 256, 257
GREEDY = Sampling(temperature=0)
WARM = Sampling(temperature=1.5, top_p=1.0, seed=3)
PROMPTS = ["", "Ruoŧŧa", "a", "A prompt that is longer than the memory."]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bytes", (), 258)


def byte_model(pattern="qfaf", **bias):
    """A model over bytes; ``bias`` favours the boundary or the padding token."""
    model = small_model(pattern, {"tie_embeddings": False, "head_bias": True}, vocab_size=258, seed=2)
    with torch.no_grad():
        model.embedding.head_VD.normal_(generator=torch.Generator().manual_seed(1))
        model.embedding.bias_V[BOUNDARY] = bias.get("boundary", -100.0)
        model.embedding.bias_V[PADDING] = bias.get("padding", 0.0)
    return model


@pytest.fixture(scope="module", params=["qfaf", "[xa]2f"])
def model(request):
    return byte_model(request.param)


def written(model, tokenizer, prompts, sampling=GREEDY, count=25, **settings) -> list[list[int]]:
    """The tokens of each prompt."""
    lanes = [[] for _ in prompts]
    for event in write(model, tokenizer, prompts, max_new_tokens=count, sampling=sampling, **settings):
        if isinstance(event, Written):
            lanes[event.lane].append(event.token.id)
    return lanes


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
    monkeypatch.setattr(
        writing, "draw", lambda *drawn_from: next(queues[drawn_from[-1].bit_generator.seed_seq.entropy])
    )


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_is_the_argmax_after_the_whole_text(model, tokenizer, prompt):
    tokens = greedy_without_state(model, tokenizer, prompt)
    assert len(set(tokens)) > 3  # or the comparison would say little
    assert written(model, tokenizer, [prompt], precision="fp32") == [tokens]


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_a_batch_writes_what_each_prompt_alone_would(model, tokenizer, sampling):
    together = written(model, tokenizer, PROMPTS, sampling)
    for lane, prompt in enumerate(PROMPTS):
        alone = Sampling(temperature=sampling.temperature, top_p=sampling.top_p, seed=sampling.seed + lane)
        assert written(model, tokenizer, [prompt], alone) == [together[lane]]
    assert len({tuple(lane) for lane in together}) == len(PROMPTS)


def test_bits_are_told_by_the_models_own_weights_unless_others_are_asked_for(tokenizer, monkeypatch):
    model = byte_model("qfaf")
    asked = []

    def noted(*given, precision, **settings):
        asked.append(precision)
        return make_decoder(*given, precision=precision, **settings)

    monkeypatch.setattr(writing, "make_decoder", noted)
    written(model, tokenizer, ["a"], count=3)
    written(model, tokenizer, ["a"], count=3, bits=True)
    written(model, tokenizer, ["a"], count=3, bits=True, precision="bf16")
    assert asked == ["auto", "fp32", "bf16"]
    with pytest.raises(UserError, match="'precision' is 'half': give 'auto', 'fp32' or 'bf16'"):
        written(model, tokenizer, ["a"], precision="half")


@pytest.mark.parametrize("prefill", [1, 3, 7])
def test_a_long_prompt_is_read_in_pieces(model, tokenizer, monkeypatch, prefill):
    whole = written(model, tokenizer, PROMPTS)
    assert max(map(len, PROMPTS)) > model.window > prefill - 3
    monkeypatch.setattr(writing, "PREFILL", prefill)
    assert written(model, tokenizer, PROMPTS) == whole


@pytest.mark.parametrize("cut", [{"top_k": 1, "top_p": 1.0}, {"top_p": 1e-9}], ids=["top-k 1", "top-p tiny"])
def test_cutting_all_but_one_token_off_is_greedy(model, tokenizer, cut):
    cold = written(model, tokenizer, PROMPTS)
    assert written(model, tokenizer, PROMPTS, Sampling(temperature=1.3, seed=8, **cut)) == cold


def test_a_seed_decides_the_text(model, tokenizer):
    one, again, other = (written(model, tokenizer, ["a"], Sampling(seed=seed)) for seed in (5, 5, 6))
    assert one == again
    assert one != other


def test_the_boundary_token_ends_a_text(tokenizer, monkeypatch):
    scripted(monkeypatch, [65, BOUNDARY, 66, 67], [97, 98, 99, BOUNDARY])
    lanes = written(byte_model(), tokenizer, ["x", "yz"], count=9)
    assert lanes == [[65], [97, 98, 99]]


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


STOPS = {
    "in one token": ("ab. cd", ["."], "ab"),
    "across tokens": ("one STOP two", ["STOP"], "one "),
    "at the very start": ("END of it", ["END"], ""),
    "never comes": ("one two", ["three"], "one two"),
    "only begins at the end": ("one two thr", ["three"], "one two thr"),
    "several, the first that comes": ("aXbYc", ["Y", "X"], "a"),
    "several, the first that is complete": ("abcde", ["abcd", "c"], "ab"),
    "several that end at once": ("xabc", ["bc", "abc"], "x"),
    "begins again inside itself": ("aaab!", ["aab"], "a"),
    "a false start": ("aab aac", ["aac"], "aab "),
    "more than one byte a character": ("Ruoŧŧa 🙂 ja", ["🙂"], "Ruoŧŧa "),
    "between characters of several bytes": ("Ruoŧŧa", ["ŧa"], "Ruoŧ"),
    "line ends": ("a\nb\n\nc", ["\n\n"], "a\nb"),
}


@pytest.mark.parametrize(("data", "stop", "expected"), STOPS.values(), ids=STOPS)
def test_a_text_ends_before_its_stop_string(tokenizer, monkeypatch, data, stop, expected):
    encoded = data.encode()
    scripted(monkeypatch, encoded)
    events = list(write(byte_model(), tokenizer, ["p"], max_new_tokens=len(encoded), sampling=Sampling(), stop=stop))
    *tokens, end = events
    assert isinstance(end, Ended)
    assert "".join(event.token.text for event in tokens) + end.rest == expected
    assert end.finish == ("length" if expected == data else "stop")
    shown = ""
    for event in tokens:  # nothing is ever shown that is not of the text
        shown += event.token.text
        assert expected.startswith(shown)
    scripted(monkeypatch, encoded)
    how = {"max_new_tokens": len(encoded), "sampling": Sampling(), "stop": stop}
    assert generate(byte_model(), tokenizer, ["p"], **how) == [expected]
    scripted(monkeypatch, encoded)
    assert "".join(stream(byte_model(), tokenizer, "p", **how)) == expected


class Pieces:
    """A tokenizer whose tokens are given."""

    def __init__(self, *tokens: bytes) -> None:
        self.token_bytes = tokens.__getitem__


def test_stop_strings_do_not_see_the_borders_of_tokens():
    data, stop = "xx abcd yŧ".encode(), ("abcd", "c", "yŧ")
    for first in range(len(data)):
        for second in range(first, len(data)):
            cut = [data[:first], data[first:second], data[second:]]
            text = GrowingText(Pieces(*cut), stop)
            written = ""
            for token in range(3):
                written += text.add(token)
                if text.stopped:
                    break
            assert written + text.rest() == "xx ab"


def test_streaming_holds_back_what_may_become_a_stop_string_and_no_more():
    text = GrowingText(Pieces(b"so a", b"b", b"c", b" abx", b"ab", b"cd!"), ("abcd",))
    assert [text.add(token) for token in range(6)] == ["so ", "", "", "abc abx", "", ""]
    assert text.stopped
    assert text.rest() == ""


def test_tokens_are_held_until_all_of_their_bytes_are_characters():
    mixed = GrowingText(Pieces(b"a\xc5", b"\xa7b", b"\xff", b"\xc5"))
    assert [*map(mixed.add, range(4)), mixed.rest()] == ["", "aŧb", "\ufffd", "", "\ufffd"]


def test_what_was_held_back_comes_at_the_end(tokenizer, monkeypatch):
    scripted(monkeypatch, b"one ST", [*b"two ST", BOUNDARY])
    texts = generate(byte_model(), tokenizer, ["", ""], max_new_tokens=7 - 1, sampling=Sampling(), stop="STOP")
    assert texts == ["one ST", "two ST"]


def test_the_prompt_does_not_stop_a_text(tokenizer, monkeypatch):
    scripted(monkeypatch, b"OP and on")
    how = {"max_new_tokens": 9, "sampling": Sampling(), "stop": ["STOP"]}
    assert generate(byte_model(), tokenizer, ["STOP ST"], **how) == ["OP and on"]


@pytest.mark.parametrize("stop", ["", [""], ["a", ""]], ids=str)
def test_an_empty_stop_string_is_told(tokenizer, stop):
    with pytest.raises(UserError, match="A stop string is empty"):
        write(byte_model(), tokenizer, ["a"], stop=stop)


@pytest.mark.parametrize("pattern", ["qfaf", "[xa]2f"])
def test_texts_that_have_ended_leave_the_others_as_they_were(tokenizer, pattern):
    """Every text goes on for itself, until its own stop string comes."""
    model = byte_model(pattern)
    prompts = ["a", "bc", "Ruoŧŧa", "d"]
    alone = [
        written(model, tokenizer, [prompt], Sampling(temperature=1.5, seed=lane), 40)[0]
        for lane, prompt in enumerate(prompts)
    ]
    stops = [tokenizer.decode([alone[0][3]]), tokenizer.decode([alone[2][11]])]
    together = written(model, tokenizer, prompts, Sampling(temperature=1.5), 40, stop=stops)
    for short, long in zip(together, alone, strict=True):
        assert long[: len(short)] == short
    assert len({len(lane) for lane in together}) > 1
    assert min(map(len, together)) <= 4


def test_many_texts_stream_side_by_side_and_in_order(tokenizer, monkeypatch):
    def start():
        scripted(monkeypatch, [*b"AB", BOUNDARY], b"abcd", [BOUNDARY])
        return stream_all(byte_model(), tokenizer, ["", "", ""], max_new_tokens=4, sampling=Sampling())

    assert [(lane, text) for lane, text, _ in start()] == [
        *[(0, "A"), (1, "a"), (2, "")],
        *[(0, "B"), (1, "b"), (0, ""), (1, "c"), (1, "d"), (1, "")],
    ]
    ordered = list(in_order(start()))
    assert [piece.lane for piece in ordered] == sorted(piece.lane for piece in ordered)
    assert [piece.lane for piece in ordered if piece.last] == [0, 1, 2]
    assert "".join(piece.text for piece in ordered) == "ABabcd"


@torch.no_grad()
def test_bits_are_the_models_own_before_anything_is_cut_off(tokenizer):
    """Of the prompt and of what is written, in a batch of prompts of different lengths."""
    model, sampling = byte_model(), Sampling(temperature=0.7, top_k=5, seed=2)
    told = [[] for _ in PROMPTS]
    for event in write(model, tokenizer, PROMPTS, max_new_tokens=8, sampling=sampling, bits=True):
        told[event.lane] += (
            event.tokens if isinstance(event, Read) else [event.token] if isinstance(event, Written) else []
        )
    for prompt, tokens in zip(PROMPTS, told, strict=True):
        ids = [BOUNDARY, *(token.id for token in tokens)]
        assert bytes(ids[1 : len(prompt.encode()) + 1]) == prompt.encode()
        logits, _ = model(torch.tensor([ids]))
        bits = -logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[:, 0] / np.log(2)
        assert [token.bits for token in tokens] == pytest.approx(bits.tolist(), abs=1e-3)


def test_no_bits_are_made_where_nobody_asks(tokenizer):
    events = list(write(byte_model(), tokenizer, ["abc"], max_new_tokens=2))
    assert not any(isinstance(event, Read) for event in events)
    assert all(np.isnan(event.token.bits) for event in events if isinstance(event, Written))


def test_nothing_to_write_is_an_end(tokenizer):
    assert list(write(byte_model(), tokenizer, ["a", "b"], max_new_tokens=0)) == [
        Ended(0, "", "length"),
        Ended(1, "", "length"),
    ]


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


ARCHITECTURES = {
    "hybrid": ("qf qf af qf", {}, "modern"),
    "stacking, post-norm": ("[qa]2f", {}, "classic"),
    "fused block": ("xfq", {}, "modern"),
    "qrnn": ("qqq", {"qrnn": {"kernel_size": 4, "pooling": "ifo"}}, "modern"),
    "transformer": ("afaf", {"attention": {"num_heads": 4, "num_kv_heads": 2}}, "modern"),
    "adaptive": ("qaf", {"adaptive": {"cutoffs": [30, 120], "div_val": 2}}, "modern"),
}


def adapter_of(native):
    from weft.hf import WeftConfig, WeftForCausalLM

    adapter = WeftForCausalLM(WeftConfig.of(native.config)).eval()
    adapter.load_state_dict(native.state_dict())
    return adapter


def by_transformers(native, tokenizer, prompts, count) -> list[list[int]]:
    """What ``generate`` of the adapter writes greedily: prompts padded on the left, ends filled up with padding."""
    ids = [[BOUNDARY, *tokenizer.encode(prompt).tolist()] for prompt in prompts]
    longest = max(map(len, ids))
    tokens = torch.tensor([[PADDING] * (longest - len(lane)) + lane for lane in ids])
    mask = (tokens != PADDING).long()
    written = adapter_of(native).generate(tokens, attention_mask=mask, max_new_tokens=count, do_sample=False)
    lanes = [lane[longest:].tolist() for lane in written]
    return [lane[: lane.index(BOUNDARY)] if BOUNDARY in lane else lane for lane in lanes]


@pytest.mark.parametrize(("pattern", "settings", "preset"), ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("prompts", [PROMPTS, ["Ruoŧŧa"]], ids=["a batch", "one"])
def test_greedy_writes_what_transformers_generate_writes(tokenizer, pattern, settings, preset, prompts):
    own = {"boundary_id": BOUNDARY, "padding_id": PADDING}
    model = small_model(pattern, {**settings, **own}, preset, vocab_size=258, seed=2)
    expected = by_transformers(model, tokenizer, prompts, 40)
    assert written(model, tokenizer, prompts, count=40, precision="fp32") == expected
    assert sum(map(len, expected)) > 20


@pytest.mark.parametrize("sampling", [GREEDY, WARM], ids=["greedy", "sampled"])
def test_the_form_of_the_decoder_is_not_seen_in_the_text(tokenizer, monkeypatch, sampling):
    model = byte_model("qf qf af qf")
    usual = written(model, tokenizer, PROMPTS, sampling, 60, precision="fp32")
    monkeypatch.setattr(writing, "make_decoder", lambda model, state, **_: PlainDecoder(model, state))
    assert written(model, tokenizer, PROMPTS, sampling, 60) == usual


@pytest.mark.parametrize("prefill", [1, 5])
def test_more_prompts_than_the_kernel_takes_are_written_as_a_few(model, tokenizer, monkeypatch, prefill):
    monkeypatch.setattr(writing, "PREFILL", prefill)
    prompts = [f"{number} prompts"[: number % 9 + 1] for number in range(34)]
    together = written(model, tokenizer, prompts, count=6)
    assert together == [written(model, tokenizer, [prompt], count=6)[0] for prompt in prompts]
