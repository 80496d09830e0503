"""The kernels of an optimizer's step: one pass over many tensors, wherever each of them lies in memory.

The table at ``a[0]`` has a row of int64 for each tensor (or matrix): addresses, sizes and the bits of float64
numbers (:mod:`weft.ops.cpu.optimizer`). The parts at ``a[1]`` say what a task works on: a row, from where and to
where, so that tasks are of one size however different the tensors are. Sums are kept of each part and added in
one order: the same gradients give the same bits on any number of threads.

A part has at least ``VECTOR`` numbers, or all of a smaller tensor. Its last register overlaps the one before
where its length is no multiple, and is loaded before anything is changed.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from weft.ops.cpu.constants import EVENING, LEAST_NORM, VECTOR
from weft.ops.cpu.kernels import square_sum
from weft.ops.cpu.launch import Kernel
from weft.ops.cpu.simd import (
    as_bfloat16,
    as_float32,
    as_int64,
    fused,
    lanes_from,
    load,
    number,
    splat,
    square_root,
    store,
    total,
)

ADAMW_FIELDS = 11  # weight, gradient, both averages, copy (or 0), steps, rate, decay, both betas, eps
MUON_FIELDS = 15  # see momentum, evening and change


@njit
def _part(a, task):
    """Return the row of a task's part in the table, and where the part begins and ends."""
    parts = as_int64(a[1])
    return parts[3 * task], parts[3 * task + 1], parts[3 * task + 2]


def _square_sum(a, task):
    """Write the sum of the squares of a part to ``a[2]``; a row of the table is an address."""
    row, first, end = _part(a, task)
    x = as_float32(as_int64(a[0])[row])
    sums = as_float32(a[2])
    if end - first < VECTOR:
        sums[task] = np.float32(0.0)
        for i in range(first, end):
            sums[task] += x[i] * x[i]
        return
    even = first + (end - first) // (4 * VECTOR) * (4 * VECTOR)
    s0, s1, s2, s3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)  # a sum waits for the one before it
    for i in range(first, even, 4 * VECTOR):
        v = load(x, i)
        s0 = fused(v, v, s0)
        v = load(x, i + VECTOR)
        s1 = fused(v, v, s1)
        v = load(x, i + 2 * VECTOR)
        s2 = fused(v, v, s2)
        v = load(x, i + 3 * VECTOR)
        s3 = fused(v, v, s3)
    sums[task] = total((s0 + s1) + (s2 + s3))
    last = even + (end - even) // VECTOR * VECTOR
    rest = splat(0.0)
    for i in range(even, last, VECTOR):
        v = load(x, i)
        rest = fused(v, v, rest)
    if last < end:
        v = load(x, end - VECTOR) * lanes_from(VECTOR - (end - last))
        rest = fused(v, v, rest)
    sums[task] += total(rest)


def _adamw_begin(a, task):
    """Count a step of each of ``a[1]`` tensors; write what its averages are scaled by to ``a[2]`` (tensors, 2)."""
    scales = as_float32(a[2])
    for row in range(a[1]):
        t = as_int64(a[0] + 8 * ADAMW_FIELDS * row)
        taken = as_float32(t[5])
        taken[0] += np.float32(1.0)
        scales[2 * row] = number(t[6]) / (1.0 - math.pow(number(t[8]), float(taken[0])))
        scales[2 * row + 1] = 1.0 / math.sqrt(1.0 - math.pow(number(t[9]), float(taken[0])))


@njit
def _adamw_numbers(w, g, m, v, new1, new2, rate, correction, eps, remains):
    """Return weights and averages after a step."""
    m = fused(g - m, splat(new1), m)
    v = fused(g * new2, g, v * (np.float32(1.0) - new2))
    return w * remains - m * rate / fused(square_root(v), splat(correction), splat(eps)), m, v


def _adamw(a, task):
    """AdamW on a part: ``a[2]`` are the scales of :func:`_adamw_begin`, ``a[3]`` is the gradients' factor."""
    row, first, end = _part(a, task)
    t = as_int64(a[0] + 8 * ADAMW_FIELDS * row)
    weight, gradient, mean, square = as_float32(t[0]), as_float32(t[1]), as_float32(t[2]), as_float32(t[3])
    copy = as_bfloat16(t[4])
    copied = t[4] != 0
    scales = as_float32(a[2])
    rate, correction = scales[2 * row], scales[2 * row + 1]
    factor = np.float32(number(a[3]))
    remains = np.float32(1.0 - number(t[6]) * number(t[7]))
    new1 = np.float32(1.0 - number(t[8]))
    new2 = np.float32(1.0 - number(t[9]))
    eps = np.float32(number(t[10]))
    if end - first < VECTOR:
        for i in range(first, end):
            w, m, v = _adamw_numbers(
                splat(weight[i]), splat(gradient[i] * factor), splat(mean[i]), splat(square[i]),
                new1, new2, rate, correction, eps, remains,
            )  # fmt: skip
            weight[i] = total(w) / VECTOR
            mean[i] = total(m) / VECTOR
            square[i] = total(v) / VECTOR
        return
    last = end - VECTOR
    w_last, g_last, m_last, v_last = load(weight, last), load(gradient, last), load(mean, last), load(square, last)
    for i in range(first, end, VECTOR):
        j = min(i, last)
        whole = i == j
        w, m, v = _adamw_numbers(
            load(weight, j) if whole else w_last,
            load(gradient, j) * factor if whole else g_last * factor,
            load(mean, j) if whole else m_last,
            load(square, j) if whole else v_last,
            new1, new2, rate, correction, eps, remains,
        )  # fmt: skip
        store(weight, j, w)
        store(mean, j, m)
        store(square, j, v)
        if copied:
            store(copy, j, w)


@njit
def momentum(t, update, factor, sums, task, first, end):
    """Write M <- M + (1 - m) (G - M) and U = G + m (M - G) of a part, and the sum of U's squares.

    A row of Muon's table begins with the addresses of the weights, their copy (or 0), the gradient and M; then come
    1 - m and the address of U.
    """
    gradient, momenta = as_float32(t[2]), as_float32(t[3])
    new = np.float32(number(t[4]))
    old = np.float32(1.0 - number(t[4]))
    last = end - VECTOR
    g_last, m_last = load(gradient, last), load(momenta, last)
    squares = splat(0.0)
    for i in range(first, end, VECTOR):
        j = min(i, last)
        whole = i == j
        g = (load(gradient, j) if whole else g_last) * factor
        m = load(momenta, j) if whole else m_last
        m = fused(g - m, splat(new), m)
        u = fused(m - g, splat(old), g)
        store(momenta, j, m)
        store(update, j, u)
        if not whole:
            u = u * lanes_from(i - j)
        squares = fused(u, u, squares)
    sums[task] = total(squares)


@njit
def evening(t, result, before, after, task, first, end):
    """Renew v of a part of the longer side, and write the scales 1 / sqrt(v) of its rows (or columns).

    ``before`` and ``after`` get the sums over the part of the mean squares, without the scales and with them. A row
    of Muon's table goes on with the addresses of orth(U), of v and of the scales (0: none), with R and C.
    """
    second, scales = as_float32(t[7]), as_float32(t[8])
    R, C = t[9], t[10]
    if R > C:
        for r in range(first, end):
            scales[r] = square_sum(result, r * C, C) / C
    else:
        for i in range(first, end, VECTOR):
            j = min(i, end - VECTOR)
            squares = splat(0.0)
            for r in range(R):
                x = load(result, r * C + j)
                squares = fused(x, x, squares)
            store(scales, j, squares * np.float32(1.0 / R))
    sum_before, sum_after = 0.0, 0.0
    for i in range(first, end):
        square = scales[i]
        second[i] += np.float32(EVENING) * (square - second[i])
        scale = np.float32(1.0) / np.sqrt(second[i] + np.float32(LEAST_NORM**2))
        scales[i] = scale
        sum_before += square
        sum_after += square * scale * scale
    before[task] = sum_before
    after[task] = sum_after


@njit
def change(t, result, before, after, first, end):
    """Write the weights of some rows and their copy: W <- r W + a s O, with the scales s where they are there.

    A row of Muon's table goes on with a, r, and the first and the end of its parts in ``before`` and ``after``.
    """
    weight, copy = as_float32(t[0]), as_bfloat16(t[1])
    copied = t[1] != 0
    scales = as_float32(t[8])
    R, C = t[9], t[10]
    rate = number(t[11])
    remains = np.float32(number(t[12]))
    evened = t[8] != 0
    if evened:
        # back to the norm that the matrix had
        sum_before, sum_after = 0.0, 0.0
        for n in range(t[13], t[14]):
            sum_before += before[n]
            sum_after += after[n]
        rate *= math.sqrt(sum_before) / max(math.sqrt(sum_after), LEAST_NORM)
    for r in range(first, end):
        of_row = np.float32(rate)
        if evened and R > C:
            of_row = np.float32(rate * scales[r])
        w_last = load(weight, r * C + C - VECTOR)
        for i in range(0, C, VECTOR):
            j = min(i, C - VECTOR)
            w = load(weight, r * C + j) if i == j else w_last
            o = load(result, r * C + j) * of_row
            if evened and R <= C:
                o = o * load(scales, j)
            w = fused(w, splat(remains), o)
            store(weight, r * C + j, w)
            if copied:
                store(copy, r * C + j, w)


def _momentum(a, task):
    row, first, end = _part(a, task)
    t = as_int64(a[0] + 8 * MUON_FIELDS * row)
    momentum(t, as_float32(t[5]), np.float32(number(a[2])), as_float32(a[3]), task, first, end)


def _momentum_bf16(a, task):
    row, first, end = _part(a, task)
    t = as_int64(a[0] + 8 * MUON_FIELDS * row)
    momentum(t, as_bfloat16(t[5]), np.float32(number(a[2])), as_float32(a[3]), task, first, end)


def _evening(a, task):
    row, first, end = _part(a, task)
    t = as_int64(a[0] + 8 * MUON_FIELDS * row)
    evening(t, as_float32(t[6]), as_float32(a[2]), as_float32(a[3]), task, first, end)


def _evening_bf16(a, task):
    row, first, end = _part(a, task)
    t = as_int64(a[0] + 8 * MUON_FIELDS * row)
    evening(t, as_bfloat16(t[6]), as_float32(a[2]), as_float32(a[3]), task, first, end)


def _change(a, task):
    row, first, end = _part(a, task)
    t = as_int64(a[0] + 8 * MUON_FIELDS * row)
    change(t, as_float32(t[6]), as_float32(a[2]), as_float32(a[3]), first, end)


def _change_bf16(a, task):
    row, first, end = _part(a, task)
    t = as_int64(a[0] + 8 * MUON_FIELDS * row)
    change(t, as_bfloat16(t[6]), as_float32(a[2]), as_float32(a[3]), first, end)


sum_of_squares = Kernel(_square_sum)
adamw_begin = Kernel(_adamw_begin)
adamw = Kernel(_adamw)
muon_momentum = (Kernel(_momentum), Kernel(_momentum_bf16))
muon_evening = (Kernel(_evening), Kernel(_evening_bf16))
muon_change = (Kernel(_change), Kernel(_change_bf16))
