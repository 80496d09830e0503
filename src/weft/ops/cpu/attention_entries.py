"""The kernels of attention as C functions, each of its arguments ``a`` and one task.

What the arguments are stands beside the calls in :mod:`weft.ops.cpu.attention`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from weft.ops.cpu import attention_kernels as kernels
from weft.ops.cpu.entries import rows_of
from weft.ops.cpu.launch import Kernel
from weft.ops.cpu.simd import as_bfloat16, as_float32, as_int32, number


def _rotate(a, task):
    first, end = rows_of(a, task, 9)
    kernels.rotate(
        as_float32(a[0]), as_float32(a[1]), as_float32(a[2]), as_float32(a[3]), np.float32(number(a[4])), a[5] != 0,
        a[6], a[7], a[8], first, end,
    )  # fmt: skip


def _rotate_bf16(a, task):
    first, end = rows_of(a, task, 9)
    kernels.rotate(
        as_bfloat16(a[0]), as_float32(a[1]), as_float32(a[2]), as_bfloat16(a[3]), np.float32(number(a[4])), a[5] != 0,
        a[6], a[7], a[8], first, end,
    )  # fmt: skip


def _seen_softmax_bf16(a, task):
    first, end = rows_of(a, task, 8)
    kernels.seen_softmax(as_bfloat16(a[0]), as_int32(a[1]), a[2], a[3], a[4], a[5], a[6], a[7], first, end)


def _softmax_backward_bf16(a, task):
    first, end = rows_of(a, task, 4)
    kernels.softmax_backward(as_bfloat16(a[0]), as_bfloat16(a[1]), as_bfloat16(a[2]), a[3], first, end)


rotate = (Kernel(_rotate), Kernel(_rotate_bf16))
seen_softmax_bf16 = Kernel(_seen_softmax_bf16)
softmax_backward_bf16 = Kernel(_softmax_backward_bf16)
