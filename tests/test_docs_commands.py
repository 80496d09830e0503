"""Every command that the docs and the recipes' heads show can be read: its options exist, its settings are keys."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest
import typer
from benchmarks.efficiency.questions import QUESTIONS
from benchmarks.study.equal_time import CANDIDATES

from weft.cli import app
from weft.experiments.plan import load_variants
from weft.training.recipe import make_recipe, parse_settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
WEFT = re.compile(r"^(?:[A-Z_]+=\S+ )*(?:torchrun .*-m |accelerate launch .*-m )?(weft .*)$")
BENCHMARK = re.compile(r"^python -m benchmarks\.(efficiency .*|study\.equal_time tune .*)$")


def page_commands(page: Path, kind: re.Pattern[str] = WEFT) -> list[str]:
    """The commands of a page's blocks, ``weft``'s by default, but for those of an old revision."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    shell = [block for language, block in found if language in ("", "sh")]
    blocks = [block.replace("\\\n", " ") for block in shell if "git checkout" not in block]
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [match[1] for line in lines if (match := kind.match(line))]


def recipe_commands(path: Path) -> list[str]:
    """The ``weft`` commands in a recipe's head, whose lines go on with three spaces."""
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = re.sub(r"\n#   +", " ", "\n".join(head))
    return [line[2:] for line in text.splitlines() if line.startswith("# weft ")]


def read(command: str) -> None:
    """Parse ``command`` as the command line does, and its ``--set`` as the recipe does, without a warning."""
    _, verb, *words = shlex.split(command)
    group = typer.main.get_command(app)
    context = group.commands[verb].make_context(verb, words)
    settings = context.params.get("set_values") or []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # old keys are read with a warning
        make_recipe(parse_settings(settings))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_can_be_read(page):
    for command in page_commands(page):
        read(command)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_in_the_head_of_a_recipe_can_be_read(path):
    for command in recipe_commands(path):
        read(command)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "study").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_studies_use_the_keys_of_today(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_variants(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_contenders_that_a_page_names_are_there(page):
    for command in page_commands(page, BENCHMARK):
        words = shlex.split(command)
        known = CANDIDATES if words[0] == "study.equal_time" else QUESTIONS[words[1]]
        for option in ("--only", "--candidates"):
            if option in words:
                assert set(words[words.index(option) + 1].split(";")) <= known.keys()


def test_commands_that_cannot_be_read_are_found():
    with pytest.raises(Exception, match="No such option"):
        read("weft evaluate runs/mine --nothing 3")
    with pytest.raises(ValueError, match="Unknown key"):
        read("weft train texts/ --out runs/a --set training.nothing=3")
