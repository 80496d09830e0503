"""Drawing a token: what temperature, top-k and top-p say, however few tokens are looked at."""

from __future__ import annotations

import numpy as np
import pytest

from weft.errors import UserError
from weft.generation import Sampling, draw


def test_cutting_off_keeps_the_likeliest_tokens():
    logits = np.log(np.float32([0.1, 0.4, 0.05, 0.3, 0.15]))

    def drawn(**settings) -> dict[int, float]:
        random, sampling = np.random.default_rng(0), Sampling(**settings)
        tokens = [draw(logits, sampling, random) for _ in range(2000)]
        return {token: tokens.count(token) / 2000 for token in set(tokens)}

    near = pytest.approx
    assert drawn(temperature=1.0, top_p=1.0) == near({0: 0.1, 1: 0.4, 2: 0.05, 3: 0.3, 4: 0.15}, abs=0.04)
    assert drawn(temperature=1.0, top_p=1.0, top_k=2) == near({1: 4 / 7, 3: 3 / 7}, abs=0.04)
    assert drawn(temperature=1.0, top_p=0.6) == near({1: 4 / 7, 3: 3 / 7}, abs=0.04)  # 0.4 alone is not enough
    assert drawn(temperature=1.0, top_p=0.3) == {1: 1.0}
    assert drawn(temperature=0.5, top_p=1.0, top_k=2) == near({1: 16 / 25, 3: 9 / 25}, abs=0.04)


def slow_draw(logits, sampling, random) -> int:
    """The definition: temperature, then top-k, then top-p, over the whole vocabulary in order."""
    order = np.lexsort((np.arange(len(logits)), -logits))
    weights = np.exp((logits[order].astype(np.float64) - logits.max()) / sampling.temperature)
    if sampling.top_k:
        weights[sampling.top_k :] = 0
    shares = weights / weights.sum()
    weights[np.cumsum(shares) - shares >= sampling.top_p] = 0
    by_id = np.zeros(len(logits))
    by_id[order] = weights
    return int(np.cumsum(by_id).searchsorted(random.random() * by_id.sum(), side="right"))


SETTINGS = [
    {"top_p": 1.0},
    {"top_p": 0.95},
    {"top_p": 0.3, "temperature": 1.5},
    {"top_k": 7, "top_p": 1.0},
    {"top_k": 900, "top_p": 0.9, "temperature": 2.0},
    {"top_k": 10**6, "top_p": 0.5},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0], ids=["flat", "usual", "sharp"])
@pytest.mark.parametrize("size", [11, 3000])
def test_a_draw_is_what_its_definition_says(settings, spread, size):
    """However few tokens are looked at, the same number draws the same token."""
    sampling, seen = Sampling(**settings), set()
    for seed in range(40):
        logits = (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)
        drawn = draw(logits, sampling, np.random.default_rng(seed))
        assert drawn == slow_draw(logits, sampling, np.random.default_rng(seed))
        seen.add(drawn)
    assert len(seen) > 2


@pytest.mark.parametrize("cut", [{"top_k": 2, "top_p": 1.0}, {"top_p": 0.5}], ids=str)
def test_of_equally_likely_tokens_those_with_lower_ids_are_kept(cut):
    logits = np.float32([1, 3, 3, 3, 3, 0])
    sampling, random = Sampling(temperature=1.0, **cut), np.random.default_rng(0)
    assert {draw(logits, sampling, random) for _ in range(200)} <= {1, 2, 3}
    assert {draw(logits, Sampling(top_k=2), random) for _ in range(200)} == {1, 2}


def test_what_cannot_be_drawn_never_is():
    logits = np.full(300, -np.inf, np.float32)
    logits[[5, 200]] = 0.0
    for chance in (0.0, 0.5, 1.0):
        random = type("Loaded", (), {"random": lambda _, chance=chance: chance})()
        for cut in (1.0, 0.95):
            assert draw(logits, Sampling(top_p=cut), random) in (5, 200)


def test_logits_that_are_no_numbers_are_told():
    for wrong in (np.nan, np.inf):
        with pytest.raises(UserError, match="training diverged"):
            draw(np.float32([0.0, wrong, 1.0]), Sampling(), np.random.default_rng(0))


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
