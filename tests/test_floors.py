"""Imports only go down: a room knows nothing of the rooms above it, and no two modules know each other.

Imports inside functions and for type checkers count like all others: they say as much about who knows whom.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"

# The rooms of src/weft, folders and modules, from low to high. A room may import what stands before it.
FLOORS = (
    "errors words waiting launch signals version",
    "files plain_yaml numbers settings kinds pattern architectures config arguments model_recipe draft older",
    "ops data layers memory blocks tracing",
    "model sizing description language_model pretrained",
    "recall",
    "mixing",
    "baselines records",
    "export hf generation evaluation",
    "training",
    "reading run",
    "experiments reports",
    "remembering",
    "compress heads inside search",
    "serve integrations",
    "api",
    "weft",  # the public names
    "flags",
    "terminal demo",
    "cli __main__",
)
ROOMS = " ".join(FLOORS).split()

# Circles of modules that are known: the module, whom it should not import, and why it does.
KNOWN: dict[tuple[str, str], str] = {
    ("weft.kinds", "weft.config"): "what is registered is named by its type",
    ("weft.kinds", "weft.blocks.base"): "what is registered is named by its type",
}


def modules() -> dict[str, Path]:
    """Return the file of every module of the package, by its name."""
    found = {}
    for path in sorted((SOURCE / "weft").rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


def imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            assert node.level == 0, f"{path} imports by a relative name"
            for alias in node.names:
                # "from weft import words" is of a module, "from weft.words import size" of a name in one
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def graph() -> dict[str, set[str]]:
    """Return what every module imports."""
    known = modules()
    return {name: set(imported(path, known)) for name, path in known.items()}


def room_of(module: str) -> str:
    """Return the folder or the module under ``weft`` that a module belongs to."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def reached(start: str, imports: Mapping[str, set[str]]) -> set[str]:
    """Return all modules that ``start`` comes to import, through others too."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for module in imports[waiting.pop()] - found:
            found.add(module)
            waiting.append(module)
    return found


def test_every_room_has_its_floor():
    missing = {room_of(module) for module in modules()} - set(ROOMS)
    assert not missing, f"say in FLOORS where they stand: {sorted(missing)}"
    assert len(ROOMS) == len(set(ROOMS))


def test_imports_go_down_only():
    height = {room: place for place, room in enumerate(ROOMS)}
    climbs = []
    for module, targets in graph().items():
        for target in targets:
            if height[room_of(target)] > height[room_of(module)] and (module, target) not in KNOWN:
                climbs.append(f"{module} imports {target}")
    assert not climbs, "\n".join(sorted(climbs))


def test_no_two_modules_know_each_other():
    imports = graph()
    for module, target in KNOWN:
        assert target in imports[module], f"{module} does not import {target} any more: take it out of KNOWN"
        imports[module].remove(target)
    circles = [module for module in imports if module in reached(module, imports)]
    assert not circles, f"these import each other: {circles}"


def test_a_late_import_and_one_for_type_checkers_are_seen(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import weft.files\n"
        "from weft import words\n"
        "if TYPE_CHECKING:\n    from weft.model import WeftModel\n"
        "def late():\n    from weft.api import train\n",
        encoding="utf-8",
    )
    assert set(imported(path, modules())) == {"weft.files", "weft.words", "weft.model", "weft.api"}
