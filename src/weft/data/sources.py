"""Files of text: what their names say of them, and finding them behind the names of sources."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from weft import words
from weft.data.config import BUNDLED
from weft.data.decompression import COMPRESSIONS, ZIP
from weft.data.formats import TABLES
from weft.data.unify import AS_IT_IS, Unify
from weft.errors import UserError

RECORD_SUFFIXES = (".jsonl", ".ndjson")
TEXT_SUFFIXES = (".txt", *RECORD_SUFFIXES)


@dataclass(frozen=True)
class SourceFile:
    """One file of text; its name says how it is compressed and whether it is JSONL, or a table that is read as such.

    ``member`` is the name of the file within, where ``path`` is a zip archive. ``unify`` is what is made one
    in its text as it is read.
    """

    path: Path
    member: str = ""
    unify: Unify = AS_IT_IS

    @property
    def compression(self) -> str:
        """The suffix of the compression, or "" for a plain file."""
        if self.member:
            return ZIP
        suffix = self.path.suffix.lower()
        if suffix in COMPRESSIONS:
            return suffix
        return ""

    @property
    def inner_suffix(self) -> str:
        """The suffix of the file once it is decompressed."""
        path = self.path.with_suffix("") if self.compression else self.path
        return path.suffix.lower()

    @property
    def is_jsonl(self) -> bool:
        """Whether every line is a JSON record, as it is read: the rows of a table are, too."""
        if self.unify.verbatim:
            return self.inner_suffix == ".jsonl"
        return self.inner_suffix in (*RECORD_SUFFIXES, *TABLES)

    @property
    def delimiter(self) -> str:
        """What stands between the cells of a table, or "" where the file is none."""
        if self.unify.verbatim:
            return ""
        return TABLES.get(self.inner_suffix, "")

    @property
    def is_seekable(self) -> bool:
        """Whether the text lies on the disk as it is read, so that reading can begin anywhere."""
        if self.compression or self.delimiter:
            return False
        # Of JSONL the records' texts are unified once they are parsed; the bytes of the file stay as they
        # are.
        return self.is_jsonl or not self.unify.changes


def resolve_sources(names: Sequence[str], unify: Unify = AS_IT_IS) -> tuple[SourceFile, ...]:
    """Return the files that ``names`` (files, folders, globs) stand for, in order, each once.

    A folder gives its .txt and .jsonl files (also compressed), sorted by path, with those of its
    subfolders; hidden ones are passed over. A file that is named is taken whatever its suffix.
    ``weft:NAME`` is a corpus that comes with the package.
    Raises UserError when a name leads to no file.
    """
    if not names or not all(names):
        raise UserError("No text was given: name at least one file, folder or pattern such as 'corpus/*.txt'.")
    # Keyed by the real path, so that a file which two names (or a link) lead to is read once.
    found: dict[Path, SourceFile] = {}
    for name in names:
        for path in _expand(name):
            found.setdefault(path.resolve(), SourceFile(path, unify=unify))
    return tuple(found.values())


def _expand(name: str) -> list[Path]:
    """Return the files behind one name; UserError where one of them cannot be read again and again."""
    try:
        files = _find(name)
    except (OSError, RuntimeError) as error:  # a name that is too long, or a '~user' whom nobody knows
        reason = str(error).rstrip(".")
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        return _no_files(f"{words.short(name)} cannot be looked up ({reason})")
    for file in files:
        require_file(file)
    return files


def require_file(path: Path) -> None:
    """Raise UserError unless ``path`` leads to a file on a disk: a pipe is empty once it was read, a device never."""
    try:
        mode = path.stat().st_mode
    except OSError as error:  # such as links that go round
        raise UserError(f"Cannot read '{path}' ({error.strerror}): check the file and its permissions.") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"'{path}' is a pipe or a device, which cannot be read twice: save its text in a file.")


def _find(name: str) -> list[Path]:
    """Return the files behind one name."""
    if name.startswith(BUNDLED):
        return _bundled(name.removeprefix(BUNDLED))
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path) or _no_files(_no_text_in(path))
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        return _no_files(f"There is no file or folder {words.short(name)}")
    # "**/**" matches what "**" matches, but would walk each folder once for every way to get there.
    parts: list[str] = []
    for part in path.relative_to(path.anchor).parts:
        if part != "**" or parts[-1:] != ["**"]:
            parts.append(part)
    files: list[Path] = []
    for match in sorted(set(_matches(Path(path.anchor), parts))):
        if match.is_dir():
            files.extend(_in_folder(match))
        else:
            files.append(match)
    return files or _no_files(f"Nothing matches {words.short(name)}")


def _matches(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield what the parts of a pattern match below ``folder``, as the module glob does, hidden names passed over.

    But ``**`` follows no links to folders: they may go round, and with two of them glob does not come to an
    end.
    """
    if not parts:
        yield folder
        return
    first = parts[0]
    rest = parts[1:]
    if not glob.has_magic(first):
        if os.path.lexists(folder / first):
            yield from _matches(folder / first, rest)
        return
    if first == "**":
        yield from _matches(folder, rest)  # it may stand for no folder at all
    try:
        children = list(folder.iterdir())
    except OSError:  # no folder, or one that is closed to us
        return
    for child in children:
        if child.name.startswith(".") and not first.startswith("."):
            continue
        if first == "**" and child.is_dir() and not child.is_symlink():
            yield from _matches(child, parts)
        elif first == "**" or fnmatch.fnmatchcase(child.name, first):
            yield from _matches(child, rest)


def _bundled(name: str) -> list[Path]:
    """Return the corpus of this name that comes with the package."""
    folder = Path(__file__).parents[1] / "corpora"
    path = folder / f"{name}.txt.xz"
    if name and path.parent == folder and path.is_file():  # a name with slashes would lead out of the folder
        return [path]
    known = [BUNDLED + found.name.removesuffix(".txt.xz") for found in sorted(folder.glob("*.txt.xz"))]
    raise UserError(f"There is no bundled corpus '{name}': there is {', '.join(known)}.")


def _no_files(what: str) -> list[Path]:
    raise UserError(f"{what}: check the path that was given for the text.")


def _in_folder(folder: Path) -> list[Path]:
    """Return the text files under ``folder`` that are not empty, sorted."""
    files: list[Path] = []
    for path in _visible(folder):
        if SourceFile(path).inner_suffix in TEXT_SUFFIXES and not _is_empty_text(path):
            files.append(path)
    return files


def _visible(folder: Path) -> list[Path]:
    """Return all files under ``folder`` that are not hidden, sorted; links to folders are not followed."""
    files: list[Path] = []
    for root, folders, names in os.walk(folder):
        # In place: os.walk goes by this list.
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                files.append(Path(root) / name)
    return sorted(files)


def _no_text_in(folder: Path) -> str:
    there = ""
    if others := _visible(folder):
        there = f"; it has {_by_suffix(others)}, which are taken where they are named"
    return f"The folder '{folder}' has no .txt or .jsonl files (or .gz .xz .bz2 .zst){there}"


def left_out(names: Sequence[str]) -> str:
    """Say in a sentence which files of the folders among ``names`` are not read; "" where there are none."""
    folders: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        if name and path.is_dir():  # Path("") is the present folder
            folders.append(path)
    if not folders:
        return ""
    taken = {file.path.resolve() for file in resolve_sources(names)}
    empty: list[Path] = []
    unread: list[Path] = []
    for folder in folders:
        for path in _visible(folder):
            if path.resolve() in taken:
                continue
            if _is_empty_text(path):
                empty.append(path)
            else:
                unread.append(path)
    told = []
    if unread:
        told.append(
            f"Not read, as their names do not end in .txt or .jsonl: {_by_suffix(unread)} ({_some(unread)}); a file "
            "that is named is read."
        )
    if empty:
        told.append(f"Not read, as they are empty: {len(empty):,} ({_some(empty)}).")
    return " ".join(told)


def _some(files: Sequence[Path]) -> str:
    """Name a few files."""
    names = [path.name for path in files[:3]]
    if len(files) > 3:
        names.append("...")
    return ", ".join(names)


def _is_empty_text(path: Path) -> bool:
    """Say whether a file is one of text by its name, and has nothing in it."""
    return SourceFile(path).inner_suffix in TEXT_SUFFIXES and path.is_file() and not path.stat().st_size


def _by_suffix(files: Sequence[Path]) -> str:
    """Count files by what their names end in, the most frequent first."""
    counts = Counter(file.suffix.lower() or "without a suffix" for file in files)
    told = []
    rest = len(files)
    for suffix, count in counts.most_common(4):
        told.append(f"{count:,} {suffix}")
        rest -= count
    if rest:
        told.append(f"{rest:,} others")
    return ", ".join(told)
