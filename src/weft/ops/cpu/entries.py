"""The kernels as C functions: each takes tasks from the counter in ``a[0]`` until ``a[1]`` were begun.

What the other arguments are stands beside the calls in :mod:`weft.ops.cpu`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from numba import njit

from weft.ops.cpu import kernels
from weft.ops.cpu.launch import Kernel
from weft.ops.cpu.simd import as_bfloat16, as_float32, as_int64, fetch_add, number


@njit
def _channels(a, task, at):
    """Return the sequence and the channels of a task; ``a[at:]`` are C, blocks a sequence and a block's width."""
    C, blocks, width = a[at], a[at + 1], a[at + 2]
    b, block = task // blocks, task % blocks
    first = block * width
    return b, first, C if block == blocks - 1 else first + width


@njit
def _rows(a, task, at):
    """Return the first and the end of a task's rows; ``a[at:]`` are N and the rows of a task."""
    first = task * a[at + 1]
    return first, min(a[at], first + a[at + 1])


def _pooling_forward(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        b, first, end = _channels(a, task, 11)
        kernels.pooling_forward(
            as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]), as_float32(a[6]), a[7],
            b, a[8], a[11], a[9], a[10], first, end,
        )  # fmt: skip


def _pooling_forward_bf16(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        b, first, end = _channels(a, task, 11)
        kernels.pooling_forward(
            as_bfloat16(a[2]), as_bfloat16(a[3]), as_float32(a[4]), as_float32(a[5]), as_float32(a[6]), a[7],
            b, a[8], a[11], a[9], a[10], first, end,
        )  # fmt: skip


def _pooling_backward(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        b, first, end = _channels(a, task, 12)
        kernels.pooling_backward(
            as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]), as_float32(a[6]),
            as_float32(a[7]), a[8], b, a[9], a[12], a[10], a[11], first, end,
        )  # fmt: skip


def _pooling_backward_bf16(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        b, first, end = _channels(a, task, 12)
        kernels.pooling_backward(
            as_bfloat16(a[2]), as_bfloat16(a[3]), as_bfloat16(a[4]), as_float32(a[5]), as_float32(a[6]),
            as_float32(a[7]), a[8], b, a[9], a[12], a[10], a[11], first, end,
        )  # fmt: skip


def _recurrence_forward(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        b, first, end = _channels(a, task, 11)
        kernels.recurrence_forward(
            as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]), as_float32(a[6]), a[7],
            b, a[8], a[11], a[9], a[10], first, end,
        )  # fmt: skip


def _recurrence_backward(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        b, first, end = _channels(a, task, 13)
        kernels.recurrence_backward(
            as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]), as_float32(a[6]),
            as_float32(a[7]), as_float32(a[8]), as_float32(a[9]), a[10], b, a[11], a[13], a[12], first, end,
        )  # fmt: skip


def _rms_norm_forward(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        first, end = _rows(a, task, 8)
        kernels.rms_norm_forward(
            as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]), a[6], number(a[7]), first, end
        )


def _rms_norm_backward(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        first, end = _rows(a, task, 9)
        kernels.rms_norm_backward(
            as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), as_float32(a[5]), as_float32(a[6]),
            as_float32(a[7]), a[8], task, first, end,
        )  # fmt: skip


def _relu_squared_forward(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        first, end = _rows(a, task, 4)
        kernels.relu_squared_forward(as_float32(a[2]), as_float32(a[3]), first, end)


def _relu_squared_backward(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        first, end = _rows(a, task, 5)
        kernels.relu_squared_backward(as_float32(a[2]), as_float32(a[3]), as_float32(a[4]), first, end)


def _relu_squared_forward_bf16(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        first, end = _rows(a, task, 4)
        kernels.relu_squared_forward(as_bfloat16(a[2]), as_bfloat16(a[3]), first, end)


def _relu_squared_backward_bf16(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        first, end = _rows(a, task, 5)
        kernels.relu_squared_backward(as_bfloat16(a[2]), as_bfloat16(a[3]), as_bfloat16(a[4]), first, end)


def _softmax_loss(a):
    while True:
        task = fetch_add(a, 1)
        if task >= a[1]:
            return
        first, end = _rows(a, task, 8)
        kernels.softmax_loss(
            as_float32(a[2]), as_int64(a[3]), as_float32(a[4]), as_float32(a[5])[0], a[6], a[7] != 0, first, end
        )


pooling_forward = (Kernel(_pooling_forward), Kernel(_pooling_forward_bf16))
pooling_backward = (Kernel(_pooling_backward), Kernel(_pooling_backward_bf16))
recurrence_forward, recurrence_backward = Kernel(_recurrence_forward), Kernel(_recurrence_backward)
rms_norm_forward, rms_norm_backward = Kernel(_rms_norm_forward), Kernel(_rms_norm_backward)
relu_squared_forward = (Kernel(_relu_squared_forward), Kernel(_relu_squared_forward_bf16))
relu_squared_backward = (Kernel(_relu_squared_backward), Kernel(_relu_squared_backward_bf16))
softmax_loss = Kernel(_softmax_loss)
