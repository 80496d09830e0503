"""A served run with a memory of text: the figures of `weft evaluate` and `weft generate`, and off when asked."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest

import weft
from tests.serve.conftest import TEXT, _ask, as_request, get
from weft.recall import save_memory
from weft.recall.text_memory import make_memory

TOLD = {"test": {"bits_per_byte": 5.5, "bits_per_byte_frozen": 7.25, "bits_per_byte_memory": 5.5}}


@pytest.fixture(scope="module")
def remembering(folder, tmp_path_factory):
    """The run of the other tests with a memory of their text."""
    own = shutil.copytree(folder, tmp_path_factory.mktemp("runs") / "remembering")
    (own / "results.json").write_text(json.dumps(TOLD), encoding="utf-8")
    run = weft.Run(own)
    file = own / "text.txt"
    file.write_text(TEXT * 4, encoding="utf-8")
    from weft.reading import read_split

    text = read_split(own, run.tokenizer, file, "train")
    tokenizer = run.tokenizer
    memory = make_memory([("text", text)], vocab_size=tokenizer.vocab_size, boundary_id=tokenizer.boundary_id)
    save_memory(memory, own, tokenizer)
    return own


def ask(folder, *requests, memory=None):
    from weft.serve.served import load_run

    return asyncio.run(_ask(load_run(folder, memory), [as_request(request) for request in requests], False, None))


def test_scores_and_texts_are_those_of_the_run(remembering):
    run = weft.Run(remembering)
    write = {"prompt": TEXT[:9], "max_new_tokens": 12, "temperature": 0}
    requests = [("/weft/score", {"text": TEXT}), ("/weft/score", {"text": TEXT, "memory": False})]
    requests += [("/weft/generate", write), ("/weft/generate", write | {"memory": False})]
    scored, alone, written, plain = (response.json() for response in ask(remembering, *requests))
    sampling = weft.Sampling(temperature=0)
    assert scored["bits"] == pytest.approx(run.score(TEXT.strip("\n")), rel=1e-5)
    assert alone["bits"] == pytest.approx(run.score(TEXT.strip("\n"), memory=False), rel=1e-5)
    assert scored["bits"] < 0.7 * alone["bits"]
    assert written["text"] == run.generate(TEXT[:9], max_new_tokens=12, sampling=sampling)
    assert plain["text"] == run.generate(TEXT[:9], max_new_tokens=12, sampling=sampling, memory=False)
    assert written["text"] != plain["text"]
    assert written["bits"] < plain["bits"]


def test_the_facts_tell_the_weights_and_the_memory_apart(remembering):
    (told,) = ask(remembering, get("/weft/model"))
    facts = told.json()
    assert (facts["test_bits_per_byte"], facts["test_bits_per_byte_memory"]) == (7.25, 5.5)
    assert facts["memory_tokens"] == weft.Run(remembering).memory.tokens
    without, refused = ask(
        remembering, get("/weft/model"), ("/weft/score", {"text": "a", "memory": True}), memory=False
    )
    assert without.json()["test_bits_per_byte"] == 7.25
    assert without.json()["test_bits_per_byte_memory"] is None
    assert refused.status_code == 422
    assert "has no memory of text" in refused.json()["error"]["message"]
