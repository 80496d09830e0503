"""Dynamic evaluation mixed below the token: side by side, nothing to come, and a broken learner does no harm."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.conftest import small_model
from tests.evaluation.test_adaptation import BOUNDARY, random_documents, split_of
from weft.data import TokenizedSplit
from weft.evaluation.adaptation import Adaptation, score_dynamically
from weft.evaluation.scoring import score
from weft.mixing import make_tree
from weft.recall import make_memory

MODEL = small_model("qf")
V = MODEL.config.vocab_size
# Of the other tokens nobody asks; each has bytes of its own.
TOKENS = [b"a", b"b", b"ab", b"abc", b" ", b"ba", b" ab", b"c", b"ca"]
TREE = make_tree([*TOKENS, b"", *(b"z%d" % token for token in range(10, V))], BOUNDARY)
SPLIT = split_of(*random_documents(50, 1, 70, 3, 64))
OTHER = split_of(*random_documents(90, 40, seed=1))
HOWS = (Adaptation(rate=0.01),)


def below(split=SPLIT, hows=HOWS, **settings) -> np.ndarray:
    return score_dynamically(MODEL, split, hows, boundary_id=BOUNDARY, tree=TREE, **settings)


def test_boundaries_cost_nothing_and_the_rest_is_finite():
    nats = below()
    assert (nats[SPLIT.offsets[:-1]] == 0).all()
    assert np.isfinite(nats).all()
    assert (nats[np.asarray(SPLIT.tokens) != BOUNDARY] > 0).all()


@pytest.mark.parametrize("place", [10, 33, 97, 150])
def test_nothing_is_learned_from_what_is_still_to_be_scored(place):
    changed = SPLIT.tokens.copy()
    later = changed[place:]
    later[later != BOUNDARY] = (later[later != BOUNDARY] + 1) % BOUNDARY
    other = TokenizedSplit(changed, SPLIT.offsets, SPLIT.bytes, None, None)
    memory = make_memory([("other", OTHER)], vocab_size=V, boundary_id=BOUNDARY)
    one = below(memory=memory, warm_up=OTHER)
    two = below(other, memory=memory, warm_up=OTHER)
    np.testing.assert_array_equal(one[:place], two[:place])
    assert not np.array_equal(one[place:], two[place:])


def test_all_tokens_are_told_to_progress_and_the_model_is_as_it_was():
    before = [parameter.detach().clone() for parameter in MODEL.parameters()]
    done: list[int] = []
    below(warm_up=OTHER, progress=done.append)
    assert sum(done) == SPLIT.scored_tokens + OTHER.scored_tokens
    for one, two in zip(before, MODEL.parameters(), strict=True):
        assert (one == two).all()


def test_learners_with_segments_of_any_length_go_side_by_side():
    hows = [Adaptation(rate=1e-12, segment=length) for length in (3, 32, 50, 10_000)]
    each = [below(hows=[how]) for how in hows]
    for nats in each[1:]:
        np.testing.assert_allclose(nats, each[0], atol=1e-3)
    assert np.isfinite(below(hows=hows)).all()


def test_a_learner_that_diverges_does_no_harm():
    frozen = score(MODEL, SPLIT, boundary_id=BOUNDARY)
    nats = below(hows=(Adaptation(rate=1e30),))
    assert np.isfinite(nats).all()
    assert nats.sum() < 1.1 * frozen.sum()


def test_repetitive_text_is_learned():
    split = split_of([1, 2, 3, 4, 5, 6, 7] * 60)
    nats = below(split)
    assert nats[-100:].mean() < 0.2 * math.log(V)


def test_what_is_remembered_is_cheap():
    memory = make_memory([("it", SPLIT)], vocab_size=V, boundary_id=BOUNDARY)
    assert below(memory=memory).sum() < 0.8 * below().sum()
