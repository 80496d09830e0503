"""Cutting long documents into pieces that are encoded on their own.

The cuts depend on nothing but the document's bytes, so a document that streams by in blocks of any size gives
the same tokens as one that is there whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from weft.data.documents import Fragment

PIECE_BYTES = 1 << 16
LONGEST_PIECE_BYTES = 1 << 20
_LINE_END = re.compile(rb"\n(?=[^\s])")
_ANY_LINE_END = re.compile(rb"\n")


def cut_pieces(fragments: Iterable[Fragment], *, between_words: bool = False) -> Iterator[Fragment]:
    """Yield the pieces of each document, ``first`` being the one that begins it.

    A piece ends after the first line end from 64 KiB on that is not followed by white space (in none of our
    tokenizers does a token span that place); where there is none before 1 MiB, it ends there, or at the last
    beginning of a UTF-8 character before it. ``between_words`` is for tokenizers that cut at white space and nowhere
    else: any line end will do, and where there is none the piece ends after the last blank.
    """
    first, rest = True, b""
    for fragment in fragments:
        if fragment.first and rest:
            yield Fragment(first, rest)
            rest = b""
        first = first or fragment.first
        data, start = rest + fragment.data, 0
        while cut := _find_cut(data, start, between_words):
            yield Fragment(first, data[start:cut])
            first, start = False, cut
        rest = data[start:]
    if rest:
        yield Fragment(first, rest)


def _find_cut(data: bytes, start: int, between_words: bool) -> int:
    """Return where the piece that begins at ``start`` ends, or 0 where that is not known yet."""
    limit = start + LONGEST_PIECE_BYTES
    line_end = _ANY_LINE_END if between_words else _LINE_END
    match = line_end.search(data, start + PIECE_BYTES - 1, limit)
    if match:
        return match.end()
    if len(data) <= limit:
        return 0
    if between_words and (blank := max(data.rfind(byte, start, limit) for byte in (b" ", b"\t", b"\n"))) >= 0:
        return blank + 1
    back = next((i for i in range(4) if data[limit - i] & 0xC0 != 0x80), 0)
    return limit - back
