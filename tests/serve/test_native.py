"""Our endpoints tell what ``weft generate`` and ``weft evaluate`` tell, in whole characters."""

from __future__ import annotations

import json

import pytest

import weft
from tests.serve.conftest import TEXT, events, get
from weft import generation
from weft.data.config import DEFAULT_SEPARATOR
from weft.generation import Sampling, writing

SETTINGS = {"prompt": TEXT, "max_new_tokens": 60, "temperature": 1.3, "top_k": 50, "top_p": 0.9, "seed": 5}


def test_what_is_written_is_what_weft_generate_writes(ask, folder):
    (response,) = ask(("/weft/generate", SETTINGS))
    sampling = Sampling(temperature=1.3, top_k=50, top_p=0.9, seed=5)
    told = response.json()
    assert told["text"] == weft.generate(folder, TEXT, max_new_tokens=60, sampling=sampling)
    assert told["finish"] == "length"
    assert told["tokens"] == len(told["written"]) == 60


def test_a_stream_tells_the_same_as_one_answer(ask):
    whole, stream = ask(("/weft/generate", SETTINGS), ("/weft/generate", SETTINGS | {"stream": True}))
    told, streamed = whole.json(), events(stream)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert [token for name, data in streamed if name == "prompt" for token in data["tokens"]] == told["prompt"]
    assert [data for name, data in streamed if name == "token"] == told["written"]
    name, done = streamed[-1]
    assert name == "done"
    assert "".join(token["text"] for token in told["written"]) + done["rest"] == told["text"]
    assert (done["bits"], done["bytes"]) == (told["bits"], told["bytes"])


def test_the_bits_of_a_written_text_are_those_of_reading_it(ask, folder, tmp_path, run):
    settings = SETTINGS | {"prompt": "Ruo", "top_k": 0}
    (response,) = ask(("/weft/generate", settings))
    told = response.json()
    tokens = told["prompt"] + told["written"]
    file = tmp_path / "written.txt"
    file.write_bytes(run.tokenizer.decode_bytes([token["id"] for token in tokens]))
    separator = DEFAULT_SEPARATOR.encode()
    assert separator not in file.read_bytes(), "choose a seed that writes one document"
    read = weft.Run(folder).token_bits(file)
    assert [token["bits"] for token in tokens] == pytest.approx([bits for _, bits in read], abs=1e-3)
    assert told["bits"] == pytest.approx(sum(bits for _, bits in read[3:]), abs=1e-3)
    assert told["bits_per_byte"] == told["bits"] / told["bytes"]


@pytest.mark.parametrize("text", [TEXT, "a", f"{TEXT * 3}\n\n\n\nAnother document.\r\n\r\n\r\nA third.\n"])
def test_a_score_is_that_of_weft_evaluate(ask, folder, tmp_path, run, text):
    (response,) = ask(("/weft/score", {"text": text}))
    told = response.json()
    file = tmp_path / "text.txt"
    file.write_bytes(text.encode())
    tokens = [token for document in told["documents"] for token in document]
    assert [(run.tokenizer.decode([token["id"]]), token["bits"]) for token in tokens] == weft.Run(folder).token_bits(
        file
    )
    metrics = weft.evaluate(folder, file)
    assert (told["bits_per_byte"], told["bytes"]) == (metrics.bits_per_byte, metrics.bytes)
    assert told["bits"] == pytest.approx(sum(token["bits"] for token in tokens))


def test_the_separator_is_that_of_the_runs_corpus(run):
    from weft.serve.reading import score_text

    one, two = (score_text(run.model, run.tokenizer, "a--b", separator=separator) for separator in ("\n", "--"))
    assert [len(document) for document in one.documents] == [4]
    assert [len(document) for document in two.documents] == [1, 1]
    assert (one.bytes, two.bytes) == (4, 2)


def test_text_comes_in_whole_characters(ask):
    (response,) = ask(("/weft/score", {"text": TEXT.strip()}))
    tokens = response.json()["documents"][0]
    assert len(tokens) == len(TEXT.strip().encode())
    assert "".join(token["text"] for token in tokens) == TEXT.strip()
    assert [token["text"] for token in tokens if token["text"]] == list(TEXT.strip())
    # ŧ takes two tokens: the first says nothing.
    assert [token["text"] for token in tokens[:7]] == ["R", "u", "o", "", "ŧ", "", "ŧ"]


def test_a_long_prompt_is_read_in_pieces_without_a_seam(ask, folder):
    prompt = TEXT * 70
    assert len(prompt.encode()) > 2 * generation.PREFILL
    written, scored = ask(
        ("/weft/generate", {"prompt": prompt, "max_new_tokens": 5}), ("/weft/score", {"text": prompt})
    )
    read = [token for document in scored.json()["documents"] for token in document]
    told = written.json()
    assert [t["bits"] for t in told["prompt"]][:-1] == pytest.approx([t["bits"] for t in read], abs=1e-3)
    assert told["text"] == weft.generate(folder, prompt, max_new_tokens=5)


def test_an_end_of_document_stops(ask, run, monkeypatch):
    script = iter([65, 66, run.tokenizer.boundary_id])
    monkeypatch.setattr(writing, "draw", lambda *_: next(script))
    (response,) = ask(("/weft/generate", {"prompt": "", "max_new_tokens": 9}))
    told = response.json()
    assert (told["text"], told["finish"], told["tokens"]) == ("AB", "stop", 2)


@pytest.mark.parametrize("stop", ["STOP", ["none", "STOP"]], ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_and_is_not_in_it(ask, monkeypatch, stop, stream):
    script = iter("ŧa STOP on".encode())
    monkeypatch.setattr(writing, "draw", lambda *_: next(script))
    asked = {"prompt": "", "max_new_tokens": 30, "stop": stop, "stream": stream}
    (response,) = ask(("/weft/generate", asked))
    if stream:
        streamed = events(response)
        told = streamed[-1][1]
        tokens = [data for name, data in streamed if name == "token"]
    else:
        told = response.json()
        tokens = told["written"]
        assert told["text"] == "ŧa "
    assert [token["text"] for token in tokens] == ["", "ŧ", "a", " ", "", "", "", ""]
    assert (told["finish"], told["tokens"], told["bytes"]) == ("stop", 8, 8)
    assert told["bits"] == pytest.approx(sum(token["bits"] for token in tokens))


def test_the_page_and_the_command_line_stop_at_the_same_place(ask, folder):
    settings = SETTINGS | {"stop": None}
    (whole,) = ask(("/weft/generate", settings))
    stop = whole.json()["text"][20]
    (response,) = ask(("/weft/generate", settings | {"stop": stop}))
    told = response.json()
    sampling = Sampling(temperature=1.3, top_k=50, top_p=0.9, seed=5)
    assert told["text"] == weft.generate(folder, TEXT, max_new_tokens=60, sampling=sampling, stop=stop)
    assert told["text"] == whole.json()["text"].split(stop)[0]


def test_facts(ask, run):
    (response,) = ask(get("/weft/model"))
    facts = response.json()
    assert facts["name"] == "tiny"
    assert facts["pattern"] == "qfaf"
    assert facts["parameters"] == run.model.parameter_count
    assert facts["body_parameters"] == run.model.body_parameter_count < facts["parameters"]
    assert facts["test_bits_per_byte"] == 7.25
    assert facts["limits"]["new_tokens"] == 4096


def test_a_run_without_results_has_no_test_figure(folder, tmp_path):
    from weft.serve.served import load_run

    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "results.json").write_text(json.dumps({"test": None}), encoding="utf-8")
    assert load_run(tmp_path).facts["test_bits_per_byte"] is None
