"""How deep JSON nests: a line too deep would end the library that reads it, and this process with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from weft.data.documents import lines_of
from weft.data.sources import SourceFile
from weft.data.text_blocks import read_blocks
from weft.errors import UserError

MAX_NESTING = 64  # what the library itself can take up into its tables
JSON_SUFFIXES = (".json", ".jsonl")
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)


def require_flat(path: Path) -> None:
    """Raise UserError where a line of a file of JSON nests more than ``MAX_NESTING`` deep."""
    file = SourceFile(path)
    if file.inner_suffix not in JSON_SUFFIXES:
        return
    for number, line in enumerate(lines_of(read_blocks(file)), start=1):
        # Counting brackets is quick, and hardly any line has so many that their depth has to be looked at.
        if line.count(b"[") + line.count(b"{") > MAX_NESTING and _depth(line) > MAX_NESTING:
            raise UserError(f"Line {number} of '{path}' nests more than {MAX_NESTING} deep: leave it out.")


def _depth(line: bytes) -> int:
    """Return how many brackets outside of strings are open at once at most."""
    deepest = depth = 0
    for found in _TOKENS.finditer(line):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(found[0], 0)
        deepest = max(deepest, depth)
    return deepest


def json_files(path: Path) -> Iterable[Path]:
    """Return the files of JSON in a folder of data files, or ``path`` itself where it is a file."""
    if not path.is_dir():
        return [path]
    files: list[Path] = []
    for file in sorted(path.rglob("*.json*")):
        if file.is_file() and not file.name.startswith("."):
            files.append(file)
    return files
