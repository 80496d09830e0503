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
        name, kinds = ("llvm.aarch64.hint", [_INT]) if _ARM else ("llvm.x86.sse2.pause", [])
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), kinds), name)
        builder.call(function, [ir.Constant(_INT, 1)] if _ARM else [])  # 1: yield
        return context.get_constant(types.int32, 0)

    return types.int32(), generate


@intrinsic
def prefetch(typing: Any, pointer: Any, index: Any) -> Any:
    """Ask for what is at ``pointer[index]``, which may be anywhere, to be near when it is read."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.bitcast(builder.gep(args[0], [args[1]]), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [address.type, _INT, _INT, _INT])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch")
        read, near, data = (ir.Constant(_INT, value) for value in (0, 3, 1))
        builder.call(function, [address, read, near, data])
        return context.get_constant(types.int32, 0)

    return types.int32(types.CPointer(types.float32), types.intp), generate


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
