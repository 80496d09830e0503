"""The kernels of attention as C functions, each of its arguments ``a`` and one task; bfloat16 alone.

What the arguments are stands beside the calls in :mod:`weft.ops.cpu.attention`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from weft.ops.cpu import attention_kernels as kernels
from weft.ops.cpu.entries import rows_of
from weft.ops.cpu.launch import Kernel
from weft.ops.cpu.simd import as_bfloat16, as_float32, as_int32, number


def _attention_enter(a, task):
    first, end = rows_of(a, task, 20)
    kernels.attention_enter(
        as_bfloat16(a[0]), a[1], a[2], a[3], as_bfloat16(a[4]), as_bfloat16(a[5]), as_bfloat16(a[6]),
        as_bfloat16(a[7]), as_bfloat16(a[8]), as_bfloat16(a[9]), as_bfloat16(a[10]), as_float32(a[11]),
        a[12], a[13], a[14], a[15], a[16], a[17], np.float32(number(a[18])), number(a[19]), first, end,
    )  # fmt: skip


def _attention_leave(a, task):
    first, end = rows_of(a, task, 19)
    kernels.attention_leave(
        as_bfloat16(a[0]), as_bfloat16(a[1]), as_bfloat16(a[2]), a[3], a[4], as_bfloat16(a[5]), a[6], a[7], a[8],
        as_float32(a[9]), as_bfloat16(a[10]), a[11], a[12], a[13], a[14], a[15], a[16], a[17],
        np.float32(number(a[18])), task, first, end,
    )  # fmt: skip


def _seen_softmax(a, task):
    first, end = rows_of(a, task, 8)
    kernels.seen_softmax(as_bfloat16(a[0]), as_int32(a[1]), a[2], a[3], a[4], a[5], a[6], a[7], first, end)


def _softmax_backward(a, task):
    first, end = rows_of(a, task, 3)
    kernels.softmax_backward(as_bfloat16(a[0]), as_bfloat16(a[1]), a[2], first, end)


attention_enter = Kernel(_attention_enter)
attention_leave = Kernel(_attention_leave)
seen_softmax = Kernel(_seen_softmax)
softmax_backward = Kernel(_softmax_backward)
