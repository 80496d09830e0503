"""The pattern language: one short string that says which blocks a model is made of.

Letters are blocks: ``a`` attention, ``f`` feed-forward, ``q`` QRNN, ``x`` fused attention-QRNN. A number
repeats what stands before it, brackets group and nest, spaces are ignored:

- ``(af)12``: twelve separate copies, 24 blocks;
- ``[qfaf]3``: the same parameters applied three times (recurrent stacking);
- ``{qfaf}3``: three copies whose linear maps are matrix products that share their central tensors.

Capitals are letters of one's own: a recipe says which kind of block each is, with other settings.

:func:`expand` turns the string into a :class:`Stack`, which a model is built from; nothing reads the string
again. What is done with the applications of a model is done with its stack, and :func:`written` writes a
pattern for it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from weft import words
from weft.errors import UserError
from weft.kinds import kinds, known_kinds
from weft.numbers import MAX_DEPTH

MAX_NESTING = 32
_MAX_LETTERS = 10_000
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}


class Loop(NamedTuple):
    """What an outermost ``[ ]`` repeats: from application ``start`` on, ``length`` of them, ``times`` in a row."""

    start: int
    length: int
    times: int


class Stack(NamedTuple):
    """Which blocks a model has and how they are applied.

    ``letters`` and ``centrals`` have one entry for each block with parameters of its own: its
    letter, and the block whose central tensors it uses (None outside ``{ }``). ``schedule`` lists
    the block of each application.
    """

    letters: tuple[str, ...]
    schedule: tuple[int, ...]
    centrals: tuple[int | None, ...]
    loops: tuple[Loop, ...] = ()


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


def expand(pattern: str, own_letters: Collection[str] = ()) -> Stack:
    """Return the blocks of ``pattern`` and their applications; ``own_letters`` are those that a recipe defines.

    Raises :class:`PatternError`.
    """
    items = _Parser(pattern, own_letters).parse()
    depth = _depth(items)
    if depth > MAX_DEPTH:
        raise PatternError(f"The pattern has {depth} blocks; the most is {MAX_DEPTH}.", pattern, 0)
    uses, loops = _expand(items, start=0)
    blocks = {use.block: use for use in uses}  # in order, as new blocks have the next number
    return Stack(
        letters=tuple(use.letter for use in blocks.values()),
        schedule=tuple(use.block for use in uses),
        centrals=tuple(use.central for use in blocks.values()),
        loops=tuple(loops),
    )


def reapplied(stack: Stack, times: int) -> Stack:
    """Return ``stack`` with its outermost ``[ ]`` applied ``times`` times; UserError where it has none."""
    if not stack.loops:
        raise UserError(
            f"The pattern '{written(stack)}' has no '[ ]', whose applications could be chosen: leave them out."
        )
    schedule: list[int] = []
    loops = []
    place = 0
    for loop in stack.loops:
        schedule += stack.schedule[place : loop.start]
        loops.append(Loop(len(schedule), loop.length, times))
        schedule += stack.schedule[loop.start : loop.start + loop.length] * times
        place = loop.start + loop.length * loop.times
    schedule += stack.schedule[place:]
    if len(schedule) > MAX_DEPTH:
        raise UserError(f"{times} applications make {len(schedule):,} blocks; the most is {MAX_DEPTH}.")
    return stack._replace(schedule=tuple(schedule), loops=tuple(loops))


def unshared(stack: Stack) -> Stack:
    """Return ``stack`` with a block of its own for each application.

    Of blocks that share central tensors, those of one pass share them: the n-th application of each.
    """
    passes: dict[int, list[int]] = {}  # the applications of each block, which are the numbers of its copies
    for place, block in enumerate(stack.schedule):
        passes.setdefault(block, []).append(place)
    centrals: list[int | None] = []
    for place, block in enumerate(stack.schedule):
        owner = stack.centrals[block]
        if owner is None:
            centrals.append(None)
        else:
            number = passes[block].index(place)  # of the pass
            centrals.append(passes[owner][number])
    letters = tuple(stack.letters[block] for block in stack.schedule)
    return Stack(letters, tuple(range(len(letters))), tuple(centrals))


def written(stack: Stack) -> str:
    """Return a pattern for ``stack``, for people to read: what repeats stands in brackets."""
    return _written(stack, stack.schedule)


def _written(stack: Stack, schedule: Sequence[int]) -> str:
    """Write ``schedule``: at each place what repeats over the longest stretch, or a letter."""
    text = ""
    place = 0
    while place < len(schedule):
        # Of all that repeats from here on, in any bracket, take what covers the most; of equals the shortest.
        best = ("", 1, 1)  # the bracket, the length of what repeats, how often
        for length in range(1, (len(schedule) - place) // 2 + 1):
            for opened in _CLOSING:
                times = _repeats(stack, schedule[place:], length, opened)
                if times > 1 and times * length > best[1] * best[2]:
                    best = (opened, length, times)
        opened, length, times = best
        if times == 1:
            text += stack.letters[schedule[place]]
        else:
            once = _written(stack, schedule[place : place + length])
            if opened != "(" or len(once) > 1:
                once = f"{opened}{once}{_CLOSING[opened]}"
            text += f"{once}{times}"
        place += length * times
    return text


def _repeats(stack: Stack, schedule: Sequence[int], length: int, opened: str) -> int:
    """Return how often the first ``length`` applications stand in a row, as brackets of one kind repeat them."""
    first = schedule[:length]
    times = 1
    while len(other := schedule[times * length : (times + 1) * length]) == length:
        if opened == "[":
            alike = other == first
        else:  # copies: other blocks of the same letters, which repeat among themselves as the first do
            # A block that is applied again further on is no copy: it belongs to the loop that begins with it.
            elsewhere = {*schedule[: times * length], *schedule[(times + 1) * length :]}
            alike = not elsewhere & set(other)
            alike = alike and [other.index(block) for block in other] == [first.index(block) for block in first]
            for block, of in zip(other, first, strict=True):
                shares = stack.centrals[block] is not None
                same = stack.centrals[block] == stack.centrals[of] and stack.letters[block] == stack.letters[of]
                alike = alike and same and shares == (opened == "{")
        if not alike:
            break
        times += 1
    return times


def _depth(items: tuple[_Item, ...]) -> int:
    """Return the number of applications."""
    depth = 0
    for item in items:
        once = 1 if isinstance(item.content, str) else _depth(item.content)
        depth += item.times * once
    return depth


class _Use(NamedTuple):
    """One application of a block, while a pattern is expanded."""

    letter: str
    block: int
    central: int | None = None


def _expand(items: tuple[_Item, ...], start: int) -> tuple[list[_Use], list[Loop]]:
    """Expand ``items``, numbering new blocks from ``start``; return the applications and the outermost loops."""
    uses: list[_Use] = []
    loops: list[Loop] = []
    for item in items:
        first: list[_Use] = []  # of the copies in { }: those that own the central tensors
        copies = 1 if item.shared else item.times
        for _ in range(copies):
            inner: list[Loop] = []
            if isinstance(item.content, str):
                once = [_Use(item.content, start)]
            else:
                once, inner = _expand(item.content, start)
            start = max(start, 1 + max(use.block for use in once))
            if item.opened == "{":
                first = first or [_as_owner(use) for use in once]
                once = [use._replace(central=of.central) for use, of in zip(once, first, strict=True)]
            if item.shared:  # an outer loop takes the place of those inside it
                loops.append(Loop(len(uses), len(once), item.times))
                uses += once * item.times
            else:
                loops += [loop._replace(start=len(uses) + loop.start) for loop in inner]
                uses += once
    return uses, loops


def _as_owner(use: _Use) -> _Use:
    """Return the use with its own block as the one whose central tensors it uses, unless an inner { } gave another."""
    return use if use.central is not None else use._replace(central=use.block)


class _Parser:
    """Recursive descent over the characters, keeping the position for error messages."""

    def __init__(self, pattern: str, own_letters: Collection[str]) -> None:
        self.pattern = pattern
        self.own_letters = own_letters
        self.known = {*kinds(), *own_letters}
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
        if character in self.known:
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
        own = ""
        if self.own_letters:
            own = f", and your own {', '.join(self.own_letters)}"
        hint = ""
        if character.isupper():
            hint = " Capitals are letters of your own, which model.letters defines."
        return f"'{character}' is not a block: the letters are {known_kinds()}{own}.{hint}"

    def _number(self) -> int:
        """Read an optional repeat count (1 when there is none)."""
        self._peek()
        at = self.position
        digits = ""
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


def parse_count(text: str | float) -> int:
    """Return the number that ``text`` says: 2000000, 2e6, 2M, 1.5k. Raises UserError.

    How large it may be is for the field to say that it is for.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:_[0-9]+)*\.?[0-9]*(?:e\+?[0-9]+)?)\s*([kmbg]?)\s*", str(text).lower())
    number = math.inf
    if match:
        number = float(match[1]) * _UNITS[match[2]]
    if not math.isfinite(number):
        raise UserError(f"{words.short(str(text))} is not a count: write for example 2000000, 2e6 or 2M.")
    return int(number)
