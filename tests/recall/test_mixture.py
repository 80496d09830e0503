"""A model and a memory together are a distribution, exact in pieces, and know nothing of what comes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.recall.texts import (
    BOUNDARY,
    VOCABULARY,
    CountsByHand,
    class_by_hand,
    memory_of,
    random_text,
    some_nats,
    split_of,
    uniform,
)
from weft.recall import first_guess, look_back, mix_in
from weft.recall.constants import LONGEST
from weft.recall.shares import FIRST_SHARE, FIRST_WEIGHT

KNOWN = split_of(random_text(400), [1, 2, 3, 4] * 30, random_text(50, seed=3))
TEXT = split_of(random_text(100), [1, 2, 3, 4, 1, 2, 3], random_text(30, seed=3), [])


@pytest.fixture(scope="module")
def memory():
    return memory_of(KNOWN).fitted(some_nats(TEXT), TEXT)


def is_text(split):
    return np.asarray(split.tokens) != BOUNDARY


def chain_by_hand(nats, split, memory):
    """The mixture from its equation, token by token."""
    counts = CountsByHand(LONGEST)
    counts.read_all(KNOWN)
    counts.document = []
    mixed = []
    for token, cost in zip(split.tokens, nats, strict=True):
        chance = math.exp(-cost)
        if token != BOUNDARY:
            for k, (seen, said, different) in enumerate(counts.look(token)):
                share = memory.shares.share_KC[k, class_by_hand(seen, different)]
                chance = (1 - share) * chance + share * said / seen
        mixed.append(-math.log(chance))
        counts.document = [int(token)] if token == BOUNDARY else [*counts.document, int(token)]
    return mixed


def test_the_mixture_is_that_of_the_equation(memory):
    nats = some_nats(TEXT)
    assert memory.mix(nats, TEXT) == pytest.approx(chain_by_hand(nats, TEXT, memory), rel=1e-5, abs=1e-6)
    assert np.abs(memory.mix(nats, TEXT) - nats)[is_text(TEXT)].max() > 0.1


def test_a_text_in_pieces_costs_what_it_costs_whole(memory, monkeypatch):
    whole = memory.mix(some_nats(TEXT), TEXT)
    monkeypatch.setattr("weft.recall.text_memory.CHUNK", 7)
    assert (memory.mix(some_nats(TEXT), TEXT) == whole).all()


def test_at_every_place_the_chances_of_all_tokens_are_one_and_those_that_are_scored(memory):
    nats = some_nats(TEXT)
    mixed = memory.mix(nats, TEXT)
    for place in np.flatnonzero(is_text(TEXT)):
        begin = TEXT.offsets[np.searchsorted(TEXT.offsets, place, side="right") - 1]
        logits = np.random.default_rng(int(place)).normal(size=VOCABULARY).astype(np.float32)
        # The model gives the token that stands here the chance that its nats say.
        token = int(TEXT.tokens[place])
        others = np.exp(np.delete(logits, token)).sum()
        chance = math.exp(-nats[place])
        logits[token] = math.log(others * chance / (1 - chance))
        logits += 3  # a softmax does not mind
        memory.mix_logits(logits, TEXT.tokens[:place][-40:].tolist())
        assert np.exp(logits.astype(np.float64)).sum() == pytest.approx(1, abs=1e-5)
        assert -logits[token] == pytest.approx(mixed[place], rel=1e-4, abs=1e-4)
        document = TEXT.tokens[begin : place + 1].tolist()
        read = memory.mix_read(nats[[place]], document, slice(len(document) - 1, len(document)))
        assert read == pytest.approx(mixed[[place]], rel=1e-6)


def test_nothing_is_known_of_what_comes(memory):
    other = split_of(random_text(100), [1, 2, 3, 4, 1, 2, 3], random_text(30, seed=4), [])
    same = len(TEXT.tokens) - 31
    nats = uniform(TEXT)
    assert (memory.mix(nats, TEXT)[:same] == memory.mix(nats, other)[:same]).all()
    learning = []
    for split in (TEXT, other):
        found = look_back(split.tokens, BOUNDARY, LONGEST, memory.found(split))
        learning.append(mix_in(nats, is_text(split), found, memory.shares.remembered(50.0), learn=True)[:same])
    assert (learning[0] == learning[1]).all()


def test_fitting_suits_the_text_better_with_every_round(monkeypatch):
    nats = uniform(TEXT)
    costs = []
    for rounds in (1, 2, 5, 30):
        monkeypatch.setattr("weft.recall.shares.ROUNDS", rounds)
        costs.append(memory_of(KNOWN).fitted(nats, TEXT).mix(nats, TEXT).sum())
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < memory_of(KNOWN).mix(nats, TEXT).sum() < nats.sum()


def test_shares_of_one_token_are_what_expectation_maximisation_says():
    found = look_back(np.array([BOUNDARY, 1, BOUNDARY, 1]), BOUNDARY, 1)
    nats = np.array([0, 1, 0, 1], dtype=np.float32)
    shares = first_guess(1)
    mixed = mix_in(nats, np.array([False, True, False, True]), found, shares, learn=True)
    chance = (1 - FIRST_SHARE) * math.exp(-1) + FIRST_SHARE  # 1 always followed the boundary
    assert mixed[3] == pytest.approx(-math.log(chance))
    kind = class_by_hand(1, 1)
    assert shares.asked_KC[0, kind] == FIRST_WEIGHT + 1
    assert shares.given_KC[0, kind] == pytest.approx(FIRST_SHARE * FIRST_WEIGHT + FIRST_SHARE / chance)


def test_each_half_is_scored_by_the_shares_of_the_other():
    text = split_of(random_text(200, seed=1), [1, 2, 3, 4] * 25)
    nats = uniform(text)
    memory = memory_of(KNOWN)
    crossed = memory.cross_fitted(nats, text)
    middle = len(nats) // 2
    half = split_of(text.tokens[1:middle])
    by_first = memory.fitted(nats[:middle], half).mix(nats, text)
    assert (crossed[middle:] == by_first[middle:]).all()
    assert crossed.sum() >= memory.fitted(nats, text).mix(nats, text).sum()


def test_what_repeats_becomes_cheap_and_noise_hardly_dearer():
    again = split_of(*[random_text(200)] * 5)
    noise = split_of(random_text(3000))
    costs = []
    for text in (again, noise):
        found = look_back(text.tokens, BOUNDARY, LONGEST)
        costs.append(mix_in(uniform(text), is_text(text), found, first_guess(), learn=True))
    assert costs[0][201 * 3 :].sum() < 0.05 * uniform(again)[201 * 3 :].sum()
    assert costs[1].sum() < 1.02 * uniform(noise).sum()


def test_a_token_without_any_chance_is_infinite_until_the_text_has_said_it():
    nats = np.array([0, np.inf, 1, np.inf, 1, np.inf], dtype=np.float32)
    tokens = np.array([BOUNDARY, 1, 2, 1, 2, 1])
    found = look_back(tokens, BOUNDARY, LONGEST)
    cost = mix_in(nats, tokens != BOUNDARY, found, first_guess(), learn=True)
    assert np.isinf(cost[1])
    assert np.isfinite(cost[[2, 5]]).all()


def test_how_much_of_a_text_stands_in_the_memory_word_for_word(memory):
    assert memory.copied(split_of(random_text(400))) == pytest.approx((400 - LONGEST) / 400, abs=0.01)
    assert memory.copied(split_of(random_text(400, seed=9))) == 0
