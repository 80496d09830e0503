"""The public names stand in one table; what type checkers read is the same."""

from __future__ import annotations

import ast
from pathlib import Path

import weft


def test_type_checkers_see_the_public_names_and_no_others():
    seen = {}
    for node in ast.walk(ast.parse(Path(weft.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                assert isinstance(line, ast.ImportFrom)
                for alias in line.names:
                    assert alias.asname == alias.name, f"{alias.name} is not exported to type checkers"
                    seen[alias.name] = line.module
    assert seen == weft._HOMES
    assert {*weft.__all__, "__version__"} == set(weft._HOMES)
