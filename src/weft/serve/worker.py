"""Threads that compute while the server goes on listening."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")


class Worker:
    """Runs iterables in ``threads`` threads of its own, and stops one when nobody listens to it any more."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="weft-serve")

    async def stream(self, items: Callable[[threading.Event], Iterable[Item]]) -> AsyncGenerator[Item, None]:
        """Yield what ``items`` yields in a thread; it is given an event that is set when it should stop.

        Between two items the thread looks at the event by itself. Close the iterator
        (``contextlib.aclosing``) to stop early. What ``items`` raises is raised here.
        """
        loop = asyncio.get_running_loop()
        stop = threading.Event()
        queue: asyncio.Queue[_Put] = asyncio.Queue()

        def put(event: _Put) -> None:  # called in the thread, where an asyncio queue may not be touched
            loop.call_soon_threadsafe(queue.put_nowait, event)

        self._pool.submit(_run, items, stop, put)
        try:
            while not (event := await queue.get()).last:
                yield event.item
            if event.error:
                raise event.error
        finally:  # also where the listener has left
            stop.set()


@dataclass(frozen=True)
class _Put:
    """An item, or the end, with the error that was the cause of it."""

    item: Any = None
    last: bool = False
    error: Exception | None = None


def _run(items: Callable[[threading.Event], Iterable[Any]], stop: threading.Event, put: Callable[[_Put], None]) -> None:
    try:
        for item in items(stop):
            if stop.is_set():
                return
            put(_Put(item))
        put(_Put(last=True))
    except Exception as error:  # raised where it is waited for
        put(_Put(last=True, error=error))
