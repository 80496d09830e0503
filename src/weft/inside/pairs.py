"""Pairs of texts that differ in one thing: what a steering vector is made from, and tested on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from weft.errors import UserError

# The fields of each form: the prompt, what is wanted, what is not.
FORMS = (
    ("prompt", "matching", "other"),
    ("question", "answer_matching_behavior", "answer_not_matching_behavior"),
    (None, "positive", "negative"),
)


class Pair(NamedTuple):
    """Two texts that go on from ``prompt``: the one that is wanted, and the other."""

    prompt: str
    positive: str
    negative: str


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs in a file, a JSON record a line or one list of records; UserError for what is wrong with one.

    A record has ``prompt``, ``matching`` and ``other``; or, as published for contrastive activation addition (Rimsky et
    al. 2024, arXiv 2312.06681), ``question``, ``answer_matching_behavior`` and ``answer_not_matching_behavior``; or two
    texts, ``positive`` and ``negative``.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"The pairs '{path}' cannot be read: give a file of JSON records in UTF-8.") from None
    pairs = [_pair(record, f"pair {number} of '{path}'") for number, record in enumerate(_records(text, path), start=1)]
    if len(pairs) < 2:
        raise UserError(f"'{path}' holds {len(pairs)} pair{'s' * (len(pairs) != 1)}: give two or more.")
    return pairs


def _records(text: str, path: Path) -> Sequence[Any]:
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError:
        pass
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            raise UserError(f"Line {number} of '{path}' is no JSON: give a record a line.") from None
    return records


def _pair(record: Any, which: str) -> Pair:
    for prompt, positive, negative in FORMS:
        needed = [field for field in (prompt, positive, negative) if field]
        if not isinstance(record, Mapping) or not all(field in record for field in needed):
            continue
        values = [record[field] for field in needed]
        if not all(isinstance(value, str) for value in values):
            raise UserError(f"In {which} {', '.join(needed)} must be texts.")
        pair = Pair(record[prompt] if prompt else "", record[positive], record[negative])
        if not pair.positive or not pair.negative:
            raise UserError(f"In {which} one side is empty: give two texts.")
        if pair.positive == pair.negative:
            raise UserError(f"In {which} both sides are the same: give two that differ.")
        return pair
    forms = "; or ".join(", ".join(field for field in form if field) for form in FORMS)
    raise UserError(f"{which[:1].upper()}{which[1:]} has not the fields of a pair: {forms}.")
