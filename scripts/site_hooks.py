"""What ``make docs`` does beside MkDocs: the site holds all that its pages link to.

The repository's README is the home page. Pages link to files outside ``docs/`` (results, recipes, source). Each such
file is taken into the site under ``repository/``, source and recipes as pages that show their text. A link to a folder
leads to its README, or is plain text where it has none. So no link depends on where the repository is published.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
SHOWN = {".py": "python", ".yaml": "yaml", ".sh": "sh"}  # as pages; other files are copied
# A link whose words are code is a link, so it is looked for before code is.
CODE = re.compile(r"(?P<link>\[`[^`\n]*`\]\([^)\s]+\))|^(?:```|~~~).*?^(?:```|~~~)|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
ROLE = re.compile(r":(?:func|class|mod|meth|data|attr|exc):(?=<code>)")
HIDDEN = "---\nsearch: {exclude: true}\n---\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the repository's top, and every file that a page links to."""
    pages = [ROOT / name for name in TOP]
    pages += [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    seen = set(pages)
    for name, place in TOP.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=text))
    while pages:
        source = pages.pop()
        for target in _targets(source):
            if target not in seen and target.is_file() and not target.is_relative_to(ROOT / "docs"):
                seen.add(target)
                files.append(_taken_in(target, config))
                if target.suffix == ".md":
                    pages.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the page's relative links to where their targets are in the site."""
    source = _source(page.file.src_uri)
    here = PurePosixPath(page.file.src_uri).parent
    return _outside_code(markdown, lambda text: LINK.sub(lambda found: _moved(found, source, here), text))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Drop the roles of reStructuredText from docstrings."""
    return ROLE.sub("", html)


def _source(place: str) -> Path:
    """Return the file of the repository that is at ``place`` in the site."""
    top = {value: key for key, value in TOP.items()}
    if place in top:
        return ROOT / top[place]
    if place.startswith("repository/"):
        return ROOT / place.removeprefix("repository/")
    return ROOT / "docs" / place


def _place(target: Path) -> str:
    """Return where the file ``target`` of the repository is in the site."""
    name = target.relative_to(ROOT).as_posix()
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return TOP.get(name) or f"repository/{name}" + (".md" if target.suffix in SHOWN else "")


def _targets(source: Path) -> list[Path]:
    """Return what the relative links of the page ``source`` lead to, a folder's README in place of the folder."""
    found: list[Path] = []

    def note(text: str) -> str:
        found.extend(_resolved(source, match[3]) for match in LINK.finditer(text))
        return text

    _outside_code(source.read_text(encoding="utf-8"), note)
    return found


def _resolved(source: Path, link: str) -> Path:
    target = (source.parent / link).resolve()
    return target / "README.md" if target.is_dir() else target


def _taken_in(target: Path, config: MkDocsConfig) -> File:
    """Return ``target`` as a file of the site; results are no hits of a search."""
    place = _place(target)
    level = InclusionLevel.NOT_IN_NAV
    if target.suffix == ".md":
        return File.generated(config, place, content=HIDDEN + target.read_text(encoding="utf-8"), inclusion=level)
    if target.suffix in SHOWN:
        text = target.read_text(encoding="utf-8")
        name = target.relative_to(ROOT).as_posix()
        page = f"{HIDDEN}# {name}\n\n````{SHOWN[target.suffix]}\n{text}\n````\n"
        return File.generated(config, place, content=page, inclusion=level)
    return File.generated(config, place, abs_src_path=str(target), inclusion=level)


def _moved(found: re.Match[str], source: Path, here: PurePosixPath) -> str:
    picture, text, link, anchor = found.groups()
    if re.match(r"[a-z]+:", link) or link.startswith("/"):
        return found[0]
    target = _resolved(source, link)
    if not target.is_relative_to(ROOT) or not target.is_file():
        if target.name == "README.md" and target.parent.is_dir():
            return text  # a folder without a page
        return found[0]  # MkDocs says that it is broken
    place = os.path.relpath(_place(target), here)
    return f"{picture}[{text}]({place}{anchor or ''})"


def _outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """Return ``markdown`` with what is not code changed."""
    parts: list[str] = []
    end = 0
    for code in CODE.finditer(markdown):
        parts.append(change(markdown[end : code.start()]))
        parts.append(change(code[0]) if code["link"] else code[0])
        end = code.end()
    return "".join([*parts, change(markdown[end:])])
