"""A folder of prepared corpora, keyed by what is in them; anything in it may be deleted at any time."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from weft.data.sources import SourceFile
from weft.data.text_blocks import read_raw
from weft.errors import UserError
from weft.files import cache_dir

META = "meta.json"
_KEY = re.compile("[0-9a-f]{32}")
# clear_cache() deletes these only; their names are ours alone, since WEFT_CACHE may point to any folder.
_ENTRIES = "weft-prepared"
_DOWNLOADS = "weft-downloads"
_KERNELS = "weft-kernels"


def downloads_dir() -> Path:
    """Return the folder of what was downloaded, whole or in part."""
    return cache_dir() / _DOWNLOADS


def clear_cache() -> int:
    """Delete all prepared corpora, downloads and machine code kept here; return the bytes that were freed."""
    freed = 0
    for folder in (cache_dir() / _ENTRIES, downloads_dir(), cache_dir() / _KERNELS):
        for path in folder.rglob("*"):
            if path.is_file():
                freed += path.stat().st_size
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
    return freed


def content_key(settings: dict[str, Any], groups: Mapping[str, Iterable[SourceFile]]) -> str:
    """Return a key that depends on ``settings`` and the contents and formats (not the names) of the files."""
    described: dict[str, list[list[str]]] = {}
    for name, files in groups.items():
        described[name] = [[file.compression, kind_of(file), content_hash(file)] for file in files]
    text = json.dumps([settings, described], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def kind_of(file: SourceFile) -> str:
    """Return how a file is read once it is decompressed."""
    if file.delimiter:
        return file.inner_suffix
    if file.is_jsonl:
        return "jsonl"
    return "text"


def content_hash(file: SourceFile) -> str:
    """Return a hash of a file as it lies on the disk; a process reads it once until somebody writes to it."""
    try:
        told = file.path.stat()
    except OSError:  # reading it says what is wrong
        return _content_hash(file.path, ())
    # What changes when somebody writes to a file; these are the key of what this process has read already.
    return _content_hash(file.path, (told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns))


@lru_cache(maxsize=1 << 16)
def _content_hash(path: Path, _version: tuple[int, ...]) -> str:
    # ``_version`` is there for the lru_cache: another version of the file is read again.
    digest = hashlib.blake2b(digest_size=32)
    for block in read_raw(SourceFile(path)):
        digest.update(block)
    return digest.hexdigest()


def kept(key: str) -> tuple[Path, dict[str, Any]] | None:
    """Return an entry of the cache, as :func:`cached` does, where it is there and whole."""
    if not _KEY.fullmatch(key):
        return None
    entry = cache_dir() / _ENTRIES / key
    told = _intact(entry)
    if told is None:
        return None
    return entry, told


def cached(key: str, build: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """Return the folder of an entry and what ``build`` said of it, building it where it is not there whole.

    ``build`` fills an empty folder, which takes its place in one step when it is complete. UserError where
    the cache cannot be written.
    """
    entry = cache_dir() / _ENTRIES / key
    meta = _intact(entry)
    if meta is None:  # it was never built, or somebody has deleted or damaged a part of it
        try:
            _build(entry, build)
        except OSError as error:
            raise UserError(
                f"Cannot write the cache in '{cache_dir()}' ({error.strerror or error}): make room there, "
                "or set WEFT_CACHE to another folder."
            ) from None
        meta = _intact(entry)
        assert meta is not None, "an entry that was just built is whole"
    return entry, meta


def _build(entry: Path, build: Callable[[Path], dict[str, Any]]) -> None:
    """Build an entry beside its place, and move it there in one step: what is half built is never found."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{entry.name}.", suffix=".part", dir=entry.parent))
    try:
        meta = {"told": build(folder), "files": _checksums(folder)}
        (folder / META).write_text(json.dumps(meta), encoding="utf-8")
        _move(folder, entry)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, entry: Path) -> None:
    """Put ``folder`` in its place, unless another process was there first; a damaged entry makes way."""
    if entry.exists() and _intact(entry) is None:
        shutil.rmtree(entry, ignore_errors=True)
    try:
        folder.rename(entry)
    except OSError:
        # Another process was first. If its entry is whole, it is as good as this one: the key is of the content.
        if _intact(entry) is None:
            raise


def _intact(entry: Path) -> dict[str, Any] | None:
    """Return what is told of an entry if every file of it is as it was written."""
    try:
        meta = json.loads((entry / META).read_text(encoding="utf-8"))
        whole = meta["files"] == _checksums(entry)
        told: dict[str, Any] = meta["told"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not whole:
        return None
    return told


def _checksums(folder: Path) -> dict[str, list[int]]:
    """Return the size and CRC-32 of each file of an entry, but for ``META``, which holds them."""
    checksums: dict[str, list[int]] = {}
    for path in sorted(folder.iterdir()):
        if path.name == META:
            continue
        crc = 0
        size = 0
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                crc = zlib.crc32(block, crc)
                size += len(block)
        checksums[path.name] = [size, crc]
    return checksums
