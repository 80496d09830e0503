"""Compile a kernel when it is first needed, and run its tasks on the threads that torch already has.

A second pool of threads would fight with torch's for the cores: each spins for a while after its work. So
kernels are compiled to plain C functions, and torch's own OpenMP runtime is asked to run a loop that takes
tasks from a counter, as it runs torch's operators (GNU's entry point, on Linux). Elsewhere Python's threads
run it: ctypes lets go of the interpreter's lock. Machine code is kept on disk, in a folder named after the
sources, so it is made once.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numba
import torch
from numba import types

from weft.files import cache_dir
from weft.ops.cpu.constants import VECTOR
from weft.ops.cpu.simd import fetch_add
from weft.ops.cpu.team import call

_Address = types.CPointer(types.int64)


class Function:
    """A C function that returns nothing, compiled or read from the disk when it is first needed.

    While it runs it lets go of the interpreter's lock.
    """

    def __init__(self, entry: Callable[..., None], *arguments: types.Type) -> None:
        self._entry = entry
        self._signature = types.void(*arguments)

    @cached_property
    def address(self) -> int:
        """Where the machine code is."""
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(cache_folder())  # read while the function is declared
        try:
            self._compiled = numba.cfunc(self._signature, cache=True)(self._entry)
        finally:
            numba.config.CACHE_DIR = before
        return int(self._compiled.address)

    @cached_property
    def call(self) -> Any:
        """The function for Python, of one address."""
        return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address)


class Team:
    """A function ``void(int64 *arguments)`` that several threads run at once and part the work by what they count."""

    def __init__(self, entry: Callable[[Any], None]) -> None:
        self._function = Function(entry, _Address)

    def __call__(self, *arguments: int, threads: int) -> None:
        """Run with a counter that begins at zero, and ``arguments`` behind it."""
        told = (ctypes.c_int64 * (1 + len(arguments)))(0, *arguments)
        if threads <= 1:
            self._function.call(told)
        elif (parallel := openmp()) is not None:
            parallel(self._function.address, told, threads, 0)
        else:
            _wait([_pool(threads).submit(self._function.call, told) for _ in range(threads)])


def _wait(begun: list[Future[None]]) -> None:
    """Wait for threads that write to the caller's tensors: an interrupt is put off until they are done."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            wait(begun)
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt:
        raise interrupt
    for done in begun:
        done.result()


class Kernel:
    """A function ``void(int64 *arguments, int64 task)`` whose tasks any thread can take."""

    def __init__(self, task: Callable[[Any, int], None]) -> None:
        self._function = Function(task, _Address, types.int64)

    def __call__(self, tasks: int, *arguments: int, alone: bool) -> None:
        """Run ``tasks`` tasks, on the caller's thread alone or on all of torch's.

        Never on some: OpenMP would end the others, and make them anew for torch's next operator.
        """
        threads = 1 if alone or tasks <= 1 else torch.get_num_threads()
        _all_tasks(tasks, self._function.address, *arguments, threads=threads)


def _take_tasks(a: Any) -> None:
    """Call the function at ``a[2]`` with the arguments from ``a[3]`` on and one task after another, of ``a[1]``."""
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        call(a[2], a, 3, task)


_all_tasks = Team(_take_tasks)


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
    width = f"{VECTOR}-wide"
    for place in (here / "__pycache__" / f"kernels-{name}", cache_dir() / "weft-kernels" / name):
        folder = place / width
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            for other in place.parent.glob("kernels-*"):  # of sources that are no more
                if other != place:
                    shutil.rmtree(other, ignore_errors=True)
            return folder
    return Path(tempfile.mkdtemp(prefix="weft-kernels-"))
