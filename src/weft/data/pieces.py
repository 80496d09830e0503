"""Cutting long documents: into pieces to encode on their own, and into pieces that a model reads as documents.

The cuts depend on nothing but the document's bytes, so a document that streams by in blocks of any size gives
the same pieces as one that is there whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from weft.data.documents import Fragment

PIECE_BYTES = 1 << 16
LONGEST_PIECE_BYTES = 1 << 20
_LINE_END = re.compile(rb"\n(?=[^\s])")
_ANY_LINE_END = re.compile(rb"\n")
_BLANKS = (b" ", b"\t", b"\n")
_PATIENCE = 4  # how many times the asked length a document goes on where no line ends


def cut_pieces(fragments: Iterable[Fragment], *, between_words: bool = False) -> Iterator[Fragment]:
    """Yield the pieces of documents that are encoded on their own; the one that begins a document is ``first``.

    A piece ends after the first line end from 64 KiB on that is not followed by white space (in none of our
    tokenizers does a token span that place); where there is none before 1 MiB, it ends there, or at the last
    beginning of a UTF-8 character before it. ``between_words`` is for tokenizers that cut at white space and
    nowhere else: any line end will do, and where there is none the piece ends after the last blank.
    """
    find_cut = partial(
        _find_cut,
        shortest=PIECE_BYTES,
        longest=LONGEST_PIECE_BYTES,
        line_end=_ANY_LINE_END if between_words else _LINE_END,
        at_blanks=between_words,
    )
    return _cut(fragments, find_cut)


def cut_documents(fragments: Iterable[Fragment], length: int) -> Iterator[Fragment]:
    """Yield documents of about ``length`` bytes at most: of longer ones each piece is a document of its own.

    A piece ends after the first line end from ``length`` bytes on that is not followed by white space, or
    where no line ends for long after the last blank. What ends there is ``cut``, what begins there
    ``continues``.
    """
    if not length:
        yield from fragments
        return
    longest = _PATIENCE * length
    find_cut = partial(_find_cut, shortest=length, longest=longest, line_end=_LINE_END, at_blanks=True)
    before: Fragment | None = None  # held back until it is known whether its document goes on
    for piece in _cut(fragments, find_cut):
        if piece.first:
            if before is not None:
                yield before
            before = piece
            continue
        if before is not None:
            yield before._replace(cut=True)
        before = piece._replace(first=True, continues=True)
    if before is not None:
        yield before


def _cut(fragments: Iterable[Fragment], find_cut: Callable[[bytes, int], int]) -> Iterator[Fragment]:
    """Yield the pieces of documents; ``find_cut`` tells where one that begins at a place ends, 0 if unknown yet."""
    first = True
    continues = False
    rest = b""
    for fragment in fragments:
        if fragment.first:
            if rest:
                yield Fragment(first, rest, continues)
            first = True
            continues = fragment.continues
            rest = b""
        data = rest + fragment.data
        start = 0
        while cut := find_cut(data, start):
            yield Fragment(first, data[start:cut], continues)
            first = False
            continues = False
            start = cut
        rest = data[start:]
        # The document ends with this fragment, and only its last piece may say that it was cut.
        if fragment.cut:
            yield Fragment(first, rest, continues, cut=True)
            rest = b""
    if rest:
        yield Fragment(first, rest, continues)


def _find_cut(
    data: bytes, start: int, *, shortest: int, longest: int, line_end: re.Pattern[bytes], at_blanks: bool
) -> int:
    """Return where the piece that begins at ``start`` ends, or 0 where that is not known yet."""
    # At the first line end that is far enough, ...
    limit = start + longest
    match = line_end.search(data, start + shortest - 1, limit)
    if match:
        return match.end()
    if len(data) <= limit:
        return 0
    # ... else after the last blank, where that will do, ...
    if at_blanks:
        blank = max(data.rfind(byte, start + shortest - 1, limit) for byte in _BLANKS)
        if blank < 0 and shortest == PIECE_BYTES:  # of words that are encoded, none may be cut
            blank = max(data.rfind(byte, start, limit) for byte in _BLANKS)
        if blank >= 0:
            return blank + 1
    # ... else there, or at the last beginning of a UTF-8 character before (its other bytes are 10xxxxxx, up
    # to three).
    for back in range(4):
        if data[limit - back] & 0xC0 != 0x80:
            return limit - back
    return limit  # this is no UTF-8
