"""transformers' completions, around one model: the right text, from the request's own seed."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from tests.serve.conftest import TEXT, get
from weft import api
from weft.data.tokenizers import BOUNDARY, PADDING
from weft.generation import Sampling

GREEDY = {"prompt": TEXT, "max_tokens": 30, "temperature": 0}


def text(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return str(choice["text"])


def streamed(response: httpx.Response) -> str:
    """Return the text of a stream of theirs."""
    chunks = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    return "".join(chunk["choices"][0]["text"] for chunk in chunks)


@pytest.mark.parametrize("prompt", [TEXT, "", " a", f"a{BOUNDARY}b{PADDING}"])
def test_a_greedy_completion_is_weft_generates(ask, folder, prompt):
    whole, stream = ask(
        ("/v1/completions", GREEDY | {"prompt": prompt}),
        ("/v1/completions", GREEDY | {"prompt": prompt, "stream": True, "model": "tiny"}),
    )
    expected = api.generate(folder, prompt, max_new_tokens=30, sampling=Sampling(temperature=0), precision="fp32")
    assert text(whole) == expected
    assert streamed(stream) == expected.rstrip("\ufffd")  # theirs streams no unfinished character
    assert whole.json()["usage"]["prompt_tokens"] == 1 + len(prompt.encode())


def test_the_run_may_be_named_by_its_path(ask, folder):
    answers = ask(*[("/v1/completions", GREEDY | {"model": name}) for name in (str(folder), str(folder.resolve()))])
    assert len({text(answer) for answer in answers}) == 1
    assert {answer.json()["model"] for answer in answers} == {"tiny"}


def test_the_same_seed_draws_the_same_text_and_no_seed_another(ask):
    warm = {"prompt": "a", "max_tokens": 40}
    one, other, again, free, free_again = ask(
        *[("/v1/completions", warm | seed) for seed in ({"seed": 1}, {"seed": 2}, {"seed": 1}, {}, {})]
    )
    assert text(one) == text(again)
    assert len({text(one), text(other), text(free), text(free_again)}) == 4


def test_settings_reach_the_generation(ask):
    cold, warm, cut, stopped, suffixed = ask(
        ("/v1/completions", GREEDY),
        ("/v1/completions", GREEDY | {"temperature": 1.0, "seed": 1}),
        ("/v1/completions", GREEDY | {"temperature": 1.0, "seed": 1, "top_p": 1e-6}),
        ("/v1/completions", GREEDY | {"frequency_penalty": 1.0}),
        ("/v1/completions", GREEDY | {"suffix": "!!"}),
    )
    assert text(warm) != text(cold) == text(cut)
    assert text(stopped) != text(cold)
    assert text(suffixed) == text(cold) + "!!"


def test_a_stop_string_stops(ask):
    (whole,) = ask(("/v1/completions", GREEDY | {"temperature": 1.0, "seed": 4}))
    stop = next(character for character in text(whole)[3:] if character.isascii() and character.isprintable())
    (stopped,) = ask(("/v1/completions", GREEDY | {"temperature": 1.0, "seed": 4, "stop": [stop]}))
    assert text(stopped) == text(whole)[: text(whole).index(stop) + 1]  # theirs keeps the stop string
    assert stopped.json()["choices"][0]["finish_reason"] == "stop"


def test_a_list_of_up_to_four_stop_strings_stops_at_the_first_that_comes(ask):
    warm = GREEDY | {"temperature": 1.0, "seed": 4}
    (whole,) = ask(("/v1/completions", warm))
    written = text(whole)
    stop = next(character for character in written[3:] if character.isascii() and character.isprintable())
    never = ["\0\0\0", "\0\1\0", "\1\1\1"]
    stopped, streaming, empty = ask(
        *[("/v1/completions", warm | more) for more in ({"stop": [*never, stop]}, {"stop": never}, {"stop": []})]
    )
    assert text(stopped) == written[: written.index(stop) + 1]
    assert text(streaming) == text(empty) == written


def test_a_prompt_may_come_as_a_list_of_one_string(ask):
    alone, listed = ask(("/v1/completions", GREEDY), ("/v1/completions", GREEDY | {"prompt": [TEXT]}))
    assert text(listed) == text(alone)


def test_one_model_is_listed(ask, folder):
    models, health, *retrieved = ask(
        get("/v1/models"), get("/health"), get("/v1/models/tiny"), get(f"/v1/models/{folder}")
    )
    (model,) = models.json()["data"]
    assert (model["id"], model["object"]) == ("tiny", "model")
    assert health.json() == {"status": "ok"}
    assert [answer.json() for answer in retrieved] == [model, model]


def test_nothing_is_looked_up_anywhere(ask, monkeypatch):
    """No request, right or wrong, opens a connection."""

    def refuse(*args: object) -> None:
        raise AssertionError(f"a connection to {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    answers = ask(
        ("/v1/completions", GREEDY),
        ("/v1/completions", GREEDY | {"model": "openai-community/gpt2"}),
        ("/load_model", {"model": "openai-community/gpt2"}),
        get("/v1/models"),
    )
    assert [answer.status_code for answer in answers] == [200, 404, 404, 200]


MIXED = [
    (path, {"prompt": prompt, length: 25, "temperature": 1.2, "seed": seed, "stream": seed % 2 == 0})
    for seed, prompt in enumerate(["", "a", TEXT, "漢字", "b" * 70, "Ruoŧŧa"])
    for path, length in (("/weft/generate", "max_new_tokens"), ("/v1/completions", "max_tokens"))
]


def without_what_differs(response: httpx.Response) -> str:
    """Return the answer without the times and names that each answer has of its own."""
    values = [
        json.loads(line.removeprefix("data: ")) for line in response.text.split("\n") if line.startswith(("{", "data"))
    ]
    for value in values:
        for key in ("seconds", "created", "id"):
            if key != "id" or "choices" in value:
                value.pop(key, None)
    return json.dumps(values)


def test_concurrent_requests_are_answered_as_if_alone(ask):
    from weft.serve.limits import Limits

    limits = Limits(running=4, waiting=20)
    alone = [without_what_differs(answer) for answer in ask(*MIXED, limits=limits)]
    together = [without_what_differs(answer) for answer in ask(*MIXED, together=True, limits=limits)]
    assert together == alone
    assert len(set(alone)) == len(alone)
