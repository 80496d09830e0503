"""Files that are either whole or not there: written aside, flushed to disk, renamed; and where the cache is."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Any

from weft import words
from weft.errors import UserError


def cache_dir() -> Path:
    """Return the folder of the cache: $WEFT_CACHE, or ``weft`` in $XDG_CACHE_HOME, or ``~/.cache/weft``."""
    if own := os.environ.get("WEFT_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "weft"


UNNAMEABLE = (errno.ENAMETOOLONG, errno.ELOOP)


def unnameable(error: OSError) -> str:
    """Say in a sentence that a path leads nowhere, as it is too long or its links go round."""
    return f"{words.short(error.filename)} is no path ({error.strerror}): check what was given."


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into one sentence; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk is full: '{path}' could not be written; free some space and run again, a training with "
                "resume=True (what was saved before is intact)."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"'{path}' cannot be written: choose another place or change its permissions.") from error
        if error.errno in UNNAMEABLE:
            raise UserError(unnameable(error)) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"'{path}' cannot be made: a part of it is a file; choose another place.") from error
        if error.errno == errno.EISDIR:
            raise UserError(f"'{path}' cannot be written: there is a folder of that name; move it away.") from error
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``, replacing what is there only once everything is on disk."""
    aside = temporary(path)
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


def temporary(path: Path) -> Path:
    """Return where this process writes ``path`` until it is whole; :func:`sweep` knows the name."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def temporaries(folder: Path, *names: str) -> dict[Path, int]:
    """Return what writers of ``names`` (or patterns of names) have in ``folder``, with their process numbers."""
    found = {}
    for path in folder.glob(".*.tmp"):
        name, _, writer = path.name.removeprefix(".").removesuffix(".tmp").rpartition(".")
        if writer.isdecimal() and any(fnmatchcase(name, known) for known in names):
            found[path] = int(writer)
    return found


def sweep(folder: Path, *names: str) -> None:
    """Remove what killed writers of ``names`` (or patterns of names) left in ``folder``, as the one who holds it.

    What belongs to a process that lives stays. This one has not begun to write: what bears its number is of
    another that had the same (in a container all have small ones).
    """
    for path, writer in temporaries(folder, *names).items():
        if writer == os.getpid() or not _lives(writer):
            remove(path)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename what is at ``path``, which is damaged, and return its new place: nothing is thrown away."""
    for number in count(1):
        again = f"-{number}" if number > 1 else ""
        place = path.with_name(f"{path.name}.damaged{again}")
        if not os.path.lexists(place):
            break
    path.rename(place)
    return place


def json_object(text: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that ``text`` is; None where it is anything else, or damaged."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@contextmanager
def alone_in(folder: Path, *, make: bool = False) -> Iterator[None]:
    """Hold ``folder`` for the caller, until this process ends in whatever way; UserError where another one holds it.

    With ``make`` the folder is made where it is not there, and removed at the end if nothing was put into it.
    It is the folder itself that is locked, so whoever holds it must not exchange it for another. Where the
    file system has no locks, nothing is held.
    """
    made: list[Path] = []
    descriptor = None
    while descriptor is None:
        if make:
            made += _make(folder)
        descriptor = _locked(folder)
    try:
        yield
    finally:
        try:
            for each in reversed(made):
                with suppress(OSError):  # it holds something
                    each.rmdir()
        finally:
            os.close(descriptor)


def _make(folder: Path) -> list[Path]:
    """Make ``folder`` and what is missing above it; return what was made, from above."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # a file system that makes no folders, such as /proc
        raise UserError(f"'{folder}' cannot be made: choose another place.") from None
    return missing[::-1]


def _locked(folder: Path) -> int | None:
    """Return a descriptor of ``folder`` that locks it; None where the folder was removed meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"Another process is at work in '{folder}': let it finish, or stop it first.") from None
    except OSError:
        return descriptor
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return descriptor
    os.close(descriptor)
    return None


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
