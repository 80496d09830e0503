"""What is wrong is refused with a status and a sentence, and the server lives."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.serve.conftest import get, sentence
from weft.serve import messages
from weft.serve.limits import Limits
from weft.serve.messages import CompletionRequest, GenerateRequest, ScoreRequest

JSON = {"content-type": "application/json"}


def raw(content: bytes, path="/weft/generate", headers=JSON) -> httpx.Request:
    return httpx.Request("POST", f"http://localhost{path}", content=content, headers=headers)


def generate(**fields):
    return ("/weft/generate", {"prompt": "a", "max_new_tokens": 2} | fields)


def complete(**fields):
    return ("/v1/completions", {"prompt": "a", "max_tokens": 2} | fields)


WRONG = [
    (raw(b'{"prompt": '), 400, "not JSON"),
    (raw(b""), 400, "not JSON"),
    (raw(b"\xff\xfe"), 400, "not JSON"),
    (raw(b'{"prompt": "\\ud800"}'), 400, "not JSON"),
    (raw(b'{"temperature": NaN}'), 422, "'temperature'"),
    (raw(b"[" * 100_000), 400, "not JSON"),
    (raw(b'{"seed": 1' + b"0" * 5_000 + b"}"), 400, "not JSON"),
    (raw(b"{}", headers={"content-type": "text/plain"}), 415, "application/json"),
    (raw(b"{}", headers={}), 415, "application/json"),
    (raw(b'{"prompt": "' + b"a" * 1_000_000 + b'"}'), 413, "1,000,000 bytes"),
    (raw(b"a" * 3_000_000), 413, "1,000,000 bytes"),
    (("/weft/generate", [1]), 422, "JSON object"),
    (generate(promt="a"), 422, "'promt' is not a field"),
    (generate(prompt=3), 422, "'prompt'"),
    (generate(prompt=None), 422, "'prompt'"),
    (generate(prompt=["a"]), 422, "'prompt'"),
    (generate(prompt="ŧ" * 50_001), 413, "100,002 bytes"),
    (generate(max_new_tokens="5"), 422, "'max_new_tokens'"),
    (generate(max_new_tokens=1.5), 422, "'max_new_tokens'"),
    (generate(max_new_tokens=True), 422, "'max_new_tokens'"),
    (generate(max_new_tokens=0), 422, "'max_new_tokens'"),
    (generate(max_new_tokens=5_000), 422, "at most 4,096"),
    (generate(temperature=-1), 422, "'temperature'"),
    (generate(temperature=1e308), 422, "'temperature'"),
    (complete(temperature=1e308), 422, "'temperature'"),
    (generate(top_p=0), 422, "'top_p'"),
    (generate(top_k=-1), 422, "'top_k'"),
    (generate(seed=-1), 422, "'seed'"),
    (generate(stream="yes"), 422, "'stream'"),
    (generate(stop=""), 422, "'stop'"),
    (generate(stop=["a", ""]), 422, "'stop'"),
    (generate(stop=list("abcde")), 422, "'stop'"),
    (("/weft/score", {}), 422, "'text'"),
    (("/weft/score", {"text": ""}), 422, "'text'"),
    (("/weft/score", {"text": "\n\n\n"}), 422, "nothing but line ends"),
    (("/weft/score", {"text": "a" * 100_001}), 413, "100,001 bytes"),
    (complete(model="gpt2"), 404, "no model 'gpt2' here: this server has 'tiny'"),
    (complete(model="../tiny"), 404, "no model"),
    (complete(model=5), 422, "'model'"),
    (complete(prompt=["a", "b"]), 422, "'prompt'"),
    (complete(prompt=[1, 2]), 422, "'prompt'"),
    (complete(prompt=[]), 422, "'prompt' must be one string"),
    (complete(prompt=["a" * 100_001]), 413, "100,001 bytes"),
    (complete(prompt="a" * 100_001), 413, "100,001 bytes"),
    (complete(max_tokens="many"), 422, "'max_tokens'"),
    (complete(max_tokens=1 << 70), 422, "'max_tokens'"),
    (complete(max_tokens=5_000), 422, "at most 4,096"),
    (complete(temperature=-0.1), 422, "'temperature'"),
    (complete(temperature="hot"), 422, "'temperature'"),
    (complete(top_p=1.1), 422, "'top_p'"),
    (complete(seed="x"), 422, "'seed'"),
    (complete(stop=""), 422, "'stop'"),
    (complete(stop=["a"] * 5), 422, "'stop'"),
    (complete(stop=[1]), 422, "'stop'"),
    (complete(n=2), 422, "'n'"),
    (complete(logprobs=3), 422, "'logprobs'"),
    (complete(echo=True), 422, "'echo'"),
    (complete(frequency_penalty=-1), 422, "'frequency_penalty'"),
    (complete(presence_penalty=1), 422, "'presence_penalty'"),
    (complete(logit_bias={"5": 100}), 422, "'logit_bias'"),
    (complete(generation_config='{"max_new_tokens": 1000000}'), 422, "'generation_config' is not a field"),
    (raw(b"{", "/v1/completions"), 400, "not JSON"),
    (get("/v1/models/gpt2"), 404, "no model 'gpt2' here: this server has 'tiny'"),
    (("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}), 400, "does not chat"),
    (("/v1/responses", {"input": "a"}), 400, "does not chat"),
    (("/v1/audio/transcriptions", {}), 404, "nothing at"),
    (("/v1/systemone", {}), 404, "nothing at"),
    (("/load_model", {"model": "gpt2"}), 404, "nothing at"),
    (("/reset", {}), 404, "nothing at"),
    (get("/docs"), 404, "nothing at"),
    (get("/page/../../../etc/passwd"), 404, "nothing at"),
    (get("/weft/generate"), 405, "takes POST"),
    (get("/weft/model", headers={"host": "evil.example"}), 403, "this machine only"),
    (get("/weft/model", headers={"host": "["}), 400, "must be addresses"),
    (get("/weft/model", headers={"origin": "http://["}), 400, "must be addresses"),
    (get("/weft/model", headers={"host": "localhost.evil.example:8000"}), 403, "this machine only"),
    (get("/weft/model", headers={"origin": "https://evil.example"}), 403, "other origins"),
    (get("/weft/model", headers={"origin": "null"}), 403, "other origins"),
]


def test_what_is_wrong_is_refused_with_a_sentence_and_the_server_lives(ask):
    *answers, good, better = ask(*(request for request, _, _ in WRONG), generate(), complete())
    for (_, status, part), answer in zip(WRONG, answers, strict=True):
        assert (answer.status_code, part in sentence(answer)) == (status, True), (part, answer.text)
    assert (good.status_code, better.status_code) == (200, 200)


TAKES = [
    (generate(stop=list("abcde")), "'stop' must be a string, or a list of up to 4, each of 1 to 256 characters."),
    (generate(seed=-1), "'seed' must be a whole number from 0 to 2^62 - 1."),
    (complete(prompt=["a", "b"]), "'prompt' must be one string: ask once for each prompt."),
    (complete(temperature="hot"), "'temperature' must be a number from 0 to 100."),
    (complete(n=2), "'n' must be 1 here: for another text, ask again with another seed."),
    (complete(logprobs=3), "'logprobs' must be null here: /weft/generate tells the bits of every token."),
    (complete(stream=1), "'stream' must be true or false."),
    (("/weft/score", {}), "'text' is missing: it must be a string that is not empty."),
]


def test_a_refusal_says_what_the_field_takes(ask):
    assert [sentence(answer) for answer in ask(*(request for request, _ in TAKES))] == [told for _, told in TAKES]


@pytest.mark.parametrize("kind", [ScoreRequest, GenerateRequest, CompletionRequest])
def test_every_field_has_its_words(kind):
    assert set(kind.model_fields) <= set(messages.TAKES)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "127.0.0.2"])
def test_loopback_names_are_served(ask, host):
    (answer,) = ask(get("/weft/model", headers={"host": host, "origin": f"http://{host}"}))
    assert answer.status_code == 200


def test_a_server_for_the_network_takes_any_name(run):
    import asyncio

    from weft.serve.app import build_app

    async def names() -> list[int]:
        app = build_app(run, loopback=False)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            return [(await client.get(f"http://{name}/weft/model")).status_code for name in ("my.host", "10.0.0.5")]

    assert asyncio.run(names()) == [200, 200]


def test_answers_open_nothing_to_other_origins(ask):
    asked = [get("/"), get("/page.js"), get("/v1/models"), get("/nothing"), generate(stream=True), complete()]
    preflight = httpx.Request(
        "OPTIONS", "http://localhost/v1/completions", headers={"access-control-request-method": "POST"}
    )
    for answer in ask(*asked, preflight):
        assert not [name for name in answer.headers if name.startswith("access-control") or name == "set-cookie"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_full_queue_is_refused_and_the_others_are_served(ask):
    limits = Limits(running=1, waiting=2)
    answers = ask(*[generate(max_new_tokens=40)] * 6, together=True, limits=limits)
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 200, 200, 503, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert sentence(refused) == "The server is busy: try again in a moment."
    assert refused.headers["retry-after"]


def test_a_turn_is_given_back(ask):
    answers = ask(*[generate(), complete(), ("/weft/score", {"text": "a"})] * 3, limits=Limits(running=1, waiting=1))
    assert {answer.status_code for answer in answers} == {200}


def test_a_body_that_lies_about_its_length_is_bounded(run):
    """Chunks without a length are counted as they come."""
    import asyncio

    from weft.serve.app import build_app

    async def chunks():
        for _ in range(40):
            yield b"a" * 100_000

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(run))) as client:
            return await client.post("http://localhost/weft/score", content=chunks(), headers=JSON)

    assert asyncio.run(send()).status_code == 413


def test_refusals_are_json_that_openai_clients_read(ask):
    (answer,) = ask(complete(model="gpt2"))
    assert json.loads(answer.text)["error"]["type"] == "invalid_request_error"
