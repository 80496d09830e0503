"""A client that leaves takes its work with it."""

from __future__ import annotations

import time

import httpx
import pytest

TOKENS = 4_000
ENDPOINTS = {"/weft/generate": "max_new_tokens", "/v1/completions": "max_tokens"}


@pytest.fixture
def steps(run):
    """Counts the tokens that either model reads."""
    count = [0]

    def counted(*_: object) -> None:
        count[0] += 1

    hooks = [model.register_forward_hook(counted) for model in (run.model, run.adapter)]
    yield count
    for hook in hooks:
        hook.remove()


def settled(steps: list[int]) -> int:
    """Return the number of steps once it has stopped growing."""
    before = -1
    while steps[0] != before:
        before = steps[0]
        time.sleep(0.3)
    return before


def asked(path: str, *, stream: bool) -> dict[str, object]:
    return {"prompt": "a", ENDPOINTS[path]: TOKENS, "stream": stream}


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_client_that_leaves_a_stream_stops_it(served, steps, path):
    with httpx.stream("POST", served + path, json=asked(path, stream=True), timeout=60) as response:
        for number, _ in enumerate(response.iter_lines()):
            if number == 20:
                break
    assert 0 < settled(steps) < TOKENS / 2


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_client_that_does_not_wait_for_an_answer_stops_it(served, steps, path):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(served + path, json=asked(path, stream=False), timeout=0.5)
    assert settled(steps) < TOKENS / 2
    (text,) = httpx.post(served + "/v1/completions", json={"max_tokens": 3}, timeout=60).json()["choices"]
    assert text["finish_reason"] == "length"


def test_a_score_that_nobody_waits_for_stops(served, run, monkeypatch):
    from weft.evaluation import scoring

    segments = scoring.segments
    count = [0]

    def slow(*args, **kwargs):
        for segment in segments(*args, **kwargs):
            count[0] += 1
            time.sleep(0.05)
            yield segment

    monkeypatch.setattr(scoring, "segments", slow)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(served + "/weft/score", json={"text": "a" * 90_000}, timeout=0.5)
    assert settled(count) < 90_000 / scoring.SEGMENT / 2
