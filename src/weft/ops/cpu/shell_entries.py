"""The kernels of a block's shell as C functions, each of its arguments ``a`` and one task.

What the arguments are stands beside the calls in :mod:`weft.ops.cpu.shell`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from weft.ops.cpu import shell_kernels as kernels
from weft.ops.cpu.entries import rows_of
from weft.ops.cpu.kernels import keep
from weft.ops.cpu.launch import Kernel
from weft.ops.cpu.simd import as_bfloat16, as_float32, number


def _enter_forward(a, task):
    first, end = rows_of(a, task, 11)
    room = np.empty(2 * a[9], np.float32)
    kernels.enter_forward(
        as_float32(a[0]), as_float32(a[1]), a[2], a[3], a[4], as_float32(a[5]), as_float32(a[6]), as_float32(a[7]),
        as_float32(room.ctypes.data), a[8], a[9], number(a[10]), first, end,
    )  # fmt: skip
    keep(room)


def _enter_forward_bf16(a, task):
    first, end = rows_of(a, task, 11)
    room = np.empty(2 * a[9], np.float32)
    kernels.enter_forward(
        as_float32(a[0]), as_float32(a[1]), a[2], a[3], a[4], as_bfloat16(a[5]), as_float32(a[6]), as_bfloat16(a[7]),
        as_bfloat16(room.ctypes.data), a[8], a[9], number(a[10]), first, end,
    )  # fmt: skip
    keep(room)


def _enter_backward(a, task):
    first, end = rows_of(a, task, 15)
    kernels.enter_backward(
        as_float32(a[0]), a[1], a[2], as_float32(a[3]), as_float32(a[4]), a[5], as_float32(a[6]), a[7], a[8],
        as_float32(a[9]), as_float32(a[10]), as_float32(a[11]), as_float32(a[12]), a[13], a[14], task, first, end,
    )  # fmt: skip


def _enter_backward_bf16(a, task):
    first, end = rows_of(a, task, 15)
    kernels.enter_backward(
        as_bfloat16(a[0]), a[1], a[2], as_float32(a[3]), as_float32(a[4]), a[5], as_float32(a[6]), a[7], a[8],
        as_float32(a[9]), as_float32(a[10]), as_float32(a[11]), as_float32(a[12]), a[13], a[14], task, first, end,
    )  # fmt: skip


def _leave_forward(a, task):
    first, end = rows_of(a, task, 8)
    kernels.leave_forward(
        as_float32(a[0]), as_float32(a[1]), as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]),
        as_float32(a[6]), a[7], first, end,
    )  # fmt: skip


def _leave_forward_bf16(a, task):
    first, end = rows_of(a, task, 8)
    kernels.leave_forward(
        as_float32(a[0]), as_bfloat16(a[1]), as_bfloat16(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]),
        as_float32(a[6]), a[7], first, end,
    )  # fmt: skip


def _leave_backward(a, task):
    first, end = rows_of(a, task, 11)
    kernels.leave_backward(
        as_float32(a[0]), as_float32(a[1]), as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]),
        as_float32(a[6]), as_float32(a[7]), as_float32(a[8]), as_float32(a[9]), a[10], task, first, end,
    )  # fmt: skip


def _leave_backward_bf16(a, task):
    first, end = rows_of(a, task, 11)
    kernels.leave_backward(
        as_float32(a[0]), as_bfloat16(a[1]), as_bfloat16(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]),
        as_bfloat16(a[6]), as_bfloat16(a[7]), as_float32(a[8]), as_float32(a[9]), a[10], task, first, end,
    )  # fmt: skip


# for float32, for bfloat16
enter_forward = (Kernel(_enter_forward), Kernel(_enter_forward_bf16))
enter_backward = (Kernel(_enter_backward), Kernel(_enter_backward_bf16))
leave_forward = (Kernel(_leave_forward), Kernel(_leave_forward_bf16))
leave_backward = (Kernel(_leave_backward), Kernel(_leave_backward_bf16))
