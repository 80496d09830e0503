"""The text of a file, block by block: decompressed, in the form that is asked for, and checked to be text."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from weft.data.decompression import decompressed
from weft.data.formats import BLOCK_BYTES, MARK, encoding_of, require_text, table_records
from weft.data.sources import SourceFile
from weft.errors import UserError

LARGE_BYTES = 1 << 25  # of such a file a few places are looked at before it is read through
GLANCES = 32
GLANCE_BYTES = 1 << 12


def read_raw(file: SourceFile, start: int = 0) -> Iterator[bytes]:
    """Yield the file as it lies on the disk from byte ``start``, in blocks of up to 1 MiB."""
    try:
        with file.path.open("rb") as stream:
            stream.seek(start)
            while block := stream.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: SourceFile, error: OSError) -> UserError:
    return UserError(f"Cannot read '{file.path}' ({error.strerror}): check the file and its permissions.")


def read_blocks(file: SourceFile, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield bytes [start, stop) of the text in the file, in blocks; UserError when it is damaged.

    The text is what is decompressed, without a byte-order mark at its start, in the form that is asked for;
    that of a table is its rows as JSON records.
    """
    if not file.is_seekable:
        yield from _window(_converted(file), start, stop)
        return
    # Positions count from behind the byte-order mark, which is no text.
    blocks = read_raw(file, start + _mark_bytes(file))
    length = None if stop is None else stop - start
    yield from _window(blocks, 0, length)


def text_size(file: SourceFile) -> int:
    """Return the number of bytes that :func:`read_blocks` reads of the file."""
    if file.is_seekable:
        return file.path.stat().st_size - _mark_bytes(file)
    return sum(len(block) for block in read_blocks(file))


def _converted(file: SourceFile) -> Iterator[bytes]:
    """Yield the text of a file in which it does not lie as it is."""
    blocks = read_raw(file)
    if file.compression:
        blocks = decompressed(file.path, file.compression, file.member)
    if not file.unify.verbatim:
        blocks = _without_mark(blocks)
    if not file.is_jsonl:
        return file.unify.blocks(blocks)
    if not file.delimiter:
        return blocks  # what is made one is the text of each record
    return table_records(str(file.path), checked(file, blocks, any_bytes=False), file.delimiter)


def _mark_bytes(file: SourceFile) -> int:
    """Return the length of the byte-order mark that a plain file begins with: 0 or 3."""
    if file.unify.verbatim:
        return 0
    try:
        with file.path.open("rb") as stream:
            return len(MARK) if stream.read(len(MARK)) == MARK else 0
    except OSError as error:
        raise _unreadable(file, error) from None


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Drop the byte-order mark at the start of a text."""
    start = b""  # the first blocks, as a decompressor may give the mark's three bytes one by one
    for block in blocks:
        start += block
        if len(start) >= len(MARK):
            break
    if text := start.removeprefix(MARK):
        yield text
    yield from blocks


def _window(blocks: Iterator[bytes], start: int, stop: int | None) -> Iterator[bytes]:
    """Yield what lies in [start, stop) of a stream of blocks."""
    position = 0
    for block in blocks:
        if stop is not None and position >= stop:
            return
        part = block[max(0, start - position) : None if stop is None else stop - position]
        position += len(block)
        if part:
            yield part


def checked(file: SourceFile, blocks: Iterator[bytes], *, any_bytes: bool) -> Iterator[bytes]:
    """Pass the blocks of a whole file through, raising UserError where it is empty, binary or not UTF-8.

    ``any_bytes`` (the byte tokenizer) takes NUL bytes and undecodable ones in plain text as they are.
    """
    if not file.unify.verbatim:
        require_text(str(file.path), file.inner_suffix, any_bytes=any_bytes)
    strict = not any_bytes or file.is_jsonl
    if strict and not file.compression:
        _glance(file)
    position = 0
    tail = b""  # the beginning of a character that goes on in the next block
    blank = True
    for block in blocks:
        if strict:
            if not position and (name := encoding_of(block)):
                raise _other_encoding(file, name)
            tail = _decodable(file, tail + block, position - len(tail))
        blank = blank and not block.strip()
        position += len(block)
        yield block
    if tail:
        raise _undecodable(file, position - len(tail))
    if blank:
        what = "has only white space" if position else "is empty"
        raise UserError(f"'{file.path}' {what}: give a file with text.")


def _glance(file: SourceFile) -> None:
    """Raise UserError where one of a few places of a large file holds a NUL, before all of it is read."""
    size = file.path.stat().st_size
    if size < LARGE_BYTES:
        return
    for number in range(1, GLANCES + 1):
        place = (size - GLANCE_BYTES) * number // GLANCES
        nul = next(read_raw(file, place))[:GLANCE_BYTES].find(0)
        if nul >= 0:
            raise _binary(file, place + nul)


def _decodable(file: SourceFile, data: bytes, offset: int) -> bytes:
    """Return the bytes of an unfinished character at the end of ``data``, which lies at ``offset``."""
    nul = data.find(0)
    if nul >= 0:
        raise _binary(file, offset + nul)
    try:
        _, used = codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError as error:
        raise _undecodable(file, offset + error.start) from None
    return data[used:]


def _binary(file: SourceFile, offset: int) -> UserError:
    return UserError(
        f"'{file.path}' looks binary (a NUL at byte {offset}): give UTF-8 text, or train with data.tokenizer=bytes, "
        "which takes any."
    )


def _other_encoding(file: SourceFile, name: str) -> UserError:
    hint = ""
    if not file.compression:  # iconv reads no compressed file
        copy = file.path.with_name(f"{file.path.stem}-utf8{file.path.suffix}")
        hint = f", such as by: iconv -f {name} -t UTF-8 '{file.path}' > '{copy}'"
    return UserError(f"'{file.path}' is {name}, not UTF-8: convert it{hint}.")


def _undecodable(file: SourceFile, offset: int) -> UserError:
    return UserError(
        f"'{file.path}' is not UTF-8 at byte {offset}: convert it to UTF-8, or train with "
        "data.tokenizer=bytes, which takes any."
    )
