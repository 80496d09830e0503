"""What a text has said so far is mixed into a model's chances: exact counts, and nothing of what is still to come."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from weft.evaluation.cache import FIRST_SHARE, FIRST_WEIGHT, MOST_FOLLOWERS, MOST_SEEN, with_cache

BOUNDARY = 5  # and five other tokens


def text_of(*documents) -> np.ndarray:
    return np.concatenate([[BOUNDARY, *document] for document in documents]).astype(np.uint16)


def random_text(length, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, BOUNDARY, length)


def uniform(tokens) -> np.ndarray:
    return np.where(np.asarray(tokens) == BOUNDARY, 0, math.log(BOUNDARY)).astype(np.float32)


def by_hand(nats, tokens, longest) -> list[float]:
    """The same from its definition, token by token, with dictionaries."""
    followed, shares, result = defaultdict(Counter), {}, []
    for place, token in enumerate(tokens):
        contexts = [tuple(tokens[place - k : place]) for k in range(1, min(longest, place) + 1)]
        chance = math.exp(-nats[place])
        for context in contexts if token != BOUNDARY else ():
            counts = followed[context]
            if not counts:
                break
            total = sum(counts.values())
            key = len(context), min(int(math.log2(total)), MOST_SEEN - 1), min(len(counts), MOST_FOLLOWERS)
            came, seen = shares.get(key, (FIRST_SHARE * FIRST_WEIGHT, FIRST_WEIGHT))
            told = came / seen * counts[token] / total
            chance = (1 - came / seen) * chance + told
            shares[key] = came + told / chance, seen + 1
        for context in contexts:
            followed[context][token] += 1
        result.append(-math.log(chance))
    return result


@pytest.mark.parametrize("longest", [1, 3, 16])
def test_counts_of_all_lengths_at_once_are_those_token_by_token(longest):
    tokens = text_of(random_text(90), [1, 1, 1, 1, 1], random_text(1), [], random_text(60, seed=0), [2, 3] * 20)
    nats = np.random.default_rng(1).exponential(1.5, len(tokens)).astype(np.float32)
    nats[tokens == BOUNDARY] = 0
    assert with_cache(nats, tokens, BOUNDARY, longest) == pytest.approx(
        by_hand(nats, tokens.tolist(), longest), rel=1e-5
    )


def test_the_chances_of_all_next_tokens_are_one():
    before = text_of([0, 1, 2, 0, 1, 3, 0, 1, 2, 4, 4, 0, 1])
    texts = [np.append(before, token) for token in range(BOUNDARY)]
    chances = [math.exp(-with_cache(uniform(text), text, BOUNDARY)[-1]) for text in texts]
    assert sum(chances) == pytest.approx(1, abs=1e-6)
    assert chances[2] > 2 * chances[0] > 0


def test_nothing_is_known_of_what_comes():
    text = text_of(np.tile(random_text(20), 3))
    other = text.copy()
    other[40:] = 0
    assert (with_cache(uniform(text), text, BOUNDARY)[:40] == with_cache(uniform(other), other, BOUNDARY)[:40]).all()


def test_what_repeats_becomes_cheap_and_noise_hardly_dearer():
    again = text_of(*[random_text(200)] * 5)
    cost = with_cache(uniform(again), again, BOUNDARY)
    assert cost[202 * 3 :].sum() < 0.05 * uniform(again)[202 * 3 :].sum()
    noise = random_text(3000)
    assert with_cache(uniform(noise), noise, BOUNDARY).sum() < 1.02 * uniform(noise).sum()


@pytest.mark.parametrize("tokens", [[BOUNDARY], [BOUNDARY, 1], [BOUNDARY, 1, BOUNDARY]])
def test_a_text_with_nothing_to_look_back_at_is_the_models_alone(tokens):
    assert (with_cache(uniform(tokens), np.array(tokens), BOUNDARY) == uniform(tokens)).all()


def test_a_token_without_any_chance_is_infinite_until_the_text_has_said_it():
    nats = np.array([0, np.inf, 1, np.inf, 1, np.inf], dtype=np.float32)
    cost = with_cache(nats, np.array([BOUNDARY, 1, 2, 1, 2, 1]), BOUNDARY)
    assert np.isinf(cost[1])
    assert np.isfinite(cost[[2, 5]]).all()
