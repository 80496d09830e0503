"""The page on the architecture tells of the tree as it is: its rooms, its functions, its shape letters."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.test_floors import FLOORS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "weft"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PICTURE = PAGE.partition("## The picture")[2].partition("```")[2].partition("```")[0]
LETTERS = PAGE.partition("## Shape letters")[2].partition("## Decisions")[0]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::([\w.]+)`", PAGE)))
IN_SHAPES = re.compile(r"\b([A-Z])\b((?: = [^,.]*)?) ?([a-z-]*)")


def rooms_in_the_picture() -> list[str]:
    """The files and folders at the top of the package that the picture names, from top to bottom."""
    starts = [re.match(r"  ((?:[\w]+(?:\.py|/)\s+)+)", line) for line in PICTURE.splitlines()]
    return [room for start in starts if start for room in start.group(1).split()]


@cache
def definitions(path: Path) -> frozenset[str]:
    """The functions and classes of a module, and the methods of its classes as ``Class.method``."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return frozenset(found)


def shapes() -> dict[str, str]:
    """The legend of shapes in the docstring of each module that has one, by its place in the package."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        legend = re.search(r"(?:Shapes|Legend): (.*?)(?:\n\n|\Z)", docstring, re.DOTALL)
        if legend:
            in_brackets_aside = re.sub(r"\([^)]*\)", "", legend.group(1).replace("\n", " "))
            found[path.relative_to(SOURCE).as_posix()] = in_brackets_aside
    return found


def is_room(folder: Path) -> bool:
    """Tell whether a folder holds files of the project: what an older checkout left may hold byte code alone."""
    return folder.is_dir() and any(path.is_file() for path in folder.iterdir()) and "__pycache__" not in folder.parts


SHAPES = shapes()
OWN = dict(re.findall(r"^\| `([\w/.]+)` \| (.*) \|$", LETTERS, re.MULTILINE))
SHARED = dict(re.findall(r"^\| ([A-Z]) \| (.*) \|$", LETTERS, re.MULTILINE))


def test_the_picture_has_every_room_and_no_other():
    told = rooms_in_the_picture()
    there = {path.name for path in SOURCE.glob("*.py")}
    there |= {f"{path.name}/" for path in SOURCE.iterdir() if is_room(path)}
    assert sorted(told) == sorted(there)


def test_every_folder_is_named():
    for folder in SOURCE.rglob("*/"):
        if is_room(folder):
            assert f"{folder.relative_to(SOURCE).as_posix()}/" in PICTURE, folder


def test_the_picture_has_the_rooms_in_the_order_of_the_floors():
    floors = {room: height for height, floor in enumerate(FLOORS) for room in floor.split()}
    names = {"__init__": "weft"}
    told = [room.removesuffix("/").removesuffix(".py") for room in rooms_in_the_picture()]
    known = [name for name in (names.get(room, room) for room in told) if name in floors]
    heights = [floors[name] for name in known]
    climbs = [f"{known[i + 1]} below {known[i]}" for i in range(len(known) - 1) if heights[i + 1] > heights[i]]
    assert not climbs


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_function_that_is_named_exists(file, name):
    assert name in definitions(SOURCE / file)


def test_every_file_that_is_named_exists():
    for name in re.findall(r"`((?:tests|benchmarks|docs)/[\w/.-]+)`", PAGE):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:[a-z]\w*/)+\w+\.py)`", PAGE):
        assert (SOURCE / name).exists() or (ROOT / name).exists(), name


@pytest.mark.parametrize("module", SHAPES)
def test_a_letter_means_in_a_module_what_the_table_says(module):
    for letter, _, word in IN_SHAPES.findall(SHAPES[module]):
        if re.search(rf"\b{letter}\b", OWN.get(module, "")):
            continue
        assert letter in SHARED, f"{letter} of {module} is in no table"
        assert word in SHARED[letter], f"{module} says that {letter} is {word}, the table: {SHARED[letter]}"


def test_letters_of_tensors_outside_files_with_letters_of_their_own_are_in_the_table():
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        if place in OWN or place.startswith("ops/"):  # kernels have constants besides
            continue
        for name, letters in re.findall(r"\b([a-z]\w*)_([A-Z]{1,5})\b", path.read_text(encoding="utf-8")):
            unknown = set(letters) - set(SHARED)
            assert not unknown, f"{path}: {name}_{letters}"
