"""Numba where it is there: loops that compiled loops call."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def has_numba() -> bool:
    """Return whether Numba can be imported."""
    try:
        import numba  # noqa: F401
    except Exception:  # it refuses a NumPy that is too new for it, with errors of several kinds
        return False
    return True


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a loop be called by compiled loops; as it is where there is no Numba."""
    if not has_numba():
        return function
    from numba import njit

    compiled: Callable[..., Any] = njit(function)
    return compiled
