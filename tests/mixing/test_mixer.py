"""Mixed below the token, chances come to one, nothing to come is counted, and pieces are the whole."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from weft.mixing import ByteMixer, make_tree
from weft.mixing.mixer import KERNELS
from weft.recall.compiled import compiled

# Prefixes of one another, one byte that never stands alone, two special tokens.
VOCABULARY = [b"a", b"b", b"ab", b"abc", b" ", b"ba", b" ab", b"\xc3\xa9", b"", b""]
BOUNDARY = 8
TREE = make_tree(VOCABULARY, BOUNDARY)
V = len(VOCABULARY)
PRIMED = b"ab abc ba ab \xc3\xa9ab " * 40


def text_of(length: int, seed: int = 0) -> np.ndarray:
    tokens = np.random.default_rng(seed).integers(0, 8, length)
    tokens[::37] = BOUNDARY
    return tokens


def some_chances(length: int, sources: int = 2, seed: int = 1) -> np.ndarray:
    chances = np.random.default_rng(seed).exponential(1.0, (length, sources, V)) ** 2
    return chances / chances.sum(axis=2, keepdims=True)


def cumulated(chances_TSV: np.ndarray) -> np.ndarray:
    sums = np.zeros((*chances_TSV.shape[:2], len(TREE.ids_U) + 1))
    sums[..., 1:] = np.cumsum(chances_TSV[..., TREE.ids_U], axis=2)
    return sums


def mixer_of(text_bytes: int = 5000) -> ByteMixer:
    return ByteMixer(TREE, np.array([0.4, 0.6]), text_bytes)


@pytest.fixture(scope="module")
def read():
    """A mixer that has read something."""
    mixer = mixer_of()
    mixer.prime(PRIMED)
    mixer.score(text_of(300), cumulated(some_chances(300)))
    return mixer


def test_the_chances_of_all_tokens_are_one_at_every_place(read):
    mixer = copy.deepcopy(read)
    tokens = text_of(20, seed=5)
    chances = some_chances(20, seed=6)
    for place, token in enumerate(tokens):
        sums = cumulated(chances[place : place + 1])
        nats = []
        for other in range(V):
            if other != BOUNDARY:
                nats.append(copy.deepcopy(mixer).score(np.array([other]), sums)[0])
        special = math.exp(-nats[-1])  # the boundary, which nobody scores, has as much as the other without bytes
        assert np.exp(-np.array(nats)).sum() + special == pytest.approx(1, abs=1e-9)
        mixer.score(np.array([token]), sums)


def test_a_boundary_costs_nothing_and_ends_the_context(read):
    nats = copy.deepcopy(read).score(text_of(100), cumulated(some_chances(100)))
    assert (nats[text_of(100) == BOUNDARY] == 0).all()
    assert (nats[text_of(100) != BOUNDARY] > 0).all()


def test_pieces_are_the_whole(read):
    tokens = text_of(200, seed=3)
    sums = cumulated(some_chances(200, seed=4))
    whole = copy.deepcopy(read).score(tokens, sums)
    mixer = copy.deepcopy(read)
    pieces = [mixer.score(tokens[start : start + 7], sums[start : start + 7]) for start in range(0, 200, 7)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_nothing_to_come_is_counted(read):
    tokens = text_of(100, seed=3)
    other = tokens.copy()
    other[60:] = text_of(40, seed=9)
    chances = some_chances(100, seed=4)
    changed = chances.copy()
    changed[60:] = chances[60:, ::-1]
    one = copy.deepcopy(read).score(tokens, cumulated(chances))
    two = copy.deepcopy(read).score(other, cumulated(changed))
    np.testing.assert_array_equal(one[:60], two[:60])
    assert not np.array_equal(one[60:], two[60:])


def test_what_was_read_is_forgotten_and_trust_stays():
    mixer = mixer_of()
    mixer.prime(PRIMED)
    before = mixer.remember()
    tokens = text_of(200)
    sums = cumulated(some_chances(200))
    first = mixer.score(tokens, sums)
    mixer.go_back(before)
    again = mixer.score(tokens, sums)
    # The same random text would be cheap if it were known.
    assert again.sum() < first.sum()
    known = mixer.score(tokens, sums)
    assert known.sum() < 0.8 * again.sum()


def test_without_learning_a_text_changes_nothing_but_the_context(read):
    mixer = copy.deepcopy(read)
    mixer.learn = False
    tokens = np.tile(text_of(30, seed=8), 3)
    sums = cumulated(np.tile(some_chances(30, seed=9), (3, 1, 1)))
    nats = mixer.score(tokens, sums)
    np.testing.assert_array_equal(nats[30:60], nats[60:])
    for one, two in zip(mixer._trust, read._trust, strict=True):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(mixer._known.slots_CZF, read._known.slots_CZF)


def test_a_primed_text_is_cheap_when_it_comes_again():
    tokens = np.random.default_rng(2).integers(0, 7, 300)
    chances = np.full((300, 2, V), 1 / V)
    costs = []
    for primed in (b"", TREE.text(tokens, b"\n\n\n")):
        mixer = mixer_of()
        mixer.prime(primed)
        costs.append(mixer.score(tokens, cumulated(chances)).sum())
    assert costs[1] < 0.6 * costs[0]


def test_a_source_that_is_always_wrong_loses_its_say():
    tokens = text_of(1500, seed=2)
    right = np.full((1500, 2, V), 0.05)
    right[np.arange(1500), :, tokens] = 0.55
    wrong = right.copy()
    wrong[:, 1] = 1e-9
    wrong[np.arange(1500), 1, (tokens + 1) % 8] = 1
    good = mixer_of().score(tokens, cumulated(right))[750:].mean()
    hurt = mixer_of().score(tokens, cumulated(wrong))[750:].mean()
    assert hurt < good + 0.1


def test_what_is_no_number_gives_what_another_does():
    logits = np.zeros((3, V), dtype=np.float32)
    logits[0, 2] = 1
    logits[1] = np.nan
    logits[2, 4] = np.inf
    other = np.random.default_rng(0).dirichlet(np.ones(V), 3)
    chances = np.empty((3, V))
    sums = np.empty((3, len(TREE.ids_U) + 1))
    compiled("cumulate", KERNELS)(logits, other, TREE.ids_U, chances, sums)
    softmax = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert chances[0] == pytest.approx(softmax, rel=1e-6)
    assert chances[1:] == pytest.approx(other[1:])
    assert sums[:, -1] == pytest.approx(chances[:, TREE.ids_U].sum(axis=1))
    assert (sums[:, 0] == 0).all()


def test_vocabularies_that_cannot_be_used():
    assert make_tree([b"a", b"b", b"a", b""], 3) is None
    assert make_tree([b"", b""], 1) is None


def test_a_text_is_its_bytes():
    assert TREE.text(np.array([8, 3, 4, 7]), b"\n\n\n") == b"\n\n\nabc \xc3\xa9"
