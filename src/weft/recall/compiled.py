"""Plain Python loops, compiled by Numba where it is there."""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from weft.recall.loops import has_numba

_DECLARING = threading.Lock()


@cache
def compiled(name: str, module: str = "weft.recall.kernels") -> Callable[..., Any]:
    """Return a loop of ``module``, compiled when it is first called and kept on the disk.

    As it is where there is no Numba. Nothing of Numba is imported before.
    """
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    if not has_numba():
        return function
    import numba

    with _DECLARING:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(_cache_folder())  # read while the function is declared
        try:
            made: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
        finally:
            numba.config.CACHE_DIR = before
    return made


@cache
def _cache_folder() -> Path:
    """Return where machine code of these loops is kept: Numba looks at their own file alone, not at constants."""
    from weft.ops.cpu.launch import cache_folder

    rooms = (Path(__file__).parent, Path(__file__).parents[1] / "mixing")
    sources = b"".join(path.read_bytes() for room in rooms for path in sorted(room.glob("*.py")))
    folder = cache_folder() / f"loops-{hashlib.sha256(sources).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
