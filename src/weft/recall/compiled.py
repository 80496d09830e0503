"""Plain Python loops, compiled by Numba where it is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from weft.recall.loops import has_numba


@cache
def compiled(name: str) -> Callable[..., Any]:
    """Return a loop of :mod:`weft.recall.kernels`, compiled when it is first called and kept on the disk.

    As it is where there is no Numba. Nothing of Numba is imported before.
    """
    from weft.recall import kernels

    function: Callable[..., Any] = getattr(kernels, name)
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
