"""Telling a list of sentences from running text, by the shape of its lines.

A list of sentences (Tatoeba, FLORES, commands, titles) is many short lines that have little to do with each
other, so each is a document. Novels and articles have lines too: paragraphs, which are longer and hold
several sentences, or lines that a program has wrapped, which do not end where sentences do; and each goes on
where the one before ended.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

SAMPLED_BYTES = 1 << 18  # of a block of a file
MOST_SAMPLED = 20_000  # lines, of blocks that are evenly spread over the file
LEAST_BLOCKS = 16  # of a long file
LEAST_LINES = 200
# A list has short lines. Novels with a paragraph a line have a median of 136 to 172 characters, 95 % of their
# lines are below 735 to 960, and 1.9 sentences end within a line on average.
MOST_MEDIAN = 200  # characters
MOST_LENGTH = 400  # characters, of 95 % of the lines
MOST_EMPTY = 0.02  # of the lines are empty
# And one of three holds: lines end as sentences do, and hardly any holds two; ...
LEAST_ENDING = 0.6
MOST_INNER_ENDS = 0.5  # ends of sentences within a line, on average
# ... or lengths vary more than those of wrapped lines do, and a line shares no more words with the next one
# than with one far away (0.97 to 1.03 in shuffled lists, 1.24 and more in running text, wrapped or not); ...
LEAST_SPREAD = 1.5  # the length that 95 % of the lines stay below, over the median
MOST_COHESION = 1.1
FAR = (97, 101, 151)  # lines
# ... or lengths vary so and no line ends with a sign, as in a sorted list of titles or queries.
MOST_WITHOUT = 0.02
MOST_TITLE = 80  # characters, the median

_CLOSING = "\"'»”’)]}』」›“«‹*_ \t\r"
_NO_END = frozenset(",:;-*#@&%/\\'\"·、，：；")
_ARMENIAN = re.compile(r"[\u0531-\u0587]:$")  # a colon is what most type for the Armenian full stop
_INNER_END = re.compile(r"[.!?…।؟۔።։][\"'»”’)\]]*\s+\S|[。！？](?=.)")


class Shape(NamedTuple):
    """What the lines of a text look like; lengths in characters."""

    lines: int
    empty: float
    median: int
    long: int  # 95 % of the lines are not longer
    ending: float  # the share that ends as a sentence does
    inner_ends: float
    # Words shared with the next line, over those shared with a far one; None without such.
    cohesion: float | None

    @property
    def is_list(self) -> bool:
        """Whether these are the lines of a list of sentences."""
        if self.lines < LEAST_LINES or self.empty > MOST_EMPTY:
            return False
        if self.median > MOST_MEDIAN or self.long > MOST_LENGTH:
            return False
        return self._are_sentences or self._is_shuffled or self._are_titles

    @property
    def _are_sentences(self) -> bool:
        return self.ending >= LEAST_ENDING and self.inner_ends <= MOST_INNER_ENDS

    @property
    def _is_shuffled(self) -> bool:
        return self._varies and self.cohesion is not None and self.cohesion <= MOST_COHESION

    @property
    def _are_titles(self) -> bool:
        return self._varies and self.ending <= MOST_WITHOUT and self.median <= MOST_TITLE

    @property
    def _varies(self) -> bool:
        return self.long >= LEAST_SPREAD * self.median

    def describe(self) -> str:
        """Say how a list of sentences was told."""
        if self._are_sentences:
            sign = f"{self.ending:.0%} of them end as a sentence does"
        elif self._is_shuffled:
            sign = "a line shares no more words with the next than with any other"
        else:
            sign = "none ends with the sign of a sentence's end"
        return f"its lines are short (half have {self.median} characters or fewer), and {sign}"


def shape_of(blocks: Iterable[bytes]) -> Shape:
    """Return the shape of the lines of a file, from the beginnings of blocks all over it."""
    lines = [line.strip() for line in _sampled_lines(blocks)]
    filled = [line for line in lines if line]
    if not filled:
        return Shape(0, 0.0, 0, 0, 0.0, 0.0, None)
    lengths = sorted(map(len, filled))
    inner_ends = sum(len(_INNER_END.findall(line)) for line in filled)
    return Shape(
        lines=len(filled),
        empty=1 - len(filled) / len(lines),
        median=lengths[len(lengths) // 2],
        long=lengths[len(lengths) * 95 // 100],
        ending=sum(map(_ends_a_sentence, filled)) / len(filled),
        inner_ends=inner_ends / len(filled),
        cohesion=_cohesion(filled),
    )


def _cohesion(lines: Sequence[str]) -> float | None:
    """Return the share of words that neighbouring lines have in common, over that of lines far apart."""
    words = [frozenset(line.split()) for line in lines]
    if len(words) <= max(FAR):
        return None
    far = sum(_shared(words, distance) for distance in FAR) / len(FAR)
    if not far:
        return None
    return _shared(words, 1) / far


def _shared(words: Sequence[frozenset[str]], distance: int) -> float:
    """Return the mean share of the words of two lines that both have, ``distance`` lines apart."""
    pairs = zip(words, words[distance:], strict=False)
    return sum(len(a & b) / len(a | b) for a, b in pairs) / (len(words) - distance)


def _sampled_lines(blocks: Iterable[bytes]) -> list[str]:
    """Return the whole lines at the beginning of every n-th block, also the last one of a short file."""
    kept: list[list[str]] = []
    stride = 1
    for number, block in enumerate(blocks):
        if number % stride:
            continue
        *whole, last = block[:SAMPLED_BYTES].split(b"\n")
        if number:
            whole = whole[1:]  # its beginning is in the block before
        elif last and len(block) <= SAMPLED_BYTES:
            whole.append(last)
        kept.append([line.decode(errors="replace") for line in whole[: MOST_SAMPLED // LEAST_BLOCKS]])
        # Too many: every other block is dropped, and from here on only every other one is looked at, so that
        # the sample stays spread over the file, however long that is.
        if len(kept) > 1 and sum(map(len, kept)) > MOST_SAMPLED:
            kept = kept[::2]
            stride *= 2
    return list(chain(*kept))


def _ends_a_sentence(text: str) -> bool:
    """Tell whether a line ends with a full stop, a question mark or the like, of any script."""
    text = text.rstrip(_CLOSING)
    if not text or text[-1] in _NO_END:
        return bool(_ARMENIAN.search(text))
    return unicodedata.category(text[-1]) == "Po"  # other punctuation: no brackets, quotation marks or dashes
