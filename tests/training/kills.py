"""A process that is killed at a chosen file operation, played in this one: from then on nothing changes on the disk.

An audit hook hears of every opening, renaming, making and removing; flushing is heard of by a patch. Once the chosen
operation comes, it and all later ones raise :class:`Killed` before they do anything, so that nothing is tidied up.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

DESCRIPTORS = Path("/proc/self/fd")  # where the system tells what is open
_OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


class Killed(BaseException):
    """The process is no more."""


class Watch:
    """Counts the operations under a folder; ``at`` is the number of the first that does not happen any more."""

    def __init__(self, folder: Path, at: int | None) -> None:
        self.folder, self.at, self.operations = folder, at, list[str]()

    def hear(self, event: str, path: Path) -> None:
        if not path.is_relative_to(self.folder):
            return
        if len(self.operations) == self.at:
            raise Killed
        self.operations.append(f"{event} {path.name}")


_watching: list[Watch] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or event not in _OPERATIONS:
        return
    if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    if isinstance(arguments[0], str | bytes | os.PathLike):
        _watching[-1].hear(event, _whole(os.fsdecode(arguments[0]), arguments[-1]))


def _whole(name: str, folder: Any) -> Path:
    """Return the path from the root; where a whole folder is removed, names come with a descriptor of the folder."""
    path = Path(name)
    if path.is_absolute() or not isinstance(folder, int) or folder <= 2:
        return path.absolute()
    return (DESCRIPTORS / str(folder)).readlink() / path


sys.addaudithook(_hook)


@contextmanager
def killed(folder: Path, at: int | None) -> Iterator[Watch]:
    """Let everything inside happen up to the file operation number ``at`` under ``folder`` (None: all of it)."""
    watch = Watch(folder, at)
    fsync = os.fsync

    def flush(descriptor: int) -> None:
        watch.hear("fsync", (DESCRIPTORS / str(descriptor)).readlink())
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", flush)
        _watching.append(watch)
        try:
            yield watch
        except Killed:
            pass
        finally:
            _watching.remove(watch)
