"""How much memory this machine can give, so that what asks for more is told before it is tried."""

from __future__ import annotations

import math
from pathlib import Path

from weft import words
from weft.errors import UserError


class TooLargeError(UserError):
    """This machine's memory does not hold what was asked for."""


_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> float:
    """Return the bytes that this process can still be given, swap included; infinite where the system does not say."""
    free = math.inf
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free = 1024.0 * sum(int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError, IndexError):
        pass
    return min(free, _left_in_group())


def _left_in_group() -> float:
    """Return what the control group (a container) leaves, counting as free what it merely keeps of files."""
    try:
        most, used = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        told = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return math.inf if most == "max" else float(int(most) - int(used) + int(told["inactive_file"]))
    except (OSError, ValueError, KeyError):
        return math.inf


def check_memory(needed: float, what: str, instead: str) -> None:
    """Raise TooLargeError where ``what`` needs more bytes than there are; ``instead`` says what to do."""
    if needed > (free := available_bytes()):
        raise TooLargeError(
            f"{what} needs at least {words.size(needed)} of memory, and {words.size(free)} are free: {instead}."
        )
