"""From tokens to text, as it is written: whole characters, and nothing that a stop string may begin with."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from weft.data import Tokenizer
from weft.errors import UserError


def stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """Return ``stop`` (one string or several) as a tuple; UserError where one is empty."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(strings):
        raise UserError("A stop string is empty: leave it out, or give at least one character.")
    return strings


class GrowingText:
    """Puts tokens' bytes together to text; what is not UTF-8 becomes U+FFFD.

    Text is given as soon as all bytes so far are whole characters and no stop string may have begun.
    The text ends before the stop string that is complete first (the longest, where several end at
    once), as if it came character by character, so it does not depend on the borders of tokens.
    ``stopped`` says that it has ended so.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes, with what was held back before it."""
        self._held += self._decoder.decode(self._tokenizer.token_bytes(token))
        if self._stop and self._cut():
            return self._release(len(self._held))
        if self._decoder.getstate()[0]:  # bytes of a character that is not whole yet
            return ""
        begun = self._begun() if self._stop else 0
        return self._release(len(self._held) - begun)

    def rest(self) -> str:
        """Return what is left at the end of a text."""
        if not self.stopped:
            self._held += self._decoder.decode(b"", final=True)
            self._cut()
        return self._release(len(self._held))

    def _release(self, count: int) -> str:
        text = self._held[:count]
        self._held = self._held[count:]
        return text

    def _cut(self) -> bool:
        """Cut what is held before the first stop string in it; return whether there is one."""
        # The first to be complete; of those that end at once the longest, which is the
        # one that begins first.
        found = []
        for stop in self._stop:
            start = self._held.find(stop)
            if start >= 0:
                found.append((start + len(stop), start))
        if found:
            _, first = min(found)
            self._held = self._held[:first]
            self.stopped = True
        return self.stopped

    def _begun(self) -> int:
        """Return how many characters at the end may be the beginning of a stop string."""
        longest = max(map(len, self._stop)) - 1
        for count in range(min(longest, len(self._held)), 0, -1):
            end = self._held[-count:]
            if any(stop.startswith(end) for stop in self._stop):
                return count
        return 0
