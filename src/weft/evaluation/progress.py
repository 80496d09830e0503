"""How far the scoring of a text is, and how long the rest of it will take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Progress:
    """Counts the ``total`` tokens of a text as they are scored.

    Call it with the number of tokens done since the last call; ``tell`` then hears of it. The pace is that
    after the first call: what comes before may be the making of kernels.
    """

    def __init__(self, total: float, tell: Callable[[Progress], None] = lambda _: None) -> None:
        self.total = total
        self.done = 0.0
        self.started = time.monotonic()
        self._tell = tell
        # Tokens done, and when: after the first call, and after the last.
        self._first = (0.0, self.started)
        self._last = self._first

    def __call__(self, tokens: float) -> None:
        """Take in that ``tokens`` more are done."""
        first = not self.done
        self.done += tokens
        self._last = self.done, time.monotonic()
        if first:
            self._first = self._last
        self._tell(self)

    @property
    def share(self) -> float:
        """The part that is done, from 0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 1.0

    @property
    def seconds_per_token(self) -> float:
        """The pace so far; that of the first call where there was but one, and NaN before any."""
        if not self.done:
            return math.nan
        before, began = self._first
        done, now = self._last
        if done == before:  # one call so far
            before = 0.0
            began = self.started
        return (now - began) / (done - before)

    @property
    def seconds_left(self) -> float:
        """What the rest will take at this pace, in seconds; NaN before the first call."""
        return max(0.0, self.total - self.done) * self.seconds_per_token
