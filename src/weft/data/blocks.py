"""Cutting a file into blocks of lines, so that each part of a split is spread over the whole of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from weft.data.sources import SourceFile
from weft.data.text_blocks import read_blocks

MOST_BLOCKS = 100
LEAST_BLOCKS = 20  # one validation block and one test block
LEAST_BLOCK_BYTES = 2048
LONGEST_LOOK = 1 << 16  # for a blank line
_BLANK_LINES = re.compile(rb"\n(?:\r?\n)+")


def block_borders(file: SourceFile, size: int) -> tuple[int, ...]:
    """Return where the blocks of a file of ``size`` (decompressed) bytes begin, and at last its end.

    There are :data:`MOST_BLOCKS`, fewer where each would be smaller than :data:`LEAST_BLOCK_BYTES`. Block i
    begins at floor(size * i / blocks), moved forward behind the next blank line, if there is one within a
    quarter of a block, else to the next line end. JSONL has no blank lines. A line longer than a block
    leaves the next one empty.
    """
    count = min(MOST_BLOCKS, max(LEAST_BLOCKS, size // LEAST_BLOCK_BYTES))
    look = 0  # bytes in which a blank line is searched for
    if not file.is_jsonl:
        look = min(size // count // 4, LONGEST_LOOK)
    forward = Forward(read_blocks(file))
    borders = [0]
    for index in range(1, count):
        target = size * index // count
        if target <= borders[-1]:  # a long line moved the last border beyond this place
            borders.append(borders[-1])
            continue
        before = target - 1  # a block that begins at a line's beginning needs no move
        blank = _BLANK_LINES.search(forward.peek(before, look))
        if blank:
            borders.append(before + blank.end())
        else:
            borders.append(forward.line_end(before))
    return (*(min(border, size) for border in borders), size)


class Forward:
    """Reads a stream of bytes by position, forward only, with a look ahead."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._start = 0
        self._data = b""

    def peek(self, position: int, length: int) -> bytes:
        """Return the bytes [position, position + length), or fewer at the end of the stream."""
        while self._start + len(self._data) < position + length and self._more(position):
            pass
        offset = position - self._start
        return self._data[offset : offset + length]

    def line_end(self, position: int) -> int:
        """Return the place behind the first newline from ``position`` on, or the end of the stream."""
        self.peek(position, 1)
        while (found := self._data.find(b"\n", max(position - self._start, 0))) < 0:
            position = max(position, self._start + len(self._data))
            if not self._more(position):
                return position
        return self._start + found + 1

    def window(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes [start, stop)."""
        while start < stop and self.peek(start, 1):
            offset = start - self._start
            data = self._data[offset : offset + stop - start]  # all that is there, as much as is asked for
            yield data
            start += len(data)

    def _more(self, position: int) -> bool:
        """Read one block more, and forget what stands before ``position``; tell whether there was one."""
        block = next(self._blocks, None)
        if block is None:
            return False
        past = min(max(position - self._start, 0), len(self._data))  # what is not needed any more
        self._data = self._data[past:] + block
        self._start += past
        return True


def read_ranges(file: SourceFile, ranges: Iterable[tuple[int, int]]) -> Iterator[Iterator[bytes]]:
    """Yield the bytes of each of ``ranges``, which are in order; a file to be converted is read through once."""
    if file.is_seekable:
        for start, stop in ranges:
            yield read_blocks(file, start, stop)
        return
    forward = Forward(read_blocks(file))
    for start, stop in ranges:
        yield forward.window(start, stop)
