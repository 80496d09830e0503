"""From the blocks of a file to its documents, in fragments of bounded size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from weft.data.config import DEFAULT_SEPARATOR
from weft.data.formats import BLOCK_BYTES
from weft.data.sources import SourceFile
from weft.errors import UserError

LINE_ENDS = b"\r\n"
MOST_NAMES = 8  # that a message tells of the keys of a record
LONGEST_NAME = 40


class Fragment(NamedTuple):
    """A part of a document, of a few MiB at most; ``first`` where the document begins.

    ``continues``, which only a first part has, says that this begins amid a document, at a cut. ``cut``,
    which only a last part has, says that the document does not end here: it goes on in another piece, or in
    another split.
    """

    first: bool
    data: bytes
    continues: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Layout:
    """Where the documents are in a file: between separators, or under a key of each JSON record."""

    document_separator: str = DEFAULT_SEPARATOR
    text_key: str = "text"


def read_fragments(file: SourceFile, blocks: Iterable[bytes], layout: Layout) -> Iterator[Fragment]:
    """Yield the documents of (a part of) ``file``, whose decompressed bytes are ``blocks``."""
    if file.is_jsonl:
        return _records(file, blocks, layout.text_key)
    return split_documents(blocks, file.unify.text(layout.document_separator))


def whole_documents(documents: Iterable[bytes]) -> Iterator[Fragment]:
    """Yield documents that are there whole, each as one fragment."""
    for document in documents:
        yield Fragment(True, document)


def join_fragments(fragments: Iterable[Fragment]) -> Iterator[bytes]:
    """Yield whole documents."""
    parts: list[bytes] = []
    for fragment in fragments:
        if fragment.first and parts:
            yield b"".join(parts)
            parts = []
        parts.append(fragment.data)
    if parts:
        yield b"".join(parts)


def from_the_middle(fragments: Iterable[Fragment], *, begins: bool, ends: bool) -> Iterator[Fragment]:
    """Pass on what was read from a part of a file, which ``begins`` and ``ends`` with the file or does not.

    Where it does not, its first document may have begun before, and its last one goes on behind it.
    """
    before: Fragment | None = None
    for fragment in fragments:
        if before is None:
            before = fragment
            if not begins:
                before = fragment._replace(continues=True)
        else:
            yield before
            before = fragment
    if before is not None:
        if not ends:
            before = before._replace(cut=True)
        yield before


def split_documents(blocks: Iterable[bytes], separator: str) -> Iterator[Fragment]:
    r"""Yield the documents between separators; empty ones are dropped.

    A separator made of line ends also matches where the lines end in ``\r\n``, and the line ends around a
    document then belong to it. With the separator "" all is one document, to the byte.
    """
    if not separator:
        yield from whole_document(blocks)
        return
    strip = b""
    longest = len(separator.encode())
    if not separator.strip("\n"):  # only line ends
        strip = LINE_ENDS
        longest *= 2  # each may be "\r\n"
    first = True
    rest = b""
    for block in blocks:
        # What stands behind the last separator may go on in the next block, and so may a separator.
        *complete, rest = _pattern(separator).split(rest + block)
        for part in complete:
            yield from _ending(first, part, strip)
            first = True
        if len(rest) > BLOCK_BYTES:  # a long document goes on in fragments, so that memory stays bounded
            fragment, rest = _unfinished(first, rest, strip, longest)
            if fragment.data:
                yield fragment
                first = False
    yield from _ending(first, rest, strip)


def whole_document(blocks: Iterable[bytes]) -> Iterator[Fragment]:
    """Yield all of the blocks as one document."""
    first = True
    for block in blocks:
        if block:
            yield Fragment(first, block)
            first = False


def _pattern(separator: str) -> re.Pattern[bytes]:
    if not separator.strip("\n"):
        # A carriage return before the first newline is stripped with the document; a pattern that begins with
        # a fixed byte is searched for many times faster.
        return re.compile(rb"\n(?:\r?\n){%d}" % (len(separator) - 1))
    return re.compile(re.escape(separator.encode()))


def _ending(first: bool, data: bytes, strip: bytes) -> Iterator[Fragment]:
    """Yield the last part of a document, or nothing where there is nothing."""
    data = data.rstrip(strip)  # of b"" this takes nothing off
    if first:
        data = data.lstrip(strip)
    if data:
        yield Fragment(first, data)


def _unfinished(first: bool, data: bytes, strip: bytes, longest: int) -> tuple[Fragment, bytes]:
    """Cut what surely belongs to a long document from what may be the beginning of a separator."""
    # Line ends at the end may turn out to be the document's last, which are stripped.
    keep = min(len(data.rstrip(strip)), len(data) - longest)
    head = data[:keep]
    if first:
        head = head.lstrip(strip)
    return Fragment(first, head), data[keep:]


def _records(file: SourceFile, blocks: Iterable[bytes], text_key: str) -> Iterator[Fragment]:
    """Yield the text of every JSON record that has any."""
    for number, line in enumerate(lines_of(blocks), start=1):
        if line.strip():
            data = _record_text(file, number, line, text_key)
            if data:
                yield Fragment(True, data)


def lines_of(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a text that comes in blocks, without their ends; the last one may be empty."""
    parts: list[bytes] = []
    for block in blocks:
        *complete, rest = block.split(b"\n")
        for line in complete:
            yield b"".join([*parts, line])
            parts = []
        # Joined once the line ends: adding up a long one block by block would be quadratic.
        parts.append(rest)
    yield b"".join(parts)


def _record_text(file: SourceFile, number: int, line: bytes, text_key: str) -> bytes:
    """Return the text under ``text_key``; UserError where there is none."""
    unit = "Line"
    what = "key"
    if file.delimiter:  # a table: its rows come as records, and cells may hold line ends
        unit = "Record"
        what = "column"
    where = f"{unit} {number} of '{file.path}'"
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise UserError(f"{where} is not JSON: a .jsonl file has one JSON record a line.") from None
    if not isinstance(record, dict) or text_key not in record:
        raise UserError(
            f"{where} has no '{text_key}'{_keys(record)}: name the {what} that holds the text with data.text_key."
        )
    text = record[text_key]
    if not isinstance(text, str):
        raise UserError(f"{where} has something else than text in '{text_key}': it must be a string.")
    try:
        return file.unify.document(text).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where} holds half a surrogate pair, which is not text: put the record right.") from None


def _keys(record: object) -> str:
    """Say what a record has; "" where it is none."""
    if not isinstance(record, dict) or not record:
        return ""
    names: list[str] = []
    for name in list(record)[:MOST_NAMES]:
        if len(name) > LONGEST_NAME:
            name = f"{name[:LONGEST_NAME]}..."
        names.append(name)
    if len(record) > MOST_NAMES:
        names.append("...")
    return f", but {', '.join(names)}"
