"""YAML is read as plain values, and nothing that is small in the file is huge in memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
import yaml

from tests.command import assert_mistake, run_weft
from weft.plain_yaml import MAX_VALUES, parse_yaml, read_yaml

LETTERS = "abcdefghijk"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise(LETTERS)
)
MERGES = BOMB.replace("[x, x, x, x, x, x, x, x, x]", "{x: 1}").replace("[*", "{<<: [*")
MERGES = MERGES.replace("]\n", "]}\n")

REFUSED = {
    "aliases of aliases": (BOMB, f"more than {MAX_VALUES:,} values"),
    "merges of merges": (MERGES, f"more than {MAX_VALUES:,} values"),
    "a list in itself": ("a: &a [*a]", "nest"),
    "a deep list": ("a: " + "[" * 100_000, "nest more than 32 deep"),
    "deep lists in one line": ("- " * 5000 + "x", "nest more than 32 deep"),
    "a Python object": ("a: !!python/name:os.system", "names a type"),
    "a set": ("a: !!set {b}", "names a type (!!set)"),
    "a date by tag": ("a: !!timestamp soon", "names a type"),
    "a number of many digits": ("a: " + "9" * 5000, "cannot be read"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_plain_is_refused(tmp_path, text, reason):
    with pytest.raises(yaml.YAMLError) as error:
        parse_yaml(text)
    assert reason in str(error.value)
    (tmp_path / "recipe.yaml").write_text(text)
    (tmp_path / "text.txt").write_text("some text")
    ran = run_weft("train", tmp_path / "text.txt", "--out", tmp_path / "run", "--recipe", tmp_path / "recipe.yaml")
    assert_mistake(ran, "recipe.yaml' is not YAML")


def test_dates_are_text_even_those_that_there_are_not():
    assert parse_yaml("{a: 2024-13-45, b: 2024-02-01, c: 2024-02-01 10:00:00}") == {
        "a": "2024-13-45",
        "b": "2024-02-01",
        "c": "2024-02-01 10:00:00",
    }


def test_aliases_and_merges_may_be_used():
    assert parse_yaml("base: &b {x: 1, y: [2]}\nc: {<<: *b, z: 3}\nd: *b") == {
        "base": {"x": 1, "y": [2]},
        "c": {"x": 1, "y": [2], "z": 3},
        "d": {"x": 1, "y": [2]},
    }


def test_plain_values_are_what_they_were():
    text = "{a: 1, b: 2.5, c: true, d: null, e: text, f: '12', g: [1, [2]], h: {i: .inf}}"
    assert parse_yaml(text) == yaml.safe_load(text)


def test_a_long_list_without_aliases_is_read(tmp_path):
    """Such as the sources of a run over very many files."""
    path = tmp_path / "a.yaml"
    path.write_text("names:\n" + "".join(f"- {number}.txt\n" for number in range(120_000)), encoding="utf-8")
    assert len(read_yaml(path, missing="", broken="")["names"]) == 120_000
