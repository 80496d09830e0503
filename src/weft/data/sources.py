"""Files of text: finding them, reading them block by block, and checking that they are text."""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from weft.data.config import BUNDLED
from weft.errors import UserError

if TYPE_CHECKING:
    from gzip import GzipFile

BLOCK_BYTES = 1 << 20
COMPRESSIONS = (".gz", ".xz", ".bz2", ".zst")
ZIP = ".zip"
TEXT_SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class SourceFile:
    """One file of text; its name says how it is compressed and whether it is JSONL.

    ``member`` is the name of the file within, where ``path`` is a zip archive.
    """

    path: Path
    member: str = ""

    @property
    def compression(self) -> str:
        """The suffix of the compression, or "" for a plain file."""
        if self.member:
            return ZIP
        suffix = self.path.suffix.lower()
        return suffix if suffix in COMPRESSIONS else ""

    @property
    def inner_suffix(self) -> str:
        """The suffix of the file once it is decompressed."""
        path = self.path.with_suffix("") if self.compression else self.path
        return path.suffix.lower()

    @property
    def is_jsonl(self) -> bool:
        """Whether every line is a JSON record."""
        return self.inner_suffix == ".jsonl"


def resolve_sources(names: Sequence[str]) -> tuple[SourceFile, ...]:
    """Return the files that ``names`` (files, folders, globs) stand for, in order, each once.

    A folder gives its .txt and .jsonl files (also compressed), sorted by path, with those of its
    subfolders; hidden ones are passed over. A file that is named is taken whatever its suffix.
    ``weft:NAME`` is a corpus that comes with the package.
    Raises UserError when a name leads to no file.
    """
    if not names or not all(names):
        raise UserError("No text was given: name at least one file, folder or pattern such as 'corpus/*.txt'.")
    found: dict[Path, SourceFile] = {}
    for name in names:
        for path in _expand(name):
            found.setdefault(path.resolve(), SourceFile(path))
    return tuple(found.values())


def _expand(name: str) -> list[Path]:
    """Return the files behind one name."""
    if name.startswith(BUNDLED):
        return _bundled(name.removeprefix(BUNDLED))
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_folder(path) or _no_files(f"The folder '{name}' has no .txt or .jsonl files (or .gz .xz .bz2 .zst)")
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        return _no_files(f"There is no file or folder '{name}'")
    matches = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    files = [file for match in matches for file in (_in_folder(match) if match.is_dir() else [match])]
    return files or _no_files(f"Nothing matches '{name}'")


def _bundled(name: str) -> list[Path]:
    """Return the corpus of this name that comes with the package."""
    folder = Path(__file__).parents[1] / "corpora"
    path = folder / f"{name}.txt.xz"
    if name and path.parent == folder and path.is_file():
        return [path]
    known = ", ".join(BUNDLED + found.name.removesuffix(".txt.xz") for found in sorted(folder.glob("*.txt.xz")))
    raise UserError(f"There is no bundled corpus '{name}': there is {known}.")


def _no_files(what: str) -> list[Path]:
    raise UserError(f"{what}: check the path that was given for the text.")


def _in_folder(folder: Path) -> list[Path]:
    """Return the text files under ``folder``, sorted; links to folders are not followed."""
    files: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        visible = (Path(root) / name for name in names if not name.startswith("."))
        files.extend(path for path in visible if SourceFile(path).inner_suffix in TEXT_SUFFIXES)
    return sorted(files)


def read_raw(file: SourceFile, start: int = 0) -> Iterator[bytes]:
    """Yield the file as it lies on the disk from byte ``start``, in blocks of up to 1 MiB."""
    try:
        with file.path.open("rb") as stream:
            stream.seek(start)
            while block := stream.read(BLOCK_BYTES):
                yield block
    except OSError as error:
        raise UserError(f"Cannot read '{file.path}' ({error.strerror}): check the file and its permissions.") from None


def read_blocks(file: SourceFile, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield bytes [start, stop) of the decompressed file, in blocks; UserError when it is damaged."""
    if file.compression:
        yield from _window(_decompressed(file), start, stop)
    else:
        yield from _window(read_raw(file, start), 0, None if stop is None else stop - start)


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


def _decompressed(file: SourceFile) -> Iterator[bytes]:
    import lzma
    import zipfile
    import zlib

    damage: tuple[type[Exception], ...] = (EOFError, OSError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)
    if file.compression == ".zst":
        damage = (*damage, _zstandard().ZstdError)
    try:
        yield from _OPENERS[file.compression](file)
    except UserError:
        raise
    except damage as error:
        what = str(error).rstrip(".") or "it ends too early"
        raise UserError(f"'{file.path}' is damaged ({what}): fetch or compress it again.") from None


def _gzip(file: SourceFile) -> Iterator[bytes]:
    import gzip

    with gzip.open(file.path) as stream:
        yield from _blocks(stream)


def _xz(file: SourceFile) -> Iterator[bytes]:
    import lzma

    with lzma.open(file.path) as stream:
        yield from _blocks(stream)


def _bz2(file: SourceFile) -> Iterator[bytes]:
    import bz2

    with bz2.open(file.path) as stream:
        yield from _blocks(stream)


def _zip(file: SourceFile) -> Iterator[bytes]:
    import zipfile

    with zipfile.ZipFile(file.path) as archive, archive.open(file.member) as stream:
        yield from _blocks(stream)


def _zst(file: SourceFile) -> Iterator[bytes]:
    """Yield all frames; zstandard's own reader would take a file that ends too early for a whole one."""
    make = _zstandard().ZstdDecompressor().decompressobj
    frame = make()
    for block in read_raw(file):
        rest = block
        while rest:
            frame = make() if frame.eof else frame
            yield frame.decompress(rest)
            rest = frame.unused_data
    if not frame.eof:
        raise EOFError


_OPENERS: dict[str, Callable[[SourceFile], Iterator[bytes]]] = {
    ".gz": _gzip,
    ".xz": _xz,
    ".bz2": _bz2,
    ".zst": _zst,
    ZIP: _zip,
}


def _blocks(stream: IO[bytes] | GzipFile) -> Iterator[bytes]:
    while block := stream.read(BLOCK_BYTES):
        yield block


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise UserError("Reading .zst files needs zstandard: pip install 'weft[zstd]'.") from None
    return zstandard


def checked(file: SourceFile, blocks: Iterator[bytes], *, any_bytes: bool) -> Iterator[bytes]:
    """Pass the blocks of a whole file through, raising UserError where it is empty, binary or not UTF-8.

    ``any_bytes`` (the byte tokenizer) takes NUL bytes and undecodable ones in plain text as they are.
    """
    strict = not any_bytes or file.is_jsonl
    position, tail, blank = 0, b"", True
    for block in blocks:
        if strict:
            tail = _decodable(file, tail + block, position - len(tail))
        blank = blank and not block.strip()
        position += len(block)
        yield block
    if tail:
        raise _undecodable(file, position - len(tail))
    if blank:
        what = "has only white space" if position else "is empty"
        raise UserError(f"'{file.path}' {what}: give a file with text.")


def _decodable(file: SourceFile, data: bytes, offset: int) -> bytes:
    """Return the bytes of an unfinished character at the end of ``data``, which lies at ``offset``."""
    nul = data.find(0)
    if nul >= 0:
        raise UserError(
            f"'{file.path}' looks binary (a NUL at byte {offset + nul}): give UTF-8 text, or train "
            "with --tokenizer bytes, which takes any."
        )
    try:
        _, used = codecs.utf_8_decode(data, "strict", False)
    except UnicodeDecodeError as error:
        raise _undecodable(file, offset + error.start) from None
    return data[used:]


def _undecodable(file: SourceFile, offset: int) -> UserError:
    return UserError(
        f"'{file.path}' is not UTF-8 at byte {offset}: convert it to UTF-8, or train with "
        "--tokenizer bytes, which takes any."
    )
