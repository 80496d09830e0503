"""A tiny run over bytes, so that characters take several tokens, and ways to ask its server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.test_generation import byte_model
from weft.data import train_tokenizer
from weft.pretrained import save_model
from weft.serve import require_extra
from weft.serve.limits import Limits

TEXT = "Ruoŧŧa ja 漢字 <b>& 😀</b>\n"


def pytest_collection_modifyitems(items):
    try:
        require_extra()
    except ValueError as missing:
        for item in items:
            if "/serve/" in item.path.as_posix():
                item.add_marker(pytest.mark.skip(reason=str(missing)))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The run directory."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    save_model(byte_model(), train_tokenizer("bytes", (), 258), folder)
    (folder / "results.json").write_text(json.dumps({"test": {"bits_per_byte": 7.25}}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def run(folder):
    from weft.serve.served import load_run

    return load_run(folder)


@pytest.fixture
def ask(run):
    """Ask a fresh server one request after another (or all ``together``); return the responses."""

    def ask(*requests: httpx.Request | tuple[str, Any], together: bool = False, limits: Limits | None = None):
        return asyncio.run(_ask(run, [as_request(request) for request in requests], together, limits))

    return ask


def as_request(request: httpx.Request | tuple[str, Any]) -> httpx.Request:
    """Turn ``(path, JSON)`` into a POST."""
    if isinstance(request, httpx.Request):
        return request
    return httpx.Request("POST", f"http://localhost{request[0]}", json=request[1])


def get(path: str, **kwargs: Any) -> httpx.Request:
    return httpx.Request("GET", f"http://localhost{path}", **kwargs)


async def _ask(run, requests, together, limits):
    from weft.serve.app import build_app

    app = build_app(run, limits)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), timeout=60) as client:
        if together:
            return await asyncio.gather(*(client.send(request) for request in requests))
        return [await client.send(request) for request in requests]


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    """Return the events of a stream of ours."""
    parts = [part.split("\n") for part in response.text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def sentence(response: httpx.Response) -> str:
    """Return the sentence of a refusal."""
    message = response.json()["error"]["message"]
    assert isinstance(message, str)
    assert message.endswith(".")
    return message


@pytest.fixture
def served(run) -> Iterator[str]:
    """The address of a real server, in a thread."""
    import uvicorn

    from weft.serve.app import build_app
    from weft.serve.server import listen

    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(build_app(run), log_level="error", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()
