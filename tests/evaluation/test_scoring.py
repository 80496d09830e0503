"""Scoring: the fast way over lanes and segments gives what feeding each document token by token gives."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import weft
from tests.conftest import small_config, small_model
from weft.data import TokenizedSplit, train_tokenizer
from weft.evaluation import scoring
from weft.evaluation.evaluate import evaluate_split
from weft.evaluation.metrics import compute_metrics
from weft.model import WeftModel
from weft.pretrained import save_model

BOUNDARY = 9
LONG = 530
MODELS = {"modern": ("qfaf", "modern", LONG), "classic, fused, applied twice": ("[xa]2f", "classic", 60)}


def split_of(lengths, seed=0) -> TokenizedSplit:
    """Documents of that many random tokens, each after its boundary."""
    draw = np.random.default_rng(seed)
    documents = [np.array([BOUNDARY, *draw.integers(0, BOUNDARY, length)]) for length in lengths]
    tokens = np.concatenate(documents).astype(np.uint16)
    size = sum(lengths)
    return TokenizedSplit(tokens, np.cumsum([0, *map(len, documents)]), 2 * size, size, 1 + size // 5)


@torch.no_grad()
def token_by_token(model, tokens, offsets) -> np.ndarray:
    """The nats of every token, one call of the model each."""
    nats = np.zeros(len(tokens))
    for start, stop in pairwise(offsets):
        state = None
        for place in range(start, stop - 1):
            logits, state = model(torch.tensor([[int(tokens[place])]]), state)
            nats[place + 1] = -logits[0, 0].double().log_softmax(-1)[int(tokens[place + 1])]
    return nats


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def known(request):
    """A model whose memory is shorter than the documents, a split, and the nats of each token."""
    pattern, preset, longest = request.param
    model, split = small_model(pattern, preset=preset), split_of((1, 17, longest, 1, 40, 2, 5, 30))
    assert model.window < 17
    return model, split, token_by_token(model, split.tokens, split.offsets)


def assert_equal_nats(nats, expected, size):
    np.testing.assert_allclose(nats, expected, atol=2e-4)
    assert abs(nats.sum(dtype=np.float64) - expected.sum()) / math.log(2) / size < 1e-5


def test_the_ends_of_documents_are_scored_beside_the_text(known):
    model, split, expected = known
    cut = np.zeros(split.documents, dtype=bool)
    cut[2] = True
    split = replace(split, cut=cut)
    ends = np.full(split.documents, np.nan, dtype=np.float32)
    nats = scoring.score(model, split, boundary_id=BOUNDARY, ends=ends)
    assert_equal_nats(nats, expected, split.bytes)
    followed = np.concatenate([np.append(split.document(i), BOUNDARY) for i in range(split.documents)])
    offsets = split.offsets + np.arange(split.documents + 1)
    alone = token_by_token(model, followed, offsets)[offsets[1:] - 1]
    alone[2] = np.nan
    np.testing.assert_allclose(ends, alone, atol=2e-4)


def test_every_token_is_scored_as_if_fed_alone(known):
    model, split, expected = known
    assert LONG > scoring.SEGMENT
    done = []
    nats = scoring.score(model, split, boundary_id=BOUNDARY, progress=done.append)
    assert nats.dtype == np.float32
    assert_equal_nats(nats, expected, split.bytes)
    assert (nats[split.offsets[:-1]] == 0).all()
    assert (np.delete(nats, split.offsets[:-1]) > 0).all()
    assert sum(done) == split.scored_tokens == np.isfinite(nats).sum() - split.documents


@pytest.mark.parametrize(("lanes", "segment"), [(1, 512), (3, 7), (16, 3), (5, 64), (2, 10_000)])
def test_lanes_and_segments_do_not_matter(known, monkeypatch, lanes, segment):
    model, split, expected = known
    monkeypatch.setattr(scoring, "LANES", lanes)
    monkeypatch.setattr(scoring, "SEGMENT", segment)
    assert_equal_nats(scoring.score(model, split, boundary_id=BOUNDARY), expected, split.bytes)


def test_many_documents_fill_every_lane():
    model, split = small_model("qfaf"), split_of([3 + n % 9 for n in range(40)])
    expected = token_by_token(model, split.tokens, split.offsets)
    (piece,) = scoring.segments(split, lanes=16, length=512, boundary_id=BOUNDARY, device=torch.device("cpu"))
    assert len(piece.inputs_BT) == 16
    assert_equal_nats(scoring.score(model, split, boundary_id=BOUNDARY), expected, split.bytes)


def test_a_long_document_is_not_scored_beside_padding():
    """Eleven short documents beside one that is far longer: their lane is the only other one."""
    split = split_of((5_000, *[40] * 11))
    pieces = scoring.segments(split, lanes=16, length=512, boundary_id=BOUNDARY, device=torch.device("cpu"))
    assert {len(piece.inputs_BT) for piece in pieces} == {2}


class OneByteATokens:
    """A tokenizer as far as counting bytes goes."""

    @staticmethod
    def decode_bytes(tokens):
        return bytes(int((np.asarray(tokens) != BOUNDARY).sum()))


def test_the_first_part_is_scored_as_in_the_whole(known):
    model, split, expected = known
    for tokens in (1, 2, 3, 10, 19, 20, 21, 500, len(split.tokens) - 1, len(split.tokens), 10**6):
        part = scoring.first_part(split, tokens, OneByteATokens)
        assert len(part.tokens) - min(tokens, len(split.tokens)) in (0, 1)
        nats = scoring.score(model, part, boundary_id=BOUNDARY)
        np.testing.assert_allclose(nats, expected[: len(nats)], atol=2e-4)
        assert part.bytes == split.bytes if part is split else part.bytes == part.scored_tokens


@pytest.mark.parametrize("tokens", [1, 40, 1024, 3000, 20_000, 70_000])
@pytest.mark.parametrize(
    "lengths", [(99_999,), (40,) * 2000, (1,) * 50_000, (30_000, *[7] * 4000, 20_000, 15_000)], ids=len
)
def test_a_spread_part_comes_from_all_over_the_text(lengths, tokens):
    split = split_of(lengths)
    part = scoring.spread_part(split, tokens, OneByteATokens)
    assert 0.5 * tokens <= len(part.tokens) <= max(3, tokens) < len(split.tokens)
    assert (part.tokens[part.offsets[:-1]] == BOUNDARY).all()
    assert (np.diff(part.offsets) > 1).all()  # no document without text
    assert part.bytes == part.scored_tokens == (part.tokens != BOUNDARY).sum()
    again = scoring.spread_part(split, tokens, OneByteATokens)
    np.testing.assert_array_equal(part.tokens, again.tokens)


def test_a_text_that_drifts_is_spread_evenly_and_not_its_head():
    places = np.concatenate([[60_000], np.arange(50_000)]).astype(np.uint16)  # each token tells where it stands
    split = TokenizedSplit(places, np.array([0, 50_001]), 50_000, 50_000, None)
    part = scoring.spread_part(split, 10_000, SimpleNamespace(decode_bytes=lambda tokens: b"x" * len(tokens)))
    text = part.tokens[part.tokens < 60_000].astype(int)
    assert (np.diff(text) > 0).all()
    ninths = np.histogram(text, bins=9, range=(0, 50_000))[0]
    assert ninths.sum() >= 9_900
    assert ninths.min() > 1000


def test_whole_documents_of_a_spread_part_are_scored_as_in_the_whole(known):
    model, _, _ = known
    split = split_of([3 + n % 9 for n in range(400)])
    part = scoring.spread_part(split, 1100, OneByteATokens)
    whole, nats = (scoring.score(model, each, boundary_id=BOUNDARY) for each in (split, part))
    first = int(part.offsets[0])
    size = int(np.diff(part.offsets[:20]).sum())
    np.testing.assert_allclose(nats[first : first + size], whole[:size], atol=2e-4)
    assert scoring.spread_part(split, len(split.tokens), OneByteATokens) is split


def test_scoring_leaves_the_model_as_it_was(known):
    _, split, expected = known
    model = small_model("qfaf", {"dropout": 0.5}).train()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    random = torch.get_rng_state()
    one, other = (scoring.score(model, split, boundary_id=BOUNDARY) for _ in range(2))
    np.testing.assert_array_equal(one, other)  # no dropout while scoring
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.named_parameters())
    assert len(one) == len(expected)


def test_figures_by_hand():
    split = TokenizedSplit(np.zeros(13, np.uint16), np.array([0, 5, 13]), bytes=20, characters=16, words=4)
    told = compute_metrics(32 * math.log(2), split, 1.5)
    assert told.bits_per_byte == pytest.approx(32 / 20)
    assert told.bits_per_character == pytest.approx(32 / 16)
    assert told.perplexity_per_token == pytest.approx(2 ** (32 / 11))
    assert told.perplexity_per_word == pytest.approx(2 ** (32 / 4))
    assert (told.tokens, told.bytes, told.seconds) == (11, 20, 1.5)
    assert "bits_per_byte_frozen" not in told.to_json()
    assert compute_metrics(1.0, split, 0.0, frozen=3.0).to_json()["bits_per_byte_frozen"] == 3.0


def test_figures_that_cannot_be_told_are_none_and_huge_ones_finite():
    split = TokenizedSplit(np.zeros(3, np.uint16), np.array([0, 3]), bytes=2, characters=None, words=None)
    told = compute_metrics(1e6, split, 0.0)
    assert told.bits_per_character is None
    assert told.perplexity_per_word is None
    assert math.isfinite(told.perplexity_per_token)


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory) -> tuple:
    """A folder with a model over bytes, and the model."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), train_tokenizer("bytes", (), 258)
    model = small_model("a", vocab_size=258)
    save_model(model, tokenizer, folder)
    return folder, model


def brute_force_bits(model, data: bytes) -> float:
    documents = [[256, *document] for document in data.split(b"\n\n\n")]
    tokens = [token for document in documents for token in document]
    return token_by_token(model, tokens, np.cumsum([0, *map(len, documents)])).sum() / math.log(2)


def test_evaluate_counts_every_byte_of_the_documents(byte_model, tmp_path):
    folder, model = byte_model
    data = "Ruoŧŧa lea riika.\n\n\nx\n\n\n".encode() + b"A longer one, \n\nin two paragraphs. " * 4
    (tmp_path / "text.txt").write_bytes(data)
    told = weft.evaluate(folder, tmp_path / "text.txt")
    size = len(data) - 6  # the separators belong to no document
    assert told.bytes == told.tokens == size
    assert told.bits_per_byte == pytest.approx(brute_force_bits(model, data) / size, abs=1e-5)
    assert told.bits_per_character == pytest.approx(told.bits_per_byte * size / (len(data.decode()) - 6))
    words = len(data.decode().split())
    assert math.log2(told.perplexity_per_word) == pytest.approx(told.bits_per_byte * size / words)


def test_bytes_that_are_no_text_are_scored_too(byte_model, tmp_path):
    folder, model = byte_model
    data = bytes(range(256)) + b"\xff\xfe\x00"
    (tmp_path / "data.txt").write_bytes(data)
    told = weft.evaluate(folder, [tmp_path / "data.txt"])
    assert told.bits_per_byte == pytest.approx(brute_force_bits(model, data) / len(data), abs=1e-5)
    assert (told.bits_per_character, told.perplexity_per_word) == (None, None)


def test_a_longer_memory_changes_the_reach_and_nothing_else(byte_model, tmp_path):
    folder, model = byte_model
    longer = weft.load(folder, window=20)
    assert longer.window == 20
    built = WeftModel(small_config("a", {"attention": {"window": 20}}, vocab_size=258)).eval()
    built.load_state_dict(model.state_dict())
    for name, tensor in longer.named_parameters():
        assert torch.equal(tensor, model.get_parameter(name)), name
    data = bytes(np.random.default_rng(1).integers(97, 123, 80).tolist())
    (tmp_path / "text.txt").write_bytes(data)
    told = weft.evaluate(folder, tmp_path / "text.txt", window=20).bits_per_byte
    assert told == pytest.approx(brute_force_bits(built, data) / 80, abs=1e-5)
    assert abs(told - weft.evaluate(folder, tmp_path / "text.txt").bits_per_byte) > 1e-3


def test_a_longer_memory_matters_only_beyond_the_shorter_one(byte_model):
    folder, model = byte_model
    draw = np.random.default_rng(2)
    tokens = np.array([256, *draw.integers(0, 256, 40)], np.uint16)
    split = TokenizedSplit(tokens, np.array([0, 41]), 40, None, None)
    short, long = (scoring.score(m, split, boundary_id=256) for m in (model, weft.load(folder, window=20)))
    reach = model.window  # positions 0 to `memory` see the same; each predicts the token after it
    np.testing.assert_allclose(short[: reach + 2], long[: reach + 2], atol=1e-5)
    assert (np.abs(short - long)[reach + 2 :] > 1e-5).all()


def test_figures_leave_ends_out_and_tell_of_repeated_lines(tmp_path):
    model, split = small_model("qf"), split_of((30, 20, 10))
    tokenizer = SimpleNamespace(boundary_id=BOUNDARY)
    plain = evaluate_split(model, tokenizer, split)
    assert plain.bits_per_end is not None
    assert plain.bits_per_end > 0
    assert plain.bits_per_byte_new is None
    assert "repeated_bytes" not in plain.to_json()
    repeated = np.zeros(len(split.tokens), dtype=bool)
    repeated[1:31] = True  # the first document, of two bytes a token
    told = evaluate_split(model, tokenizer, replace(split, repeated=repeated, repeated_bytes=60))
    assert told.bits_per_byte == plain.bits_per_byte
    nats = scoring.score(model, split, boundary_id=BOUNDARY)
    assert told.bits_per_byte_new == pytest.approx(float(nats[31:].sum()) / math.log(2) / 60)
    everything = evaluate_split(model, tokenizer, replace(split, repeated=repeated | True, repeated_bytes=split.bytes))
    assert everything.bits_per_byte_new is None
    assert everything.repeated_bytes == everything.bytes
