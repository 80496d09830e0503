"""Files of text: finding them, reading them block by block, and checking that they are text."""

from __future__ import annotations

import codecs
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
from weft.data.decompression import COMPRESSIONS, ZIP, decompressed
from weft.data.formats import BLOCK_BYTES, MARK, TABLES, encoding_of, require_text, table_records
from weft.data.unify import AS_IT_IS, Unify
from weft.errors import UserError

RECORD_SUFFIXES = (".jsonl", ".ndjson")
TEXT_SUFFIXES = (".txt", *RECORD_SUFFIXES)
LARGE_BYTES = 1 << 25  # of such a file a few places are looked at before it is read through
GLANCES = 32
GLANCE_BYTES = 1 << 12


@dataclass(frozen=True)
class SourceFile:
    """One file of text; its name says how it is compressed and whether it is JSONL, or a table that is read as such.

    ``member`` is the name of the file within, where ``path`` is a zip archive. ``unify`` is what is made one in its
    text as it is read.
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
        # Of JSONL the records' texts are unified once they are parsed; the bytes of the file stay as they are.
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

    But ``**`` follows no links to folders: they may go round, and with two of them glob does not come to an end.
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
        folders[:] = [name for name in folders if not name.startswith(".")]  # in place: os.walk goes by this list
        files.extend(Path(root) / name for name in names if not name.startswith("."))
    return sorted(files)


def _no_text_in(folder: Path) -> str:
    there = ""
    if others := _visible(folder):
        there = f"; it has {_by_suffix(others)}, which are taken where they are named"
    return f"The folder '{folder}' has no .txt or .jsonl files (or .gz .xz .bz2 .zst){there}"


def left_out(names: Sequence[str]) -> str:
    """Say in a sentence which files of the folders among ``names`` are not read; "" where there are none."""
    paths = [Path(name).expanduser() for name in names if name]
    folders = [path for path in paths if path.is_dir()]
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


def read_raw(file: SourceFile, start: int = 0) -> Iterator[bytes]:
    """Yield the file as it lies on the disk from byte ``start``, in blocks of up to 1 MiB."""
    try:
        with file.path.open("rb") as stream:
            stream.seek(start)
            while block := stream.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(file: SourceFile, error: OSError) -> UserError:
    return UserError(f"Cannot read '{file.path}' ({error.strerror}): check the file and its permissions.")


def read_blocks(file: SourceFile, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield bytes [start, stop) of the text in the file, in blocks; UserError when it is damaged.

    The text is what is decompressed, without a byte-order mark at its start, in the form that is asked for; that of a
    table is its rows as JSON records.
    """
    if not file.is_seekable:
        yield from _window(_converted(file), start, stop)
        return
    # Positions count from behind the byte-order mark, which is no text.
    blocks = read_raw(file, start + _mark_bytes(file))
    length = None if stop is None else stop - start
    yield from _window(blocks, 0, length)


def text_size(file: SourceFile) -> int:
    """Return the number of bytes that :func:`read_blocks` reads of the file."""
    if file.is_seekable:
        return file.path.stat().st_size - _mark_bytes(file)
    return sum(len(block) for block in read_blocks(file))


def _converted(file: SourceFile) -> Iterator[bytes]:
    """Yield the text of a file in which it does not lie as it is."""
    blocks = read_raw(file)
    if file.compression:
        blocks = decompressed(file.path, file.compression, file.member)
    if not file.unify.verbatim:
        blocks = _without_mark(blocks)
    if not file.is_jsonl:
        return file.unify.blocks(blocks)
    if not file.delimiter:
        return blocks  # what is made one is the text of each record
    return table_records(str(file.path), checked(file, blocks, any_bytes=False), file.delimiter)


def _mark_bytes(file: SourceFile) -> int:
    """Return the length of the byte-order mark that a plain file begins with: 0 or 3."""
    if file.unify.verbatim:
        return 0
    try:
        with file.path.open("rb") as stream:
            return len(MARK) if stream.read(len(MARK)) == MARK else 0
    except OSError as error:
        raise _unreadable(file, error) from None


def _without_mark(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Drop the byte-order mark at the start of a text."""
    start = b""  # the first blocks, as a decompressor may give the mark's three bytes one by one
    for block in blocks:
        start += block
        if len(start) >= len(MARK):
            break
    if text := start.removeprefix(MARK):
        yield text
    yield from blocks


def _window(blocks: Iterator[bytes], start: int, stop: int | None) -> Iterator[bytes]:
    """Yield what lies in [start, stop) of a stream of blocks."""
    position = 0
    for block in blocks:
        if stop is not None and position >= stop:
            return
        part = block[max(0, start - position) : None if stop is None else stop - position]
        position += len(block)
        if part:
            yield part


def checked(file: SourceFile, blocks: Iterator[bytes], *, any_bytes: bool) -> Iterator[bytes]:
    """Pass the blocks of a whole file through, raising UserError where it is empty, binary or not UTF-8.

    ``any_bytes`` (the byte tokenizer) takes NUL bytes and undecodable ones in plain text as they are.
    """
    if not file.unify.verbatim:
        require_text(str(file.path), file.inner_suffix, any_bytes=any_bytes)
    strict = not any_bytes or file.is_jsonl
    if strict and not file.compression:
        _glance(file)
    position = 0
    tail = b""  # the beginning of a character that goes on in the next block
    blank = True
    for block in blocks:
        if strict:
            if not position and (name := encoding_of(block)):
                raise _other_encoding(file, name)
            tail = _decodable(file, tail + block, position - len(tail))
        blank = blank and not block.strip()
        position += len(block)
        yield block
    if tail:
        raise _undecodable(file, position - len(tail))
    if blank:
        what = "has only white space" if position else "is empty"
        raise UserError(f"'{file.path}' {what}: give a file with text.")


def _glance(file: SourceFile) -> None:
    """Raise UserError where one of a few places of a large file holds a NUL, before all of it is read."""
    size = file.path.stat().st_size
    if size < LARGE_BYTES:
        return
    for number in range(1, GLANCES + 1):
        place = (size - GLANCE_BYTES) * number // GLANCES
        nul = next(read_raw(file, place))[:GLANCE_BYTES].find(0)
        if nul >= 0:
            raise _binary(file, place + nul)


def _decodable(file: SourceFile, data: bytes, offset: int) -> bytes:
    """Return the bytes of an unfinished character at the end of ``data``, which lies at ``offset``."""
    nul = data.find(0)
    if nul >= 0:
        raise _binary(file, offset + nul)
    try:
        _, used = codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError as error:
        raise _undecodable(file, offset + error.start) from None
    return data[used:]


def _binary(file: SourceFile, offset: int) -> UserError:
    return UserError(
        f"'{file.path}' looks binary (a NUL at byte {offset}): give UTF-8 text, or train with --tokenizer bytes, "
        "which takes any."
    )


def _other_encoding(file: SourceFile, name: str) -> UserError:
    hint = ""
    if not file.compression:  # iconv reads no compressed file
        copy = file.path.with_name(f"{file.path.stem}-utf8{file.path.suffix}")
        hint = f", such as by: iconv -f {name} -t UTF-8 '{file.path}' > '{copy}'"
    return UserError(f"'{file.path}' is {name}, not UTF-8: convert it{hint}.")


def _undecodable(file: SourceFile, offset: int) -> UserError:
    return UserError(
        f"'{file.path}' is not UTF-8 at byte {offset}: convert it to UTF-8, or train with "
        "--tokenizer bytes, which takes any."
    )
