"""The kernels as C functions, each of its arguments ``a`` and one task.

What the arguments are stands beside the calls in :mod:`weft.ops.cpu`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from numba import njit

from weft.ops.cpu import kernels, pooling_kernels
from weft.ops.cpu.launch import Kernel
from weft.ops.cpu.simd import as_bfloat16, as_float32, as_int64, number


@njit
def _channels(a, task, at):
    """Return the sequence and the channels of a task; ``a[at:]`` are C, blocks a sequence and a block's width."""
    C = a[at]
    blocks = a[at + 1]
    width = a[at + 2]
    b = task // blocks
    block = task % blocks
    first = block * width
    return b, first, C if block == blocks - 1 else first + width


@njit
def rows_of(a, task, at):
    """Return the first and the end of a task's rows; ``a[at:]`` are N and the rows of a task."""
    first = task * a[at + 1]
    return first, min(a[at], first + a[at + 1])


def _pooling_forward(a, task):
    b, first, end = _channels(a, task, 10)
    pooling_kernels.pooling_forward(
        as_float32(a[0]), as_float32(a[1]), as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]),
        a[6], b, a[7], a[10], a[8], a[9], first, end,
    )  # fmt: skip


def _pooling_forward_bf16(a, task):
    b, first, end = _channels(a, task, 10)
    pooling_kernels.pooling_forward(
        as_bfloat16(a[0]), as_float32(a[1]), as_bfloat16(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]),
        a[6], b, a[7], a[10], a[8], a[9], first, end,
    )  # fmt: skip


def _pooling_backward(a, task):
    b, first, end = _channels(a, task, 12)
    pooling_kernels.pooling_backward(
        as_float32(a[0]), as_float32(a[1]), as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]),
        as_float32(a[6]), as_float32(a[7]), a[8], b, a[9], a[12], a[10], a[11], first, end,
    )  # fmt: skip


def _pooling_backward_bf16(a, task):
    b, first, end = _channels(a, task, 12)
    pooling_kernels.pooling_backward(
        as_bfloat16(a[0]), as_float32(a[1]), as_bfloat16(a[2]), as_bfloat16(a[3]), as_float32(a[4]), as_float32(a[5]),
        as_float32(a[6]), as_float32(a[7]), a[8], b, a[9], a[12], a[10], a[11], first, end,
    )  # fmt: skip


def _recurrence_forward(a, task):
    b, first, end = _channels(a, task, 10)
    kernels.recurrence_forward(
        as_float32(a[0]), as_float32(a[1]), as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), a[5],
        b, a[6], a[10], a[7], a[8], a[9] != 0, first, end,
    )  # fmt: skip


def _recurrence_backward(a, task):
    b, first, end = _channels(a, task, 12)
    kernels.recurrence_backward(
        as_float32(a[0]), as_float32(a[1]), as_float32(a[2]), as_float32(a[3]), as_float32(a[4]),
        as_float32(a[5]), as_float32(a[6]), as_float32(a[7]), a[8], b, a[9], a[12], a[10], a[11] != 0, first, end,
    )  # fmt: skip


def _rms_norm_forward_bf16(a, task):
    first, end = rows_of(a, task, 6)
    kernels.rms_norm_forward(
        as_bfloat16(a[0]), as_float32(a[1]), as_bfloat16(a[2]), as_float32(a[3]), a[4], number(a[5]), first, end
    )


def _rms_norm_backward_bf16(a, task):
    first, end = rows_of(a, task, 7)
    kernels.rms_norm_backward(
        as_bfloat16(a[0]), as_float32(a[1]), as_float32(a[2]), as_bfloat16(a[3]), as_bfloat16(a[4]),
        as_float32(a[5]), a[6], task, first, end,
    )  # fmt: skip


def _rms_norm_forward(a, task):
    first, end = rows_of(a, task, 6)
    kernels.rms_norm_forward(
        as_float32(a[0]), as_float32(a[1]), as_float32(a[2]), as_float32(a[3]), a[4], number(a[5]), first, end
    )


def _rms_norm_backward(a, task):
    first, end = rows_of(a, task, 7)
    kernels.rms_norm_backward(
        as_float32(a[0]), as_float32(a[1]), as_float32(a[2]), as_float32(a[3]), as_float32(a[4]),
        as_float32(a[5]), a[6], task, first, end,
    )  # fmt: skip


def _relu_squared_forward(a, task):
    first, end = rows_of(a, task, 2)
    kernels.relu_squared_forward(as_float32(a[0]), as_float32(a[1]), first, end)


def _relu_squared_backward(a, task):
    first, end = rows_of(a, task, 3)
    kernels.relu_squared_backward(as_float32(a[0]), as_float32(a[1]), as_float32(a[2]), first, end)


def _relu_squared_forward_bf16(a, task):
    first, end = rows_of(a, task, 2)
    kernels.relu_squared_forward(as_bfloat16(a[0]), as_bfloat16(a[1]), first, end)


def _relu_squared_backward_bf16(a, task):
    first, end = rows_of(a, task, 3)
    kernels.relu_squared_backward(as_bfloat16(a[0]), as_bfloat16(a[1]), as_bfloat16(a[2]), first, end)


def _softmax_loss(a, task):
    first, end = rows_of(a, task, 6)
    kernels.softmax_loss(
        as_float32(a[0]), as_int64(a[1]), as_float32(a[2]), as_float32(a[3])[0], a[4], a[5] != 0, first, end
    )


def _softmax_loss_bf16(a, task):
    first, end = rows_of(a, task, 6)
    kernels.softmax_loss(
        as_bfloat16(a[0]), as_int64(a[1]), as_float32(a[2]), as_float32(a[3])[0], a[4], a[5] != 0, first, end
    )


pooling_forward = (Kernel(_pooling_forward), Kernel(_pooling_forward_bf16))
pooling_backward = (Kernel(_pooling_backward), Kernel(_pooling_backward_bf16))
recurrence_forward = Kernel(_recurrence_forward)
recurrence_backward = Kernel(_recurrence_backward)
rms_norm_forward = (Kernel(_rms_norm_forward), Kernel(_rms_norm_forward_bf16))
rms_norm_backward = (Kernel(_rms_norm_backward), Kernel(_rms_norm_backward_bf16))
relu_squared_forward = (Kernel(_relu_squared_forward), Kernel(_relu_squared_forward_bf16))
relu_squared_backward = (Kernel(_relu_squared_backward), Kernel(_relu_squared_backward_bf16))
softmax_loss = (Kernel(_softmax_loss), Kernel(_softmax_loss_bf16))
