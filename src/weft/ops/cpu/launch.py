"""Compile a kernel when it is first needed, and run its tasks on the threads that torch already has.

A second pool of threads would fight with torch's for the cores: each spins for a while after its work. So a kernel is
compiled to a plain C function that takes tasks from a counter, and torch's own OpenMP runtime is asked to run it, as it
runs torch's operators (GNU's entry point, on Linux). Elsewhere Python's threads run it: ctypes lets go of the
interpreter's lock. Machine code is kept on disk, in a folder named after the sources, so it is made once.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numba
import torch
from numba import types

from weft.files import cache_dir

Entry = Callable[[Any], None]
_SIGNATURE = types.void(types.CPointer(types.int64))


class Kernel:
    """A C function ``void(int64 *arguments)``: the first two are the counter of tasks begun and the number of tasks."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._function: Any = None

    def compile(self) -> Any:
        """Return the function, compiled or read from the disk, that lets go of the interpreter's lock."""
        if self._function is None:
            before = numba.config.CACHE_DIR
            numba.config.CACHE_DIR = str(cache_folder())  # read while the function is declared
            try:
                self._compiled = numba.cfunc(_SIGNATURE, cache=True)(self._entry)
            finally:
                numba.config.CACHE_DIR = before
            self._function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self._compiled.address)
        return self._function

    def __call__(self, tasks: int, *arguments: int, threads: int | None = None) -> None:
        """Run ``tasks`` tasks on at most ``threads`` threads (torch's number, where it is not said)."""
        function = self.compile()
        told = (ctypes.c_int64 * (2 + len(arguments)))(0, tasks, *arguments)
        threads = min(tasks, torch.get_num_threads() if threads is None else threads)
        if threads <= 1:
            function(told)
        else:
            _together(function, self._compiled.address, told, threads)


def _together(function: Any, address: int, told: Any, threads: int) -> None:
    parallel = openmp()
    if parallel is not None:
        parallel(address, told, threads, 0)
        return
    for done in [_pool(threads).submit(function, told) for _ in range(threads)]:
        done.result()


@cache
def openmp() -> Any:
    """Return ``GOMP_parallel`` of the runtime that torch uses, None where it uses another."""
    name = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function = ctypes.CDLL(str(name)).GOMP_parallel  # looked up in torch's library and what it was linked to
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    function.restype = None
    return function


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="weft-kernel")


@cache
def cache_folder() -> Path:
    """Return where machine code is kept: beside the sources, or where that is not allowed, in the cache."""
    here = Path(__file__).parent
    sources = b"".join(path.read_bytes() for path in sorted(here.glob("*.py")))
    name = hashlib.sha256(sources).hexdigest()[:16]
    for folder in (here / "__pycache__" / f"kernels-{name}", cache_dir() / "weft-kernels" / name):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="weft-kernels-"))
