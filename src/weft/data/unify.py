"""In what form a text is read: in one way where it is asked for, with composed letters (NFC) and line ends as ``\\n``.

A text that streams by in blocks of any size gives the same as one that is there whole.
"""

from __future__ import annotations

import codecs
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

BYTE_ORDER_MARK = "\ufeff"  # as a character; no letter of a text that begins with it
# Characters in which no place to cut is found, as where marks pile up: cut there all the same.
LONGEST_RUN = 1 << 16
_FIRST_MARK = 0x300  # no character before it ever joins the one before itself


@dataclass(frozen=True)
class Unify:
    """What is made one in a text; nothing, unless it is asked for.

    ``normalize`` composes letters and their marks (Unicode's normalization form C); bytes that are no UTF-8
    stay as they are. ``line_ends`` writes ``\\r\\n`` and a lone ``\\r`` as ``\\n``. ``verbatim`` takes a
    byte-order mark for text, and every file but ``.jsonl`` for plain text.
    """

    normalize: Literal["nfc"] | None = None
    line_ends: Literal["lf"] | None = None
    verbatim: bool = False

    def document(self, text: str) -> str:
        """Return the text of a record in the one way, without a byte-order mark at its start."""
        if not self.verbatim:
            text = text.removeprefix(BYTE_ORDER_MARK)
        return self.text(text)

    def text(self, text: str) -> str:
        """Return ``text`` in the one way."""
        if self.line_ends:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        if self.normalize:
            text = unicodedata.normalize("NFC", text)
        return text

    def blocks(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield a text that comes in blocks in the one way."""
        if self.line_ends:
            blocks = _line_feeds(blocks)
        if self.normalize:
            blocks = _composed(blocks)
        return iter(blocks)

    @property
    def changes(self) -> bool:
        """Whether anything is made one."""
        return bool(self.normalize or self.line_ends)

    def note(self) -> str:
        """Say in a few words, to be put behind others, what is made one and that its bytes are counted; else ""."""
        told: list[str] = []
        if self.normalize:
            told.append("composed letters (NFC)")
        if self.line_ends:
            told.append("line ends LF")
        if not told:
            return ""
        return f", read with {' and '.join(told)}, of which every byte counts"


AS_IT_IS = Unify()


def _line_feeds(blocks: Iterable[bytes]) -> Iterator[bytes]:
    r"""Yield a text with every ``\r\n`` and every lone ``\r`` written as ``\n``."""
    held = b""  # a carriage return whose line feed may come with the next block
    for block in blocks:
        data = held + block
        held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if data:
            yield data
    if held:
        yield b"\n"


def _composed(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a text with its letters composed."""
    # Bytes that are no UTF-8 pass as half surrogates, which no normalization touches, and are written as they
    # were.
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    held = ""  # what may still be joined with the beginning of the next block
    for block in blocks:
        text = held + decoder.decode(block)
        cut = _last_cut(text)
        held = text[cut:]
        if cut:
            yield _compose(text[:cut])
    if rest := held + decoder.decode(b"", True):
        yield _compose(rest)


def _compose(text: str) -> bytes:
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")


def _last_cut(text: str) -> int:
    """Return the last place before which and after which ``text`` is composed independently; 0 where there is none."""
    for place in range(len(text) - 1, 0, -1):
        if _stands_alone(text[place]):
            return place
        if len(text) - place > LONGEST_RUN:
            return len(text)
    return 0


def _stands_alone(character: str) -> bool:
    """Tell whether nothing before ``character`` is ever joined, or put in order, with it."""
    if ord(character) < _FIRST_MARK:
        return True
    first = unicodedata.normalize("NFD", character)[0]
    if unicodedata.combining(first):  # marks behind one letter are put in order
        return False
    return not {character, first} & _joining()


@cache
def _joining() -> frozenset[str]:
    """Return the characters that are the second of two that are one when composed (Hangul's letters among them)."""
    # Hangul's vowels and final consonants, whose syllables are composed by a rule and stand in no table.
    found = set(map(chr, (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))))
    for code in range(_FIRST_MARK, sys.maxunicode + 1):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):  # "<...>" is of characters that only look alike
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)
