"""Being asked to stop: SIGINT (Ctrl-C), SIGTERM, and SIGHUP (a terminal that closes)."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_signals(stop: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """Call ``stop`` when one of them comes, and tell which came; a second one acts as it would have before.

    Outside the main thread, where Python lets nobody listen, nothing is changed.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        stop()
        signal.signal(number, before[number])

    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before: dict[int, Any] = {number: signal.signal(number, handle) for number in heard}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
