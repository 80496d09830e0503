"""The commands, Python and recipes of the README and the guides run as written, cut short by WEFT_MAX_STEPS."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from weft import cli
from weft.experiments.plan import Plan, Trial, recipe_of
from weft.training.recipe import make_recipe

ROOT = Path(__file__).parents[1]


def blocks(language, page="README.md"):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


# What makes a command quick enough here, and changes nothing else. A server does not end: tests/serve starts it.
QUICK = {"compare": "--parameters 100k --learning-rates 4e-3 --set training.logging.validations=1"}
ELSEWHERE = ("weft serve ", "weft compare my_texts/ --variants ")
GUIDES = ("install", "training", "patterns", "recipes", "compare", "fewer-parameters")


def commands(page="README.md"):
    whole = [block.replace("\\\n", " ") for block in blocks("sh", page)]
    lines = [line.split("  #")[0].strip() for block in whole for line in block.splitlines()]
    found = [line for line in lines if line.startswith("weft ") and not line.startswith(ELSEWHERE)]
    return [f"{line} {QUICK.get(line.split()[1], '')}" for line in found]


@pytest.fixture
def workplace(tmp_path, monkeypatch, corpus_text):
    """A folder with what the README's commands read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEFT_MAX_STEPS", "2")
    (tmp_path / "my_texts").mkdir()
    (tmp_path / "my_texts" / "a.txt").write_text(corpus_text, encoding="utf-8")
    (tmp_path / "more_text.txt").write_text(corpus_text[:500], encoding="utf-8")
    return tmp_path


def run_all(lines, monkeypatch, capsys):
    for line in lines:
        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (0, None), (line, capsys.readouterr().err)


def test_the_commands_of_the_page_on_fewer_parameters_run_in_order(workplace, monkeypatch, capsys):
    for name in ("texts", "other_texts"):
        (workplace / "my_texts").rename(workplace / name)
        shutil.copytree(workplace / name, workplace / "my_texts")
    lines = commands("docs/fewer-parameters.md")
    assert len(lines) >= 6
    run_all(["weft train my_texts --out runs/mine --parameters 100k", *lines], monkeypatch, capsys)


@pytest.mark.parametrize("guide", ["training", "patterns", "compare"])
def test_the_commands_of_a_guide_run_in_order(guide, workplace, monkeypatch, capsys):
    (workplace / "new_texts").mkdir()
    (workplace / "new_texts" / "b.txt").write_text("Another text, a line or two.\n" * 50, encoding="utf-8")
    lines = commands(f"docs/{guide}.md")
    assert lines
    run_all(lines, monkeypatch, capsys)


def test_the_commands_and_python_of_the_page_on_looking_inside_run_in_order(workplace, monkeypatch, capsys):
    lines = commands("docs/inside.md")
    assert lines
    for name, count in (("pairs.jsonl", 6), ("other_pairs.jsonl", 2)):
        (record,) = blocks("json", "docs/inside.md")
        (workplace / name).write_text("\n".join(record.strip().replace("12", str(n)) for n in range(count)))
    run_all(["weft train my_texts --out runs/mine --parameters 100k", *lines], monkeypatch, capsys)
    assert (workplace / "runs" / "mine" / "lens" / "tuned.safetensors").is_file()
    variables = {}
    for block in blocks("python", "docs/inside.md"):
        exec(compile(block, "docs/inside.md", "exec"), variables)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_recipes_of_a_guide_are_recipes(guide):
    for block in blocks("yaml", f"docs/{guide}.md"):
        values = yaml.safe_load(block)
        if values.keys() <= {"model", "data", "training"}:
            make_recipe(values)
        else:  # variants of a comparison
            asked = {"variants": values, "parameters": 2_000_000, "tokens": 1000, "learning_rates": (1e-3,)}
            plan = Plan.parse({"architectures": (), **asked})
            assert all(recipe_of(plan, Trial(name, 1e-3, 0)) for name in values)


def test_commands_and_python_run_in_order(workplace, monkeypatch, capsys):
    assert len(commands()) >= 5
    run_all(commands(), monkeypatch, capsys)
    assert (workplace / "runs" / "mine" / "report.html").is_file()
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
