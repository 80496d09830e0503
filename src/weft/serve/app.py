"""The application: our endpoints and the page, and transformers' application behind the OpenAI-compatible ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.errors import UserError
from weft.serve.guard import Guard
from weft.serve.limits import Gate, Limits, Refused
from weft.serve.messages import CompletionRequest, check_length, parse
from weft.serve.native import Generate, Score
from weft.serve.served import ServedRun
from weft.serve.upstream import SEED, openai_app
from weft.serve.worker import Worker

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
NO_CHAT = "This server goes on with a text and does not chat: use /v1/completions with a 'prompt'."


def build_app(run: ServedRun, limits: Limits | None = None, *, loopback: bool = True) -> Guard:
    """Return the whole application for ``run``; ``loopback``: it may only be called by a loopback name."""
    limits = limits or Limits()
    gate = Gate(limits)
    worker = Worker(limits.running)
    upstream = openai_app(run.adapter, run.adapter_tokenizer, run.listing)
    routes = [
        *(Route(path, _asset(*asset)) for path, asset in PAGE.items()),
        Route("/weft/model", _facts(run, limits)),
        Route("/weft/generate", Generate(run, limits, gate, worker), methods=["POST"]),
        Route("/weft/score", Score(run, limits, gate, worker), methods=["POST"]),
        Route("/v1/completions", Completions(run, limits, gate, upstream), methods=["POST"]),
        Route("/v1/models", Forward(upstream), methods=["GET"]),
        Route("/v1/models/{name:path}", _listing(run), methods=["GET"]),
        Route("/health", Forward(upstream), methods=["GET"]),
        Route("/v1/chat/completions", _no_chat, methods=["POST"]),
        Route("/v1/responses", _no_chat, methods=["POST"]),
    ]
    handlers: Any = {Refused: _refused, UserError: _mistaken, HTTPException: _not_served, Exception: _failed}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), limits, loopback=loopback)


class Forward:
    """Hands a request to transformers' application as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (the interface of ASGI)."""
        await self._app(scope, receive, send)


class Completions:
    """``POST /v1/completions``: checks the request, then hands it to transformers' application."""

    def __init__(self, run: ServedRun, limits: Limits, gate: Gate, app: ASGIApp) -> None:
        self._run = run
        self._limits = limits
        self._gate = gate
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (the interface of ASGI)."""
        asked = parse(CompletionRequest, await Request(scope, receive).body())
        self._run.check_name(asked.model)
        tokens = asked.max_tokens or 0
        check_length(self._limits, field="prompt", text=asked.text, tokens_field="max_tokens", tokens=tokens)
        # What was checked is sent on, not what came, so the body has another length.
        body = json.dumps(asked.for_upstream(self._run.name, self._limits)).encode()
        headers = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
        scope = {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
        SEED.set(asked.seed)  # of this request: each runs in a context of its own
        async with self._gate.turn():
            await self._app(scope, _with_body(body, receive), send)


def _with_body(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives ``body`` in place of the one that was read, then goes on."""
    given = iter([body])

    async def receive_body() -> Message:
        for whole in given:
            return {"type": "http.request", "body": whole, "more_body": False}
        return await receive()

    return receive_body


def _asset(name: str, media_type: str) -> Callable[[Request], Response]:
    content = (files("weft.serve") / "page" / name).read_bytes()
    # Browsers ask again each time, or they would show the page of an earlier version.
    return lambda _: Response(content, media_type=media_type, headers={"cache-control": "no-cache"})


def _facts(run: ServedRun, limits: Limits) -> Callable[[Request], Response]:
    told = run.facts | {"limits": limits.model_dump()}
    return lambda _: JSONResponse(told)


def _listing(run: ServedRun) -> Callable[[Request], Response]:
    def listing(request: Request) -> Response:
        run.check_name(request.path_params["name"])
        return JSONResponse(run.listing)

    return listing


def _no_chat(_: Request) -> Response:
    raise Refused(400, NO_CHAT)


def _refused(_: Request, refused: Refused) -> Response:
    return JSONResponse(refused.to_json(), refused.status, refused.headers)


def _mistaken(request: Request, mistake: UserError) -> Response:
    return _refused(request, Refused(400, str(mistake)))


def _not_served(request: Request, error: HTTPException) -> Response:
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        return _refused(request, Refused(405, f"'{request.url.path}' takes {allowed}.", error.headers))
    return _refused(request, Refused(error.status_code, f"There is nothing at '{request.url.path}'."))


def _failed(request: Request, _: Exception) -> Response:
    return _refused(request, Refused(500, "Something went wrong in the server: its terminal says what."))
