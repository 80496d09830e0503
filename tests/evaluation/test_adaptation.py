"""Dynamic evaluation learns from what was scored, on a copy, and from nothing else."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import small_model
from weft.data import TokenizedSplit
from weft.evaluation.adaptation import SWITCH, Adaptation, mix, score_adaptively, score_dynamically
from weft.evaluation.evaluate import evaluate_split
from weft.evaluation.scoring import score
from weft.recall import first_guess, look_back, mix_in
from weft.recall.constants import LONGEST

BOUNDARY = 9
TOKENIZER = SimpleNamespace(boundary_id=BOUNDARY, kind="closed-words")  # nothing is below its tokens


def split_of(*documents) -> TokenizedSplit:
    documents = [[BOUNDARY, *document] for document in documents]
    tokens = np.concatenate(documents).astype(np.uint16)
    size = len(tokens) - len(documents)
    return TokenizedSplit(tokens, np.cumsum([0, *map(len, documents)]), size, size, size)


def random_documents(*lengths, seed=0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, BOUNDARY, length).tolist() for length in lengths]


def adaptive(model, split, **settings) -> np.ndarray:
    return score_adaptively(model, split, Adaptation(**settings), boundary_id=BOUNDARY)


def bits_per_byte(nats, split) -> float:
    return float(nats.sum(dtype=np.float64)) / math.log(2) / split.bytes


@pytest.fixture(scope="module", params=["qfaf", "[xa]2f"])
def model(request):
    return small_model(request.param)


@pytest.fixture(scope="module")
def split():
    return split_of(*random_documents(50, 1, 130, 3, 64))


def test_the_weights_stay_bit_identical(model, split):
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    model.train()
    random = torch.get_rng_state()
    adaptive(model, split, segment=16, rate=0.1)
    assert model.training
    model.eval()
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in model.named_parameters():
        assert torch.equal(tensor, before[name]), name
        assert tensor.grad is None


@pytest.mark.parametrize("segment", [3, 32, 10_000])
def test_a_tiny_rate_equals_the_frozen_score(model, split, segment):
    frozen = score(model, split, boundary_id=BOUNDARY)
    nats = adaptive(model, split, segment=segment, rate=1e-12)
    np.testing.assert_allclose(nats, frozen, atol=2e-4)
    assert bits_per_byte(nats, split) == pytest.approx(bits_per_byte(frozen, split), abs=1e-5)


def test_the_first_segment_is_scored_before_anything_is_learned(model, split):
    nats = adaptive(model, split, segment=32, rate=0.1)
    frozen = score(model, split, boundary_id=BOUNDARY)
    np.testing.assert_allclose(nats[:33], frozen[:33], atol=2e-4)
    assert np.abs(nats - frozen)[34:50].max() > 0.01


def test_the_second_segment_is_scored_with_the_weights_moved_by_the_first(model):
    (document,) = random_documents(40)
    nats = adaptive(model, split_of(document), segment=20, rate=0.01, decay=0.1)
    moved = small_model(model.config.pattern)
    tokens = torch.tensor([[BOUNDARY, *document]])
    loss, _ = moved.loss(tokens[:, :20], tokens[:, 1:21])
    loss.backward()
    with torch.no_grad():
        _, state = model.hidden(tokens[:, :20])  # what was read with the weights as they were
        for parameter in moved.parameters():
            trained = parameter.clone()
            usual = parameter.grad.abs()
            step = 0.01 * parameter.grad / (usual + usual.mean() + 1e-12)
            parameter.copy_(trained - step + 0.1 * step)
    expected, _ = moved.surprisal(tokens[:, 20:40], tokens[:, 21:41], state)
    np.testing.assert_allclose(nats[21:], expected[0].numpy(), atol=1e-3)


@pytest.mark.parametrize("place", [10, 96, 97, 98, 150])
def test_nothing_is_learned_from_what_is_still_to_be_scored(model, split, place):
    """Everything before a changed token costs exactly the same, wherever it lies in its segment."""
    changed = split.tokens.copy()
    for later in range(place, len(changed)):
        changed[later] = changed[later] if changed[later] == BOUNDARY else (changed[later] + 1) % BOUNDARY
    other = TokenizedSplit(changed, split.offsets, split.bytes, split.characters, split.words)
    one, two = (adaptive(model, text, segment=32, rate=0.01) for text in (split, other))
    np.testing.assert_array_equal(one[:place], two[:place])
    assert not np.array_equal(one[place:], two[place:])


def test_repetitive_text_is_learned(model):
    split = split_of([1, 2, 3, 4, 5, 6, 7] * 100)
    told = evaluate_split(model, TOKENIZER, split, adapt=Adaptation(rate=0.01))
    assert told.bits_per_byte < 0.8 * told.bits_per_byte_frozen
    nats = adaptive(model, split, rate=0.01)
    assert nats[-128:].mean() < 0.5 * nats[:128].mean()


def test_the_frozen_figure_stands_beside_the_adaptive_one(model, split):
    frozen, how = evaluate_split(model, TOKENIZER, split), Adaptation(segment=16, rate=0.01)
    both = evaluate_split(model, TOKENIZER, split, adapt=how)
    assert frozen.bits_per_byte_frozen is None
    assert both.bits_per_byte_frozen == frozen.bits_per_byte
    nats = score_adaptively(model, split, how, boundary_id=BOUNDARY)
    assert both.bits_per_byte == pytest.approx(bits_per_byte(nats, split))
    assert both.bits_per_byte != frozen.bits_per_byte


def test_all_tokens_are_told_to_progress_and_documents_start_afresh(model, split):
    done = []
    nats = score_adaptively(model, split, Adaptation(segment=16), boundary_id=BOUNDARY, progress=done.append)
    assert sum(done) == split.scored_tokens
    assert (nats[split.offsets[:-1]] == 0).all()
    assert np.isfinite(nats).all()


def test_a_mixture_costs_hardly_more_than_its_best_scorer_and_follows_a_change():
    draw = np.random.default_rng(0)
    count = 2000
    nats = draw.uniform(0.5, 2.0, (3, count)).astype(np.float32)
    nats[1] -= 0.4
    bound = math.log(3) - count * math.log(1 - SWITCH)
    assert nats.min(axis=0).sum() < mix(nats).sum() < nats[1].sum() + bound
    nats[:] = 5.0
    nats[0, : count // 2] = nats[2, count // 2 :] = 1.0  # each is good for half of the text, and then bad
    assert mix(nats).mean() == pytest.approx(1.0, abs=0.05)
    assert mix(nats[:1]) == pytest.approx(nats[0], abs=1e-5)


def test_a_mixture_is_of_probabilities_and_weights_look_back_only():
    nats = -np.log(np.array([[0.5, 0.2, 0.25], [0.1, 0.6, 0.75]], dtype=np.float32))
    mixed = np.exp(-mix(nats, switch=0.0))
    weights = np.array([0.5 / 0.6, 0.1 / 0.6])
    assert mixed[:2] == pytest.approx([0.3, weights @ [0.2, 0.6]])
    weights = weights * [0.2, 0.6] / (weights @ [0.2, 0.6])
    assert mixed[2] == pytest.approx(weights @ [0.25, 0.75])


def test_several_learners_are_mixed_with_the_frozen_model_and_a_cache(model, split):
    frozen = score(model, split, boundary_id=BOUNDARY)
    hows = (Adaptation(rate=0.003), Adaptation(rate=0.03))
    each = [score_adaptively(model, split, how, boundary_id=BOUNDARY) for how in hows]
    mixed = score_dynamically(model, split, hows, boundary_id=BOUNDARY)
    learned = mix(np.stack([frozen, *each]))
    found = look_back(split.tokens, BOUNDARY, LONGEST)
    cached = mix_in(learned, np.asarray(split.tokens) != BOUNDARY, found, first_guess(), learn=True)
    assert np.abs(cached - learned).max() > 0.01
    assert mixed == pytest.approx(mix(np.stack([learned, cached])), abs=1e-6)
    one = score_dynamically(model, split, hows[0], boundary_id=BOUNDARY)
    assert one == pytest.approx(each[0], abs=1e-6)
    told = evaluate_split(model, TOKENIZER, split, adapt=hows)
    assert told.bits_per_byte == pytest.approx(bits_per_byte(mixed, split))
    assert told.bits_per_byte_frozen == pytest.approx(bits_per_byte(frozen, split))


def test_a_learner_that_diverges_loses_its_say_and_nothing_else():
    frozen = np.full(6, 2.0, dtype=np.float32)
    broken = np.array([1.0, np.nan, np.inf, np.nan, 1.0, 1.0], dtype=np.float32)
    mixed = mix(np.stack([frozen, broken]))
    assert np.isfinite(mixed).all()
    assert (mixed[1:4] > 2.0).all()  # what the broken one had to say is lost
    assert mixed.sum() < frozen.sum() - 6 * math.log(1 - SWITCH) + math.log(2)
