"""What one server takes on, and how it refuses the rest: a status and one sentence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from pydantic import Field

from weft.numbers import Count
from weft.settings import FrozenConfig


class Limits(FrozenConfig):
    """The bounds of a server.

    Attributes:
        body_bytes: the largest body of a request.
        text_bytes: the longest prompt or text to be scored, in UTF-8 bytes.
        new_tokens: the most tokens that one request may ask for.
        running: requests that the model works for at once.
        waiting: requests that may wait for their turn; the next one is refused.
    """

    body_bytes: Count = 1_000_000
    text_bytes: Count = 100_000
    new_tokens: Count = 4_096
    running: int = Field(default=2, gt=0, le=1024)
    waiting: Count = 16


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A request that is not served: an HTTP status and one sentence that says what to do instead."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})

    def to_json(self) -> dict[str, dict[str, str]]:
        """Return the body of the answer, in the shape that OpenAI's clients read."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.sentence, "type": kind}}


class Gate:
    """Lets ``running`` requests work at once and ``waiting`` more wait, in order; refuses the rest with 503."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._turns = asyncio.Semaphore(limits.running)
        self._waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and hold it; Refused where too many wait already."""
        if self._turns.locked() and self._waiting >= self._limits.waiting:
            raise Refused(503, "The server is busy: try again in a moment.", {"retry-after": "2"})
        # A request that is cancelled while it waits, as its client has left, no longer counts.
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()
