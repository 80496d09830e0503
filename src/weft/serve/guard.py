"""What stands before every endpoint: who may ask, how large a request may be, and what ends with a connection."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from weft.serve.limits import Limits, Refused

# Times the limit: so much of a body that is too large is read, so that the client gets to hear of it.
DRAINED = 16
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def is_loopback(host: str) -> bool:
    """Say whether a host name or address means this machine and nothing else."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _split(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:
        raise Refused(400, "The headers Host and Origin must be addresses.") from None


class Guard:
    """The outermost application. Checks each request, reads its body, and cancels its work when the client has gone.

    With ``loopback``, only requests that call the server by a loopback name are served: a web page whose own
    name was made to point here (DNS rebinding) is not. Pages of other origins are refused in any case.
    """

    def __init__(self, app: ASGIApp, limits: Limits, *, loopback: bool) -> None:
        self.app = app
        self.limits = limits
        self.loopback = loopback
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Cut short whatever is still being answered; the server is about to stop."""
        self._ending.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (the interface of ASGI)."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            self._check(Headers(scope=scope), scope["method"])
            body = await self._read(receive)
        except Refused as refused:
            await answer.refuse(refused)
            return
        if body is not None:
            await self._attend(scope, body, receive, answer)

    def _check(self, headers: Headers, method: str) -> None:
        # DNS rebinding: a page of another site reaches a local server by its own name.
        host = headers.get("host", "")
        if self.loopback and not is_loopback(_split(f"//{host}").hostname or ""):
            raise Refused(403, "This server is for this machine only: use localhost, or start it with another host.")
        # Browsers say whose page asks; programs that are no browsers say nothing.
        origin = headers.get("origin")
        if origin is not None and _split(origin).netloc.lower() != host.lower():
            raise Refused(403, "Pages of other origins may not use this server.")
        # A page of another site may send a form or plain text without asking first, but not JSON.
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if method == "POST" and kind != "application/json":
            raise Refused(415, "Send JSON, with the header 'Content-Type: application/json'.")

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the whole body, or None where the client left; Refused where it is too large."""
        parts: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(part)
            if size <= self.limits.body_bytes:
                parts.append(part)
            elif size > DRAINED * self.limits.body_bytes:  # it may never end
                break
        if size > self.limits.body_bytes:
            raise Refused(413, f"The body is larger than the {self.limits.body_bytes:,} bytes that this server takes.")
        return b"".join(parts)

    async def _attend(self, scope: Scope, body: bytes, receive: Receive, answer: _Answer) -> None:
        """Run the application until it has answered, the client has gone, or the server ends."""
        work = asyncio.ensure_future(self.app(scope, _Replay(body), answer))
        gone = asyncio.ensure_future(_disconnected(receive))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({work, gone, ending}, return_when=asyncio.FIRST_COMPLETED)
            if answer.complete:  # the client may leave as soon as it has all: the work still ends by itself
                await work
        finally:  # wait for all: what a cancelled request holds, such as its turn, is free only then
            for task in (work, gone, ending):
                task.cancel()
            await asyncio.wait({work, gone, ending})
        if not work.cancelled():
            work.result()  # raises what the application raised
        elif self._ending.is_set():
            await answer.cut()


class _Answer:
    """Sends an answer with the headers that every answer has, and knows how far it has come."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            MutableHeaders(scope=message).update(HEADERS)
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.complete = True
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer with a refusal."""
        body = json.dumps(refused.to_json()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), **refused.headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self({"type": "http.response.start", "status": refused.status, "headers": raw})
        await self({"type": "http.response.body", "body": body})

    async def cut(self) -> None:
        """End an answer that will not be finished."""
        if not self.started:
            await self.refuse(Refused(503, "The server is ending."))
        elif not self.complete:
            await self({"type": "http.response.body", "body": b""})


class _Replay:
    """Gives the application a body that was read already; after it, waits: leaving clients are looked after here."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def __call__(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()
        body = self._body
        self._body = None
        return {"type": "http.request", "body": body, "more_body": False}


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
