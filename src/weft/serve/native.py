"""Weft's own endpoints: text with the surprisal of every token."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from weft.generation import Event, Read, Sampling, Written, write
from weft.generation.steering import Steering
from weft.recall import TextMemory
from weft.serve.limits import Gate, Limits
from weft.serve.messages import GenerateRequest, ScoreRequest, check_length, parse
from weft.serve.reading import Scored, Totals, score_text
from weft.serve.served import ServedRun
from weft.serve.worker import Worker


class Native:
    """What the native endpoints share."""

    def __init__(self, run: ServedRun, limits: Limits, gate: Gate, worker: Worker) -> None:
        self.run = run
        self.limits = limits
        self.gate = gate
        self.worker = worker


class Score(Native):
    """``POST /weft/score``: the bits of a text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (the interface of ASGI)."""
        asked = parse(ScoreRequest, await Request(scope, receive).body())
        check_length(self.limits, field="text", text=asked.text)
        memory = self.run.asked_memory(asked.memory)
        async with self.gate.turn():
            parts = self.worker.stream(lambda stop: self._score(asked.text, memory, stop))
            async with aclosing(parts):
                scored = await anext(parts)
                await JSONResponse(scored.to_json())(scope, receive, send)

    def _score(self, text: str, memory: TextMemory | None, stop: threading.Event) -> Iterator[Scored]:
        run = self.run

        def progress(_: int) -> None:
            if stop.is_set():
                raise _Stopped

        yield score_text(run.model, run.tokenizer, text, separator=run.separator, memory=memory, progress=progress)


class Generate(Native):
    """``POST /weft/generate``: a text that goes on from a prompt, at once or as a stream of events."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (the interface of ASGI)."""
        asked = parse(GenerateRequest, await Request(scope, receive).body())
        check_length(
            self.limits,
            field="prompt",
            text=asked.prompt,
            tokens_field="max_new_tokens",
            tokens=asked.max_new_tokens,
        )
        # What is refused is, before anything is written.
        self.run.asked_memory(asked.memory)
        steer = self.run.asked_steering(asked.steer, everywhere=asked.steer_range == "all")
        async with self.gate.turn(), aclosing(self._events(asked, steer)) as events:
            if asked.stream:
                response: Response = StreamingResponse(_sent(events), media_type="text/event-stream")
            else:
                response = JSONResponse(await _gathered(events))
            await response(scope, receive, send)

    async def _events(
        self, asked: GenerateRequest, steer: Steering | None
    ) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """Yield the prompt's tokens, each token that is written, and what there is to say at the end."""
        started = time.perf_counter()
        totals = Totals()
        async with aclosing(self.worker.stream(lambda _: self._write(asked, steer))) as events:
            async for event in events:
                if isinstance(event, Read):
                    yield "prompt", {"tokens": [vars(token) for token in event.tokens]}
                elif isinstance(event, Written):
                    totals.add(event.token.bits, len(self.run.tokenizer.token_bytes(event.token.id)))
                    yield "token", vars(event.token)
                else:
                    end = {"finish": event.finish, "rest": event.rest}
                    yield "done", end | totals.to_json() | {"seconds": time.perf_counter() - started}

    def _write(self, asked: GenerateRequest, steer: Steering | None) -> Iterator[Event]:
        sampling = Sampling(temperature=asked.temperature, top_k=asked.top_k, top_p=asked.top_p, seed=asked.seed)
        return write(
            self.run.model,
            self.run.tokenizer,
            [asked.prompt],
            max_new_tokens=asked.max_new_tokens,
            sampling=sampling,
            stop=asked.stop or (),
            bits=True,
            precision=asked.precision,
            memory=self.run.asked_memory(asked.memory),
            steer=steer,
        )


async def _sent(events: AsyncIterator[tuple[str, dict[str, Any]]]) -> AsyncIterator[str]:
    """Yield each event as server-sent events are written (WHATWG, HTML: 9.2)."""
    async for name, data in events:
        yield f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _gathered(events: AsyncIterator[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return a whole stream of events as one answer."""
    prompt: list[Any] = []
    written: list[Any] = []
    done: dict[str, Any] = {}
    async for name, data in events:
        if name == "prompt":
            prompt += data["tokens"]
        elif name == "token":
            written.append(data)
        else:
            done = data
    text = "".join(token["text"] for token in written) + done.pop("rest")
    totals = {key: done.pop(key) for key in ("tokens", "bits", "bytes", "bits_per_byte")}
    return {"text": text, **done, **totals, "written": written, "prompt": prompt}


class _Stopped(Exception):  # noqa: N818 - not an error
    """Nobody waits for the score any more."""
