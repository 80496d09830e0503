"""Threads that run one kernel together: how one waits for what the others do, and how memory is asked for in time."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

SPINS = 512  # looks at the counter before the core is offered to others: some ten microseconds
_ARM = platform.machine().lower() in ("arm64", "aarch64")
_INT = ir.IntType(32)
_sched_yield = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def look(typing: Any, pointer: Any) -> Any:
    """Return an int64 that other threads change; what they wrote before they changed it can be read after."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load_atomic(args[0], "acquire", 8)

    return types.int64(types.CPointer(types.int64)), generate


@intrinsic
def pause(typing: Any) -> Any:
    """Tell the processor that this is a loop that waits."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if _ARM:
            name = "llvm.aarch64.hint"
            hints = [ir.Constant(_INT, 1)]  # yield
        else:
            name = "llvm.x86.sse2.pause"
            hints = []
        kind = ir.FunctionType(ir.VoidType(), [_INT] * len(hints))
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(function, hints)
        return context.get_constant(types.int32, 0)

    return types.int32(), generate


@intrinsic
def call(typing: Any, function: Any, arguments: Any, first: Any, task: Any) -> Any:
    """Call ``void(int64 *, int64)`` at an address, with the address of ``arguments[first]`` and a task."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        long = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [long.as_pointer(), long])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), [builder.gep(args[1], [args[2]]), args[3]])
        return context.get_constant(types.int32, 0)

    return types.int32(types.int64, types.CPointer(types.int64), types.intp, types.int64), generate


@intrinsic
def answer(typing: Any, function: Any) -> Any:
    """Call ``int32()`` at an address."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.FunctionType(_INT, [])
        told = builder.call(builder.inttoptr(args[0], kind.as_pointer()), [])
        return builder.sext(told, ir.IntType(64))

    return types.int64(types.int64), generate


@njit
def wait(done, expected):
    """Wait until the counter ``done`` stands at ``expected``."""
    spins = 0
    while look(done) < expected:
        spins += 1
        if spins < SPINS:
            pause()
        else:
            _sched_yield()
