"""The distribution is weft-lm, and nothing sends people to the package that is called weft, which is another's."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

import weft
from weft.pretrained import SHIM_TEXT

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TEXTS = [
    path
    for folder in ("src", "docs", "examples", "scripts", "recipes", ".github")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".md", ".yaml", ".yml", ".sh", ".toml", ".html", ".js"}
]
TEXTS += [*sorted(ROOT.glob("*.md")), ROOT / "pyproject.toml", ROOT / "Makefile"]
# "pip install weft" and "weft[...]", but not weft-lm; a table in Python, weft[0], is no extra.
ANOTHERS = re.compile(
    r"""pip install[^\n]*[ '"]weft(?![-\w./])"""
    r"""|['"]weft\["""
    r"""|\bweft\[(?:data|demo|dev|docs|eval|export|serve|track|zstd)"""
)


def test_the_version_is_the_installed_packages():
    try:
        installed = version("weft-lm")
    except PackageNotFoundError:
        pytest.skip("the source tree is not installed")
    assert weft.__version__ == installed == PROJECT["project"]["version"]


def test_the_distribution_is_weft_lm_and_the_command_is_weft():
    assert PROJECT["project"]["name"] == "weft-lm"
    assert PROJECT["project"]["scripts"] == {"weft": "weft.cli:main"}
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['project']['version']}\n" in citation


def test_a_saved_models_shim_names_the_distribution():
    assert "pip install --upgrade weft-lm" in SHIM_TEXT


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_tells_anyone_to_install_another_projects_package(path):
    assert not ANOTHERS.search(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("wrong", ["pip install weft", "pip install 'weft[demo]'", "install weft[track], or"])
def test_wrong_advice_would_be_seen(wrong):
    assert ANOTHERS.search(wrong)
    assert not ANOTHERS.search(wrong.replace("weft", "weft-lm"))
