"""Plain Python loops, compiled by Numba where it is there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

from weft.recall.loops import has_numba


@cache
def compiled(name: str, module: str = "weft.recall.kernels") -> Callable[..., Any]:
    """Return a loop of ``module``, compiled when it is first called and kept on the disk.

    As it is where there is no Numba. Nothing of Numba is imported before.
    """
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    if not has_numba():
        return function
    import numba

    from weft.ops.cpu.launch import cache_folder

    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_folder())  # read while the function is declared
    try:
        made: Callable[..., Any] = numba.njit(cache=True, nogil=True)(function)
    finally:
        numba.config.CACHE_DIR = before
    return made
