"""The commands and Python of the README (and of a page of docs) run as written, cut short by WEFT_MAX_STEPS."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from weft import cli

ROOT = Path(__file__).parents[1]


def blocks(language, page="README.md"):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


# What makes a command quick enough here, and changes nothing else. A server does not end: tests/serve starts it.
QUICK = {"compare": "--parameters 100k --learning-rates 4e-3 --set training.validations=1"}
ELSEWHERE = ("weft serve ",)


def commands(page="README.md"):
    lines = [line.split("  #")[0].strip() for block in blocks("sh", page) for line in block.splitlines()]
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


def test_commands_and_python_run_in_order(workplace, monkeypatch, capsys):
    assert len(commands()) >= 5
    run_all(commands(), monkeypatch, capsys)
    assert (workplace / "runs" / "mine" / "report.html").is_file()
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
