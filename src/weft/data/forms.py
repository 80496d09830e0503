"""The form that a text has: line ends, letters and marks composed or not, letters that look like others.

None of these can be seen, and each is another token to a model. So they are counted, told, and kept with a run.
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
_ABSENT, _PRESENT = 0.001, 0.01  # or where one has less than the first, and the other more than the second
_CODES = max(map(ord, look_alikes())) + 1


@dataclass(frozen=True, kw_only=True)
class Form:
    """What is counted of a text.

    ``lf``, ``crlf`` and ``cr`` are line ends; ``composed`` and ``decomposed`` are marks that are one character with
    their letter, and that could be; ``inner_marks`` byte-order marks within the text. ``letters`` counts those that
    look like one of another script, ``strangers`` those of them that stand in words of that other script (by letter
    and script, such as "ε Latin").
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
        counts = {name: told.get(name, 0) for name in ("lf", "crlf", "cr", "composed", "decomposed", "inner_marks")}
        tables = {name: told.get(name, {}) for name in ("letters", "strangers")}
        if not all(isinstance(table, dict) for table in tables.values()):
            return None
        numbers = [*counts.values(), *(count for table in tables.values() for count in table.values())]
        return cls(**counts, **tables) if all(isinstance(number, int) for number in numbers) else None

    @property
    def lines(self) -> int:
        """The number of line ends."""
        return self.lf + self.crlf + self.cr

    def remarks(self) -> list[str]:
        """Say what of a training text is not of one form, and what to do, a line each."""
        return [f"{what}: {advice}." for what, advice in self._findings()]

    def facts(self) -> list[str]:
        """Say what of a text is not of one form, a line each."""
        return [f"{what}." for what, _ in self._findings()]

    def _findings(self) -> Iterator[tuple[str, str]]:
        """Yield what is not of one form, with what to do about it."""
        yield from self._line_ends()
        if self.decomposed >= max(_FEW, _RARE * (self.composed + self.decomposed)):
            others = f", {self.composed:,} are one with them" if self.composed else ""
            what = f"{self.decomposed:,} letters are apart from their marks (not NFC){others}"
            yield what, "--set data.normalize=nfc makes each one character, as most texts have them"
        if self.inner_marks:
            what = f"A byte-order mark (U+FEFF) stands within the text, {self.inner_marks:,} times"
            yield what, "take it out there; it comes from files that were put one behind another"
        yield from self._strangers()

    def _line_ends(self) -> Iterator[tuple[str, str]]:
        others = self.crlf + self.cr
        if others < max(1, _RARE * self.lines):
            return
        if max(self.crlf, self.cr) == self.lines:
            what = f"All lines end in {'CR LF' if self.crlf else 'CR'}"
        else:
            counts = {"LF": self.lf, "CR LF": self.crlf, "CR": self.cr}
            what = f"Line ends differ ({', '.join(f'{count:,} {name}' for name, count in counts.items() if count)})"
        yield what, "a model learns to write them so; --set data.line_ends=lf reads every one as LF"

    def _strangers(self) -> Iterator[tuple[str, str]]:
        told = []
        for letter, script, count in self._stranger_counts():
            meant = max(counterparts(letter, script), key=lambda other: self.letters.get(other, 0))
            usual = self.letters.get(meant, 0)
            if usual >= _FEW and count >= _RARE * usual:
                beside = f"beside {_named(meant)}, {usual:,} times"
                told.append((count, f"{_named(letter)} stands in {script} words, {count:,} times, {beside}"))
        told.sort(reverse=True)
        for number, (_, what) in enumerate(told[:_MOST_LETTERS], start=1):
            last = number == _MOST_LETTERS < len(told)
            others = f" (so do {len(told) - _MOST_LETTERS} others)" if last else ""
            yield what, f"they look alike, but are two letters to a model; write them as one{others}"

    def _stranger_counts(self) -> Iterator[tuple[str, Script, int]]:
        """Yield the letters in words of another script, that script, and how often, where that is not just a few."""
        for told, count in self.strangers.items():
            letter, _, name = told.partition(" ")
            script = next((script for script in SCRIPTS if script == name), None)
            if script and count >= _FEW and counterparts(letter, script):
                yield letter, script, count

    def unlike(self, trained: Form, name: str = "text") -> list[str]:
        """Say in what this form is another than that of the text that a model was trained on, a line each."""
        told = [*self._other_line_ends(trained, name), *self._other_marks(trained, name)]
        told += [
            f"This {name} has {other} where the training text has {usual}" for other, usual in self._other(trained)
        ]
        return [f"{line}: the figures are of the text as it is, this difference in them." for line in told]

    def _other_line_ends(self, trained: Form, name: str) -> Iterator[str]:
        if not (self.lines and trained.lines):
            return
        for key, ends in (("crlf", "CR LF"), ("cr", "CR")):
            here, there = getattr(self, key) / self.lines, getattr(trained, key) / trained.lines
            if _differ(here, there):
                yield f"{here:.0%} of the lines of this {name} end in {ends}, of the training text's {there:.0%}"

    def _other_marks(self, trained: Form, name: str) -> Iterator[str]:
        here, there = _share(self.decomposed, self.composed), _share(trained.decomposed, trained.composed)
        if here is not None and there is not None and _differ(here, there):
            what = f"of the marks of this {name} are apart from their letters (not NFC)"
            yield f"{here:.0%} {what}, of the training text's {there:.0%}"

    def _other(self, trained: Form) -> Iterator[tuple[str, str]]:
        """Yield letters of this text with those that look like them and stand for them in the training text."""
        for letter, script, count in self._stranger_counts():
            meant = max(counterparts(letter, script), key=lambda other: trained.letters.get(other, 0))
            usual, before = trained.letters.get(meant, 0), trained.strangers.get(f"{letter} {script}", 0)
            if count > _OTHER * self.letters.get(meant, 0) and before < _OTHER * usual:
                yield _named(letter), _named(meant)
        for letter, script, before in trained._stranger_counts():
            for meant in counterparts(letter, script):
                count = self.letters.get(meant, 0)
                never = trained.letters.get(meant, 0) < _OTHER * before
                if count >= _FEW and never and self.strangers.get(f"{letter} {script}", 0) < _OTHER * count:
                    yield _named(meant), _named(letter)


def _differ(here: float, there: float) -> bool:
    """Tell whether two shares are those of texts of different forms."""
    return abs(here - there) > _OTHER or (min(here, there) < _ABSENT and max(here, there) > _PRESENT)


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest >= _FEW else None


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
        self._letters = np.zeros(_CODES, np.int64)
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
        letters = {letter: int(count) for letter in look_alikes() if (count := self._letters[ord(letter)])}
        told = {f"{letter} {script}": count for (letter, script), count in self._strangers.items()}
        return Form(**self._counts, letters=letters, strangers=told)

    def _count(self, *, last: bool) -> None:
        data, self._batch, self._size = b"".join(self._batch), [], 0
        if not self._is_text:
            return
        try:
            text = self._held + self._decoder.decode(data, last)
        except UnicodeDecodeError:
            self._is_text = False
            return
        self._held = "\r" if text.endswith("\r") and not last else ""
        text = text[: len(text) - len(self._held)]
        crlf = text.count("\r\n")
        self._counts["crlf"] += crlf
        self._counts["cr"] += text.count("\r") - crlf
        self._counts["lf"] += text.count("\n") - crlf
        if text.isascii():
            self._letters[:128] += _histogram(text)[:128]
        else:
            self._count_letters(text)

    def _count_letters(self, text: str) -> None:
        histogram = _histogram(text)
        self._letters += histogram
        self._counts["inner_marks"] += text.count(BYTE_ORDER_MARK)
        composed = text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)
        self._counts["decomposed"] += max(0, len(text) - len(composed))
        self._counts["composed"] += max(0, len(unicodedata.normalize("NFD", text)) - len(text))
        letters = Counter({letter: int(count) for letter in look_alikes() if (count := histogram[ord(letter)])})
        self._strangers += strangers(text, letters)


def _histogram(text: str) -> Any:
    """Count the characters of a text below the last that is asked for."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return np.bincount(codes[codes < _CODES], minlength=_CODES)
