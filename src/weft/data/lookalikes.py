"""Letters of two scripts that look alike, and where one stands in words of the other's script.

Such a letter is another one to a model: Greek epsilon in a Kabyle text in which Latin open e is meant, Latin
o in a Russian word. Text in several languages is no such case: what is looked at are words that mix scripts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Literal, get_args

Script = Literal["Latin", "Greek", "Cyrillic"]
_RANGES: dict[Script, str] = {
    "Latin": "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Cyrillic": "\u0400-\u052f\ua640-\ua69f",
}
SCRIPTS: tuple[Script, ...] = get_args(Script)
_MARKS = "\u0300-\u036f"
# Each class is of letters that look the same in common fonts, after the confusables of Unicode's TS 39, with
# those that alphabets of small languages have beside the basic ones. A letter is told from its look-alikes by
# its script alone.
_CLASSES = """
AАΑ BВΒ CС EЕΕ HНΗ IІΙӀ JЈ KКΚ MМΜ NΝ OОΟ PРΡ SЅ TТΤ XХΧ YΥҮ ZΖ ƐԐ ƏӘ ƟӨΘ ƩΣ
aаα cс dԁ eе hһ iіι jј kκ lӏ oоο pрρ qԛ sѕ uυ vνѵ wԝ xхχ yуγ ɛεԑ əә ɵөθ ɣγ ɑα ɩι ʋυ ɸφ
""".split()  # noqa: SIM905 - letters that look alike are the point
_SHORTEST_WORD = 4  # shorter ones are mostly formulas


def script_of(letter: str) -> Script | None:
    """Return the script of a letter; None for one of another script, and for all that is no letter."""
    for script in SCRIPTS:
        if _script(script).match(letter):
            return script
    return None


@cache
def _script(script: Script) -> re.Pattern[str]:
    return re.compile(f"[{_RANGES[script]}]")


@cache
def look_alikes() -> dict[str, str]:
    """Return, for each letter of the table, those of other scripts that look like it."""
    found: dict[str, str] = {}
    for members in _CLASSES:
        for letter in members:
            found[letter] = found.get(letter, "") + members.replace(letter, "")
    return found


def counterparts(letter: str, script: Script) -> str:
    """Return the letters of ``script`` that look like ``letter``."""
    found = ""
    for other in look_alikes().get(letter, ""):
        if script_of(other) == script:
            found += other
    return found


def strangers(text: str, letters: Counter[str]) -> Counter[tuple[str, Script]]:
    """Count letters in words of a script in which they have a look-alike, by letter and the words' script.

    ``letters`` are the numbers of the table's letters in the text. A word counts from four letters on, where
    most are of one script and every other letter has a look-alike in it: formulas, units and names seldom
    do.
    """
    found: Counter[tuple[str, Script]] = Counter()
    by_script = Counter[Script]()
    for letter, count in letters.items():
        if script := script_of(letter):
            by_script[script] += count
    if len(by_script) < 2:  # one script alone cannot mix, and most texts are of one
        return found
    main = by_script.most_common(1)[0][0]
    for word in _mixed_words(text, main):
        scripts = Counter[Script]()
        for letter in word:
            if script := script_of(letter):
                scripts[script] += 1
        host, most = scripts.most_common(1)[0]
        others = [letter for letter in word if script_of(letter) not in (host, None)]
        if scripts.total() < _SHORTEST_WORD or most <= len(others):
            continue
        if all(counterparts(letter, host) for letter in others):
            found.update((letter, host) for letter in others)
    return found


def _mixed_words(text: str, main: Script) -> Iterator[str]:
    """Yield the words in which a letter of another script stands beside one of ``main``."""
    # Letters of the scripts that the text has less of are searched for, and the word around each is taken:
    # fewer places than words, so that a large text is soon looked through.
    inside = _script(main)
    word_letters = _word_letters()
    end = 0  # of the last word, which may have several such letters
    for match in _others(main).finditer(text):
        start = match.start()
        beside = text[start - 1 : start] + text[match.end() : match.end() + 1]
        if start < end or not inside.search(beside):
            continue
        while start and word_letters.match(text[start - 1]):
            start -= 1
        word = word_letters.match(text, start)
        assert word is not None
        end = word.end()
        yield word.group()


@cache
def _others(main: Script) -> re.Pattern[str]:
    ranges = [letters for script, letters in _RANGES.items() if script != main]
    return re.compile(f"[{''.join(ranges)}]+")


@cache
def _word_letters() -> re.Pattern[str]:
    return re.compile(f"[{''.join(_RANGES.values())}{_MARKS}]+")
