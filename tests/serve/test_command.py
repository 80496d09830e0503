"""``weft serve`` itself: it starts, answers, ends, and says in a sentence why it cannot start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from weft import cli, serve
from weft.errors import UserError


@pytest.fixture(scope="module")
def command(folder):
    """The real command on a free port; gives its process and its address."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "weft", "serve", str(folder), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    address = next(filter(None, (re.search(r"http://[\d.:]+", line) for line in process.stderr)), None)
    assert address, "the server has ended without telling its address"
    yield process, address[0]
    process.kill()
    process.wait()
    process.stderr.close()


def test_completions_and_models_by_plain_http(command):
    _, address = command
    (model,) = httpx.get(f"{address}/v1/models").json()["data"]
    body = {"model": model["id"], "prompt": "Ruoŧŧa", "max_tokens": 8, "stream": True}
    with httpx.stream("POST", f"{address}/v1/completions", json=body, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: {") for line in lines)
    assert '"completion_tokens":8' in lines[-1]


def test_the_openai_client(command):
    openai = pytest.importorskip("openai", reason="the openai client is not installed")
    with openai.OpenAI(base_url=f"{command[1]}/v1", api_key="none", max_retries=0) as client:
        (model,) = client.models.list().data
        settings = {"model": model.id, "prompt": "Ruoŧŧa", "max_tokens": 8, "temperature": 0}
        whole = client.completions.create(**settings)
        parts = client.completions.create(**settings, stream=True)
        assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text.rstrip("\ufffd")
        with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
            client.completions.create(model="gpt2", prompt="a")
        assert client.models.retrieve(model.id) == model
        listed = client.completions.create(**settings | {"prompt": [settings["prompt"]]}, stop=["\0", "\x01"])
        assert listed.choices[0].text == whole.choices[0].text
        with pytest.raises(openai.BadRequestError, match="does not chat"):
            client.chat.completions.create(model=model.id, messages=[{"role": "user", "content": "a"}])


def test_a_port_in_use_is_one_sentence(command, folder, monkeypatch, capsys):
    port = command[1].rpartition(":")[2]
    monkeypatch.setattr(sys, "argv", ["weft", "serve", str(folder), "--port", port])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert f"cannot listen at 127.0.0.1, port {port} (Address already in use)" in " ".join(
        capsys.readouterr().err.split()
    )


def test_ctrl_c_ends_it_in_the_middle_of_a_text(command):
    process, address = command
    body = {"prompt": "a", "max_new_tokens": 4_000, "stream": True}
    with httpx.stream("POST", f"{address}/weft/generate", json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines) == "event: prompt"
        process.send_signal(signal.SIGINT)
        assert "event: done" not in list(lines)
    assert process.wait(20) == 130
    assert process.stderr.read() == "The server has ended.\n"


def test_a_missing_extra_is_one_sentence(folder, monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(
        UserError, match=r"^'weft serve' needs uvicorn: install it with pip install 'weft-lm\[serve\]'\.$"
    ):
        serve.require_extra()


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path):
    from weft.serve.limits import Limits
    from weft.serve.server import serve as serve_run

    with pytest.raises(UserError, match="not a run directory"):
        serve_run(tmp_path, host="127.0.0.1", port=0, limits=Limits(), tell=print)


@pytest.mark.parametrize(("host", "warned"), [("0.0.0.0", True), ("localhost", False)])
def test_an_address_that_others_reach_is_warned_of(folder, monkeypatch, host, warned):
    from weft.serve import server
    from weft.serve.limits import Limits

    started = []
    monkeypatch.setattr(server, "_run", lambda app, _: started.append(app))
    told: list[str] = []
    server.serve(folder, host=host, port=0, limits=Limits(), tell=told.append)
    assert [text.startswith("Warning") for text in told] == [True, False][not warned :]
    assert started[0].loopback is not warned


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1"])
def test_an_address_that_is_not_here_is_one_sentence(monkeypatch, host):
    from weft.serve.server import listen

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if host.endswith("invalid"):
        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match=rf"cannot listen at {host}, port 0 \(.+\): choose another"):
        listen(host, 0)
