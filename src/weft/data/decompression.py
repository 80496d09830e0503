"""Compressed files, decompressed as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from weft.errors import UserError

if TYPE_CHECKING:
    from gzip import GzipFile

BLOCK_BYTES = 1 << 20
COMPRESSIONS = (".gz", ".xz", ".bz2", ".zst")
ZIP = ".zip"


def decompressed(path: Path, compression: str, member: str = "") -> Iterator[bytes]:
    """Yield what is in a file compressed so, in blocks; UserError when it is damaged.

    ``member`` is the name of the file within a zip archive.
    """
    import lzma
    import zipfile
    import zlib

    # What the libraries raise where a file is damaged, each in its own way.
    damage: tuple[type[Exception], ...] = (EOFError, OSError, lzma.LZMAError, zlib.error, zipfile.BadZipFile)
    if compression == ".zst":
        damage = (*damage, _zstandard().ZstdError)
    try:
        yield from _open(path, compression, member)
    except UserError:
        raise
    except damage as error:
        # The system's own errors have a number, a library's have none.
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"Cannot read '{path}' ({error.strerror}): check the file and its permissions.") from None
        what = str(error).rstrip(".") or "it ends too early"
        raise UserError(f"'{path}' is damaged ({what}): fetch or compress it again.") from None


def _open(path: Path, compression: str, member: str) -> Iterator[bytes]:
    import bz2
    import gzip
    import lzma

    if compression == ZIP:
        return _zip(path, member)
    if compression == ".zst":
        return _zst(path)
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
    return _blocks(openers[compression](path))


def _zip(path: Path, member: str) -> Iterator[bytes]:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        yield from _blocks(archive.open(member))


def _zst(path: Path) -> Iterator[bytes]:
    """Yield all frames; zstandard's own reader would take a file that ends too early for a whole one."""
    make = _zstandard().ZstdDecompressor().decompressobj
    frame = make()
    for block in _blocks(path.open("rb")):
        rest = block
        while rest:
            if frame.eof:
                frame = make()
            yield frame.decompress(rest)
            rest = frame.unused_data
    if not frame.eof:
        raise EOFError


def _blocks(file: IO[bytes] | GzipFile) -> Iterator[bytes]:
    with file as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise UserError("Reading .zst files needs zstandard: pip install 'weft-lm[zstd]'.") from None
    return zstandard
