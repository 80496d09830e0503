"""Every relative link and anchor of the pages resolves."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

import weft

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "src").rglob("*.md"),
    ]
)
CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?)\s*#*$", re.MULTILINE)
ELSEWHERE = ("http:", "https:", "mailto:")


def slug(heading: str) -> str:
    """The anchor of a heading: lower case, punctuation dropped, spaces to hyphens."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", words.lower()).strip())


@cache
def anchors(page: Path) -> frozenset[str]:
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return frozenset(slug(heading) for heading in HEADING.findall(text))


def broken(page: Path) -> list[str]:
    """The links of ``page`` that lead nowhere."""
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    found = []
    for link in LINK.findall(text):
        if link.startswith(ELSEWHERE):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        whole = target.exists() and ROOT in (target, *target.parents)
        if not whole or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    assert broken(page) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# A heading: `code`, words\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-heading-code-words) ![c](missing.png) [d](other.md#nothing) `[e](gone.md)`\n",
        encoding="utf-8",
    )
    assert broken(page) == ["missing.png", "other.md#nothing"]


def test_the_page_on_python_has_every_public_name():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: weft\.(\w+)$", page, flags=re.MULTILINE)) == sorted(weft.__all__)


def test_every_page_is_in_the_navigation_of_the_site():
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/-]+\.md", config.partition("\nnav:\n")[2]))
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages | {"index.md", "contributing.md", "changelog.md"} == listed


def test_every_page_of_the_research_notes_is_in_their_index():
    folder = ROOT / "docs" / "research"
    index = set(LINK.findall((folder / "README.md").read_text(encoding="utf-8")))
    assert {page.name for page in folder.glob("*.md")} - {"README.md"} <= index


def test_every_research_note_has_a_table_on_top_and_commands():
    for page in sorted((ROOT / "docs" / "research").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if page.name == "README.md":
            continue
        assert "\n## Reproduce\n" in text, page
        assert "```sh" in text.partition("\n## Reproduce\n")[2], page
        if not page.stem.endswith("method"):
            assert text.index("\n| ") < text.index("\n## "), page
