"""Files that are either whole or not there: written aside, flushed to disk, renamed; and where the cache is."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weft.errors import UserError


def cache_dir() -> Path:
    """Return the folder of the cache: $WEFT_CACHE, or ``weft`` in $XDG_CACHE_HOME, or ``~/.cache/weft``."""
    if own := os.environ.get("WEFT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "weft"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into one sentence; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk is full: '{path}' could not be written; free some space and run again with --resume "
                "(what was saved before is intact)."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"'{path}' cannot be written: choose another place or change its permissions.") from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"'{path}' cannot be made: a part of it is a file; choose another place.") from error
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``, replacing what is there only once everything is on disk."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode() if isinstance(content, str) else content
    with disk_errors(path):
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        sync_folder(path.parent)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process, until it ends in whatever way; UserError where another one holds it.

    Where the file system has no locks, nothing is held.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"Another process is at work in '{folder}': let it finish, or stop it first.") from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
