"""The form that a text has: line ends, letters and marks composed or not, letters that look like others.

None of these can be seen, and each is another token to a model. So they are counted, told, and kept with a
run.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from weft.data.documents import Fragment
from weft.data.lookalikes import SCRIPTS, Script, counterparts, look_alikes, script_of, strangers
from weft.data.unify import BYTE_ORDER_MARK

_BATCH_BYTES = 1 << 20
_BETWEEN = b"\0"  # parts documents in a batch
_MOST_LETTERS = 3  # that are told
_FEW = 3  # fewer are misprints
_RARE = 1e-4  # a smaller share of a text is not worth a word
_OTHER = 0.2  # where shares of two texts differ by more, these are of different forms
_ABSENT = 0.001  # or where one has a smaller share than this ...
_PRESENT = 0.01  # ... and the other a greater one than this
_CODES = max(map(ord, look_alikes())) + 1


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is counted of a text.

    ``lf``, ``crlf`` and ``cr`` are line ends; ``composed`` and ``decomposed`` are marks that are one
    character with their letter, and that could be; ``inner_marks`` byte-order marks within the text.
    ``letters`` counts those that look like one of another script, ``strangers`` those of them that stand in
    words of that other script (by letter and script, such as "ε Latin").
    """

    lf: int = 0
    crlf: int = 0
    cr: int = 0
    composed: int = 0
    decomposed: int = 0
    inner_marks: int = 0
    letters: dict[str, int] = field(default_factory=dict)
    strangers: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Any) -> Form | None:
        """Return what :meth:`to_json` wrote; None for anything else."""
        if not isinstance(told, dict):
            return None
        values: dict[str, Any] = {}
        numbers: list[Any] = []
        for name in ("lf", "crlf", "cr", "composed", "decomposed", "inner_marks"):
            values[name] = told.get(name, 0)
            numbers.append(values[name])
        for name in ("letters", "strangers"):
            values[name] = told.get(name, {})
            if not isinstance(values[name], dict):
                return None
            numbers.extend(values[name].values())
        if not all(isinstance(number, int) for number in numbers):
            return None
        return cls(**values)

    @property
    def lines(self) -> int:
        """The number of line ends."""
        return self.lf + self.crlf + self.cr

    def remarks(self) -> list[str]:
        """Say what of a training text is not of one form, and what to do, a line each."""
        return [f"{what}: {advice}." for what, advice in self._findings()]

    def facts(self) -> list[str]:
        """Say what of a text is not of one form, a line each."""
        return [f"{what}." for what, _advice in self._findings()]

    def _findings(self) -> Iterator[tuple[str, str]]:
        """Yield what is not of one form, with what to do about it."""
        yield from self._line_ends()
        if self.decomposed >= max(_FEW, _RARE * (self.composed + self.decomposed)):
            what = f"{self.decomposed:,} letters are apart from their marks (not NFC)"
            if self.composed:
                what += f", {self.composed:,} are one with them"
            yield what, "data.normalize=nfc makes each one character, as most texts have them"
        if self.inner_marks:
            what = f"A byte-order mark (U+FEFF) stands within the text, {self.inner_marks:,} times"
            yield what, "take it out there; it comes from files that were put one behind another"
        yield from self._strangers()

    def _line_ends(self) -> Iterator[tuple[str, str]]:
        others = self.crlf + self.cr
        if others < max(1, _RARE * self.lines):
            return
        ends: list[str] = []
        for name, count in (("LF", self.lf), ("CR LF", self.crlf), ("CR", self.cr)):
            if count:
                ends.append(f"{count:,} {name}")
        if len(ends) > 1:
            what = f"Line ends differ ({', '.join(ends)})"
        else:
            what = f"All lines end in {'CR LF' if self.crlf else 'CR'}"
        yield what, "a model learns to write them so; data.line_ends=lf reads every one as LF"

    def _strangers(self) -> Iterator[tuple[str, str]]:
        told: list[tuple[int, str]] = []
        for letter, script, count in self._stranger_counts():
            meant = _most_frequent(counterparts(letter, script), self.letters)
            usual = self.letters.get(meant, 0)
            if usual >= _FEW and count >= _RARE * usual:
                beside = f"beside {_named(meant)}, {usual:,} times"
                told.append((count, f"{_named(letter)} stands in {script} words, {count:,} times, {beside}"))
        told.sort(reverse=True)
        untold = len(told) - _MOST_LETTERS
        for number, (_, what) in enumerate(told[:_MOST_LETTERS], start=1):
            advice = "they look alike, but are two letters to a model; write them as one"
            if number == _MOST_LETTERS and untold > 0:
                advice += f" (so do {untold} others)"
            yield what, advice

    def _stranger_counts(self) -> Iterator[tuple[str, Script, int]]:
        """Yield the letters in words of another script, that script, and how often, where these are not few."""
        for told, count in self.strangers.items():
            letter, _, name = told.partition(" ")
            for script in SCRIPTS:  # a name that is none of these comes from elsewhere
                if script == name and count >= _FEW and counterparts(letter, script):
                    yield letter, script, count

    def unlike(self, trained: Form, name: str = "text") -> list[str]:
        """Say in what this form is another than that of the text that a model was trained on, a line each."""
        told = [*self._other_line_ends(trained, name), *self._other_marks(trained, name)]
        for other, usual in self._other(trained):
            told.append(f"This {name} has {other} where the training text has {usual}")
        return [f"{line}: the figures are of the text as it is, this difference in them." for line in told]

    def _other_line_ends(self, trained: Form, name: str) -> Iterator[str]:
        if not (self.lines and trained.lines):
            return
        for key, ends in (("crlf", "CR LF"), ("cr", "CR")):
            here = getattr(self, key) / self.lines
            there = getattr(trained, key) / trained.lines
            if _differ(here, there):
                yield f"{here:.0%} of the lines of this {name} end in {ends}, of the training text's {there:.0%}"

    def _other_marks(self, trained: Form, name: str) -> Iterator[str]:
        here = _share(self.decomposed, self.composed)
        there = _share(trained.decomposed, trained.composed)
        if here is not None and there is not None and _differ(here, there):
            what = f"of the marks of this {name} are apart from their letters (not NFC)"
            yield f"{here:.0%} {what}, of the training text's {there:.0%}"

    def _other(self, trained: Form) -> Iterator[tuple[str, str]]:
        """Yield letters of this text with the look-alikes that stand for them in the training text."""
        # This text has strangers where the training text has the letters that are meant.
        for letter, script, count in self._stranger_counts():
            meant = _most_frequent(counterparts(letter, script), trained.letters)
            usual = trained.letters.get(meant, 0)
            before = trained.strangers.get(f"{letter} {script}", 0)
            if count > _OTHER * self.letters.get(meant, 0) and before < _OTHER * usual:
                yield _named(letter), _named(meant)
        # The other way round: the training text has strangers where this text has the letters that are meant.
        for letter, script, before in trained._stranger_counts():
            for meant in counterparts(letter, script):
                count = self.letters.get(meant, 0)
                never = trained.letters.get(meant, 0) < _OTHER * before
                if count >= _FEW and never and self.strangers.get(f"{letter} {script}", 0) < _OTHER * count:
                    yield _named(meant), _named(letter)


def _most_frequent(letters: str, counts: dict[str, int]) -> str:
    """Return the one of ``letters`` that a text has most of, the first of equals."""
    return max(letters, key=lambda letter: counts.get(letter, 0))


def _differ(here: float, there: float) -> bool:
    """Tell whether two shares are those of texts of different forms."""
    return abs(here - there) > _OTHER or (min(here, there) < _ABSENT and max(here, there) > _PRESENT)


def _share(part: int, rest: int) -> float | None:
    """Return ``part`` of the whole; None where that is too small for a share to mean anything."""
    whole = part + rest
    if whole < _FEW:
        return None
    return part / whole


def _named(letter: str) -> str:
    """Return a letter with what tells it from its look-alikes."""
    return f"{script_of(letter)} {letter} (U+{ord(letter):04X})"


class FormWatch:
    """Counts what makes up the form of a text that passes by; of what is not UTF-8 nothing is counted."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_text = True
        self._batch: list[bytes] = []
        self._size = 0
        self._held = ""  # a carriage return whose line feed may come
        self._counts: Counter[str] = Counter()
        self._letters = np.zeros(_CODES, np.int64)  # by code point
        self._strangers: Counter[tuple[str, Script]] = Counter()

    def passing(self, fragments: Iterable[Fragment]) -> Iterator[Fragment]:
        """Pass documents on, counting."""
        for fragment in fragments:
            if fragment.first:
                self._batch.append(_BETWEEN)
            self._batch.append(fragment.data)
            self._size += len(fragment.data)
            if self._size >= _BATCH_BYTES:
                self._count(last=False)
            yield fragment

    def form(self) -> Form | None:
        """Return what was counted; None where the text is not UTF-8."""
        self._count(last=True)
        if not self._is_text:
            return None
        told = {f"{letter} {script}": count for (letter, script), count in self._strangers.items()}
        return Form(**self._counts, letters=dict(_table_letters(self._letters)), strangers=told)

    def _count(self, *, last: bool) -> None:
        """Count what the batch has, and empty it; ``last`` where no text comes after it."""
        data = b"".join(self._batch)
        self._batch = []
        self._size = 0
        if not self._is_text:
            return
        try:
            text = self._held + self._decoder.decode(data, last)
        except UnicodeDecodeError:
            self._is_text = False
            return
        self._held = "\r" if text.endswith("\r") and not last else ""
        text = text[: len(text) - len(self._held)]
        crlf = text.count("\r\n")  # of which both letters are counted alone as well
        self._counts["crlf"] += crlf
        self._counts["cr"] += text.count("\r") - crlf
        self._counts["lf"] += text.count("\n") - crlf
        if text.isascii():  # with neither marks nor letters of a second script
            self._letters[:128] += _histogram(text)[:128]
        else:
            self._count_letters(text)

    def _count_letters(self, text: str) -> None:
        histogram = _histogram(text)
        self._letters += histogram
        self._counts["inner_marks"] += text.count(BYTE_ORDER_MARK)
        # Composing makes a letter and its mark one character; what the text gets shorter by are marks that
        # stand apart, and what it gets longer by when taken apart are those that are one with their letter.
        composed = text
        if not unicodedata.is_normalized("NFC", text):
            composed = unicodedata.normalize("NFC", text)
        self._counts["decomposed"] += max(0, len(text) - len(composed))
        self._counts["composed"] += max(0, len(unicodedata.normalize("NFD", text)) - len(text))
        self._strangers += strangers(text, _table_letters(histogram))


def _table_letters(histogram: Any) -> Counter[str]:
    """Return how often each letter occurs that looks like another, given the numbers of all code points."""
    counts: Counter[str] = Counter()
    for letter in look_alikes():
        if count := histogram[ord(letter)]:
            counts[letter] = int(count)
    return counts


def _histogram(text: str) -> Any:
    """Count the characters of a text below the last that is asked for."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return np.bincount(codes[codes < _CODES], minlength=_CODES)
