"""The version of the installed package, which runs, folders and reports say they were made with.

It stands in a module of its own, so that the lowest floors know it without importing the public names above them.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "weft-lm"  # the name under which it is installed


def _installed() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # a source tree that nobody installed
        return "0"


__version__ = _installed()
