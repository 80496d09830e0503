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
from weft.ops.cpu.simd import fetch_add, fetch_add_at
from weft.ops.cpu.team import answer, call

_Address = types.CPointer(types.int64)
_TORCH = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"


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
        counters = [0] * threads
        who = thread_number() if threads > 1 else 0
        _all_tasks(tasks, self._function.address, threads, who, *counters, *arguments, threads=threads)


_COUNTERS = 5  # where the threads' counters begin


def _take_tasks(a: Any) -> None:
    """Call the function at ``a[2]`` with the arguments behind the counters and one task after another, of ``a[1]``.

    Each of the ``a[3]`` threads first takes the tasks of its own share, in order, then what is left of others'.
    Torch's operators share rows out in the same order, so what a thread reads it has mostly written itself.
    ``a[4]`` is the address of what tells a thread's number; where it is 0 they are numbered as they come.
    """
    threads = a[3]
    own = answer(a[4]) if a[4] != 0 else fetch_add(a, 1)
    for step in range(threads):
        share = (own + step) % threads
        first = a[1] * share // threads
        end = a[1] * (share + 1) // threads
        while True:
            task = first + fetch_add_at(a, _COUNTERS + share, 1)
            if task >= end:
                break
            call(a[2], a, _COUNTERS + threads, task)


_all_tasks = Team(_take_tasks)


@cache
def thread_number() -> int:
    """Return the address of ``omp_get_thread_num`` of the runtime that torch uses, 0 where it uses another."""
    if openmp() is None:
        return 0
    function = ctypes.CDLL(str(_TORCH)).omp_get_thread_num
    return ctypes.cast(function, ctypes.c_void_p).value or 0


@cache
def openmp() -> Any:
    """Return ``GOMP_parallel`` of the runtime that torch uses, None where it uses another."""
    try:
        function = ctypes.CDLL(str(_TORCH)).GOMP_parallel  # looked up in torch's library and what it was linked to
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
