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
        most = _group_says("max")
        told = dict(line.split() for line in _group_says("stat").splitlines())
        if most == "max":
            return math.inf
        kept = sum(int(told.get(name, 0)) for name in ("active_file", "inactive_file", "slab_reclaimable"))
        return float(max(int(most) - int(_group_says("current")) + kept, 0)) + _swap_in_group()
    except (OSError, ValueError):
        return math.inf


def _swap_in_group() -> float:
    """Return what the control group leaves of swap."""
    try:
        most = _group_says("swap.max")
        if most == "max":
            return math.inf
        return float(max(int(most) - int(_group_says("swap.current")), 0))
    except (OSError, ValueError):
        return 0.0


def _group_says(name: str) -> str:
    return (_CGROUP / f"memory.{name}").read_text().strip()


def check_memory(needed: float, what: str, instead: str) -> None:
    """Raise TooLargeError where ``what`` needs more bytes than there are; ``instead`` says what to do."""
    if needed > (free := available_bytes()):
        raise TooLargeError(
            f"{what} needs at least {words.size(needed)} of memory, and {words.size(free)} are free: {instead}."
        )
