"""The pattern language: one short string that says which blocks a model is made of.

Letters are blocks: ``a`` attention, ``f`` feed-forward, ``q`` QRNN, ``x`` fused attention-QRNN. A number
repeats what stands before it, brackets group and nest, spaces are ignored:

- ``(af)12``: twelve separate copies, 24 blocks;
- ``[qfaf]3``: the same parameters applied three times (recurrent stacking);
- ``{qfaf}3``: three copies whose linear maps are matrix products that share their central tensors.

``expand`` turns the string into the tuple of block applications that a model is built from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from weft import words
from weft.errors import UserError

KINDS = {"a": "attention", "f": "feed_forward", "q": "qrnn", "x": "attn_qrnn"}
MAX_DEPTH = 1024
MAX_NESTING = 32
MAX_PARAMETERS = 10**11  # the depth rule has fewer than MAX_DEPTH blocks up to there
_MAX_LETTERS = 10_000
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}


class Application(NamedTuple):
    """One use of a block: its ``kind`` (a letter) and which block's parameters it uses.

    ``central`` is None outside ``{ }``; inside, the block whose central tensors it uses.
    """

    kind: str
    block: int
    central: int | None = None


class PatternError(UserError):
    """A pattern that cannot be read; the message shows the pattern with a caret under the place."""

    def __init__(self, message: str, pattern: str, position: int) -> None:
        super().__init__(f"{message}\n  {pattern}\n  {' ' * position}^")
        self.position = position


@dataclass(frozen=True)
class _Item:
    """A letter or a group, repeated, in brackets of the kind ``opened``: '[' reuses all parameters, '{' the central."""

    content: str | tuple[_Item, ...]
    times: int
    opened: str = "("

    @property
    def shared(self) -> bool:
        return self.opened == "["


def expand(pattern: str) -> tuple[Application, ...]:
    """Return the block applications of ``pattern`` in order.

    Applications with the same ``block`` share parameters. Raises :class:`PatternError`.
    """
    items = _Parser(pattern).parse()
    depth = _depth(items)
    if depth > MAX_DEPTH:
        raise PatternError(f"The pattern has {depth} blocks; the most is {MAX_DEPTH}.", pattern, 0)
    return tuple(_expand(items, start=0)[0])


def reapplied(pattern: str, times: int) -> str:
    """Return ``pattern`` with its outermost ``[ ]`` applied ``times`` times; UserError where it has none."""
    expand(pattern)
    parts, depth, place = [], 0, 0
    for found in re.finditer(r"\[|\](\s*[0-9]+)?", pattern):
        depth += 1 if found[0] == "[" else -1
        if depth == 0:
            parts += [pattern[place : found.start()], f"]{times}"]
            place = found.end()
    if not parts:
        raise UserError(f"The pattern '{pattern}' has no '[ ]', whose applications could be chosen: leave them out.")
    return "".join([*parts, pattern[place:]])


def unshared(pattern: str) -> str:
    """Return ``pattern`` with a copy of its own for each application of a block."""
    return pattern.translate(str.maketrans("[]", "()"))


def _depth(items: tuple[_Item, ...]) -> int:
    return sum(item.times * (1 if isinstance(item.content, str) else _depth(item.content)) for item in items)


def _expand(items: tuple[_Item, ...], start: int) -> tuple[list[Application], int]:
    """Expand ``items``, numbering new blocks from ``start``; return the applications and the next number."""
    applications: list[Application] = []
    for item in items:
        first: list[Application] = []
        for _ in range(1 if item.shared else item.times):
            if isinstance(item.content, str):
                once, start = [Application(item.content, start)], start + 1
            else:
                once, start = _expand(item.content, start)
            if item.opened == "{":
                first = first or [each._replace(central=each.block) if each.central is None else each for each in once]
                once = [each._replace(central=of.central) for each, of in zip(once, first, strict=True)]
            applications += once * (item.times if item.shared else 1)
    return applications, start


class _Parser:
    """Recursive descent over the characters, keeping the position for error messages."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0
        self.nesting = 0

    def parse(self) -> tuple[_Item, ...]:
        if len(self.pattern) > _MAX_LETTERS:
            raise UserError(
                f"The pattern has {len(self.pattern):,} characters; the most is {_MAX_LETTERS:,}: write what repeats "
                "as a bracket with a number."
            )
        items = self._sequence(closing="")
        if not items:
            raise self._error("The pattern is empty: write blocks such as '(af)4' or 'qfaf'.", 0)
        return items

    def _sequence(self, closing: str) -> tuple[_Item, ...]:
        return tuple(self._items(closing))

    def _items(self, closing: str) -> Iterator[_Item]:
        opened = self.position - 1
        while (character := self._peek()) != closing:
            if character == "":
                raise self._error("This bracket is never closed.", opened)
            yield self._item(character)
        self.position += bool(closing)

    def _item(self, character: str) -> _Item:
        at = self.position
        self.position += 1
        if character in KINDS:
            return _Item(character, self._number())
        if character not in _CLOSING:
            raise self._error(self._complaint(character), at)
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self._error(f"Brackets nest at most {MAX_NESTING} deep.", at)
        content = self._sequence(_CLOSING[character])
        self.nesting -= 1
        if not content:
            raise self._error("This bracket is empty.", at)
        return _Item(content, self._number(), opened=character)

    def _complaint(self, character: str) -> str:
        if character in _CLOSING.values():
            return f"'{character}' closes nothing here."
        if character.isdigit():
            return "A number must follow the letter or bracket that it repeats."
        letters = ", ".join(f"{letter} ({kind})" for letter, kind in KINDS.items())
        return f"'{character}' is not a block: the letters are {letters}."

    def _number(self) -> int:
        """Read an optional repeat count (1 when there is none)."""
        self._peek()
        at, digits = self.position, ""
        while self.position < len(self.pattern) and self.pattern[self.position] in "0123456789":
            digits += self.pattern[self.position]
            self.position += 1
        if digits and not 1 <= int(digits[:9]) <= MAX_DEPTH:
            raise self._error(f"A repeat count is from 1 to {MAX_DEPTH}.", at)
        return int(digits or 1)

    def _peek(self) -> str:
        """Return the next character that is not a space, or '' at the end, without taking it."""
        while self.position < len(self.pattern) and self.pattern[self.position].isspace():
            self.position += 1
        return self.pattern[self.position : self.position + 1]

    def _error(self, message: str, position: int) -> PatternError:
        return PatternError(message, self.pattern, position)


def _par(pairs: int) -> str:
    """Attention in the first two thirds only, one block in five (Mandava et al. 2021, arXiv 2009.04534).

    The exact string is the rule's reading in x-transformers (``par_ratio=5``), not proven to be the paper's.
    """
    blocks = 2 * pairs
    attentions = max(1, blocks // 5)
    cut = blocks * 2 // 3
    width = min((cut + cut // attentions) // attentions, blocks // attentions)
    rest = blocks - width * attentions
    group = f"a{'f' * (width - 1)}"
    return (f"({group}){attentions}" if attentions > 1 else group) + (f" f{rest}" if rest > 0 else "")


def _hybrid(pairs: int) -> str:
    """QRNN and feed-forward pairs with attention as the third of every four mixers, the second where there are fewer.

    Our reconstruction of the Hybrid Transformer (arXiv 2502.00617, whose layer string is unknown to us):
    recurrence below, little attention, in the upper middle (the placement of SHA-RNN and SRU++).
    """
    mixers = ["a" if pair % 4 == (2 if pairs > 3 else 1) else "q" for pair in range(pairs)]
    return " ".join(f"{mixer}f" for mixer in mixers)


class Architecture(NamedTuple):
    """A named family of patterns.

    ``pattern`` maps a number of Transformer pairs (``af``) to a pattern of about the same cost; ``preset``
    names the shell it stands in; ``settings`` are changes to the model's configuration; ``source`` says
    where it comes from.
    """

    pattern: Callable[[int], str]
    source: str
    preset: str = "modern"
    settings: dict[str, dict[str, object]] | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "transformer": Architecture(lambda n: f"(af){n}", "Vaswani et al. 2017, in the modern pre-norm shell"),
    "transformer-xl": Architecture(lambda n: f"(af){n}", "Dai et al. 2019 (arXiv 1901.02860)", "classic"),
    "par": Architecture(_par, "Mandava et al. 2021 (arXiv 2009.04534)"),
    "attn-qrnn": Architecture(
        lambda n: f"x{2 * n}", "fused blocks after SRU++, Lei 2021 (arXiv 2102.12459); our reconstruction"
    ),
    "sha-qrnn": Architecture(
        lambda n: " ".join(["qf"] * (n - 2) + ["qaf", "qf"]),
        "SHA-RNN, Merity 2019 (arXiv 1911.11423), with QRNNs as in SHAQ (arXiv 2108.08207)",
        settings={"attention": {"num_heads": 1}},
    ),
    "qrnn": Architecture(lambda n: f"q{max(1, 3 * n // 2)}", "Bradbury et al. 2017 (arXiv 1611.01576), with residuals"),
    "hybrid": Architecture(_hybrid, "Hybrid Transformer (arXiv 2502.00617); our reconstruction"),
}


def default_pairs(parameters: float) -> int:
    """Return the depth rule's number of Transformer pairs for a budget of ``parameters``.

    From 3 pairs at 1M and 2M (docs/study.md, "Blocks, and how many": the hybrid at 1M with three seeds, at 2M, and the
    Transformer at 1M, with one) to Transformer-XL's 12 at 41M. Between them (5 at 5M, 7 at 10M) it is a guess.
    """
    return max(2, round(12 * math.pow(parameters / 41e6, 0.42)))


def parse_count(text: str | float) -> int:
    """Return the number that ``text`` says: 2000000, 2e6, 2M, 1.5k. Raises UserError.

    How large it may be is for the field to say that it is for.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:_[0-9]+)*\.?[0-9]*(?:e\+?[0-9]+)?)\s*([kmbg]?)\s*", str(text).lower())
    number = float(match[1]) * _UNITS[match[2]] if match else math.inf
    if not math.isfinite(number):
        raise UserError(f"{words.short(str(text))} is not a count: write for example 2000000, 2e6 or 2M.")
    return int(number)
