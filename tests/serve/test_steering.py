"""A server steers the texts that ask for it, and no others."""

from __future__ import annotations

import asyncio
import shutil

import pytest

import weft
from tests.serve.conftest import _ask, as_request, get
from weft.inside import vectors
from weft.inside.pairs import Pair

PAIRS = [Pair("", "abab" * n, "1212" * n) for n in range(1, 5)]


@pytest.fixture(scope="module")
def steered(folder, tmp_path_factory):
    own = tmp_path_factory.mktemp("steered") / "run"
    shutil.copytree(folder, own)
    run = weft.Run(own)
    vectors.save_vector(vectors.make_vector(run.model, run.tokenizer, PAIRS, "letters", sites="both"), own)
    return own


def ask(folder, *requests, together=False):
    from weft.serve.served import load_run

    return asyncio.run(_ask(load_run(folder), [as_request(request) for request in requests], together, None))


def test_two_requests_at_once_one_of_them_steered(steered):
    plain = {"prompt": "ab", "max_new_tokens": 30, "temperature": 0}
    requests = [("/weft/generate", plain | steer) for steer in ({"steer": {"letters": 5.0}}, {}) * 3]
    responses = [response.json() for response in ask(steered, *requests, together=True)]
    how = {"max_new_tokens": 30, "sampling": weft.Sampling(temperature=0), "precision": "fp32"}
    expected = [weft.generate(steered, "ab", steer=steer, **how) for steer in ({"letters": 5.0}, None)]
    assert [response["text"] for response in responses] == expected * 3
    assert expected[0] != expected[1]


def test_the_facts_list_the_vectors_and_a_wrong_one_is_refused(steered):
    facts, unknown, number, range_ = ask(
        steered,
        get("/weft/model"),
        ("/weft/generate", {"prompt": "a", "steer": {"words": 1}}),
        ("/weft/generate", {"prompt": "a", "steer": {"letters": "much"}}),
        ("/weft/generate", {"prompt": "a", "steer_range": "some"}),
    )
    assert facts.json()["vectors"] == ["letters"]
    assert facts.json()["depths"] == 4
    assert unknown.status_code == 422
    assert "there are letters" in unknown.json()["error"]["message"]
    assert number.status_code == range_.status_code == 422
    (completion,) = ask(steered, ("/v1/completions", {"prompt": "a", "steer": {"letters": 1}}))
    assert completion.status_code in (400, 422)  # OpenAI's endpoint has no such field
