"""What a file may hold that is not the text itself: other encodings, markup, archives, tables."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator

from weft.errors import UserError

# The byte-order mark: at the start of a text it says how that is encoded, and is no letter of it.
MARK = codecs.BOM_UTF8
TABLES = {".csv": ",", ".tsv": "\t"}  # by suffix, what stands between the cells
LONGEST_CELL = 1 << 28
BLOCK_BYTES = 1 << 20
_MARKUP = {".html": "HTML", ".htm": "HTML", ".xhtml": "HTML", ".json": "JSON", ".ipynb": "JSON", ".rtf": "RTF"}
_PACKED = {
    ".pdf": "a PDF",
    ".doc": "a Word file",
    ".docx": "a Word file",
    ".odt": "a file of a word processor",
    ".epub": "an e-book",
    ".xlsx": "a spreadsheet",
    ".zip": "an archive",
    ".tar": "an archive",
    ".tgz": "an archive",
    ".7z": "an archive",
    ".parquet": "a table of another kind",
    ".arrow": "a table of another kind",
}
# How to get at the text, where another hint is of more use than the usual one.
_HINTS = {
    "JSON": "rename it to .jsonl if every line is a record, else give it as hf:FILE (data.text_key names the key)",
    "an archive": "unpack it and give its folder",
    "a table of another kind": "give it as hf:FILE (data.text_key names the column with the text)",
}
_MARKS = (  # the longer ones first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_GUESSED = ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE")
_GUESSED_FROM = 512  # bytes
_LONG_LINE = 1000  # bytes; a shorter text is just short


def require_text(path: str, suffix: str, *, any_bytes: bool) -> None:
    """Raise UserError where a file's suffix says that its text is wrapped in something else.

    ``any_bytes`` takes packed files as they are, but no markup: that is rarely meant, and hard to see
    afterwards.
    """
    what = _MARKUP.get(suffix)
    if what is None and not any_bytes:
        what = _PACKED.get(suffix)
    if what is None:
        return
    hint = _HINTS.get(what, "give its text as a .txt file")
    if suffix in _MARKUP:
        hint += " (data.verbatim=true reads it with its markup)"
    raise UserError(f"'{path}' is {what}, not plain text: {hint}.")


def encoding_of(start: bytes) -> str | None:
    """Return the encoding, of two or four bytes a character, of a file that begins with ``start``, or None.

    A byte-order mark says so; without one, mostly NULs at every other place (or three of four places) do.
    """
    for mark, name in _MARKS:
        if start.startswith(mark):
            return name
    whole = min(len(start), _GUESSED_FROM) // 4 * 4  # no character of two or four bytes is cut
    sample = start[:whole]
    if len(sample) < 8 or b"\0" not in sample:
        return None
    for name in _GUESSED:
        try:
            text = sample.decode(name)
        except UnicodeDecodeError:
            continue
        # Binary data may decode as well, but is neither mostly printable nor, where it is not ASCII, in
        # words.
        readable = sum(character.isprintable() or character.isspace() for character in text)
        if "\0" not in text and readable >= 0.9 * len(text) and (text.isascii() or " " in text):
            return name
    return None


def why_uncut(path: str, start: bytes) -> str:
    """Say why a text that begins with ``start`` has no line to cut it at, and what to do; "" where it has."""
    if len(start) < _LONG_LINE or start.count(b"\n") > 1:
        return ""
    if start.count(b"\r") > 1:
        return (
            f"The lines of '{path}' end in CR alone, at which no text is cut: read them as line ends with "
            "data.line_ends=lf, or cut anywhere with data.split=bytes."
        )
    return f"'{path}' is one long line, and text is cut at line ends: cut it anywhere with data.split=bytes."


def table_records(path: str, blocks: Iterable[bytes], delimiter: str) -> Iterator[bytes]:
    """Yield the rows of a table, whose first line names the columns, as lines of JSON records, in blocks.

    With commas, cells may be in quotes, as spreadsheets write them; with tabs, a quote is a letter like
    others. The blocks are known to be UTF-8. Raises UserError for a row that has not as many cells as there
    are columns.
    """
    csv.field_size_limit(LONGEST_CELL)  # of the whole process; its own is shorter than many a text
    lines = _lines(blocks)
    if delimiter == "\t":
        rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        rows = csv.reader(lines, strict=True)
    columns: list[str] = []
    records: list[bytes] = []
    size = 0
    try:
        for row in filter(None, rows):  # an empty line is no row
            if not columns:
                columns = row
                continue
            if len(row) != len(columns):
                raise UserError(
                    f"Line {rows.line_num} of '{path}' has {len(row)} cells, but the first line names {len(columns)} "
                    "columns: put the line right."
                )
            record = dict(zip(columns, row, strict=True))
            records.append(json.dumps(record, ensure_ascii=False).encode() + b"\n")
            size += len(records[-1])
            if size >= BLOCK_BYTES:
                yield b"".join(records)
                records = []
                size = 0
    except csv.Error as error:
        raise UserError(f"Line {rows.line_num} of '{path}' cannot be read ({error}): put the line right.") from None
    if records:
        yield b"".join(records)


def _lines(blocks: Iterable[bytes]) -> Iterator[str]:
    """Yield lines with their ends; those within a cell stay as they are."""
    parts: list[bytes] = []
    for block in blocks:
        *complete, rest = block.split(b"\n")
        for line in complete:
            yield b"".join([*parts, line, b"\n"]).decode()
            parts = []
        parts.append(rest)
    if last := b"".join(parts):
        yield last.decode()
