"""Matrices in bfloat16 that are multiplied with vectors in float32: half the bytes to read, the sums as before.

A matrix is packed in panels of two registers of rows. For each two columns a register holds the two numbers of
all its rows: ``w[0, k], w[0, k + 1], w[1, k], w[1, k + 1], ...``. Taken for whole numbers of 32 bits, it has column
k in the lower halves and column k + 1 in the upper ones: a shift widens the one, a mask the other, and each lane
sums a row of its own, so nothing is added across lanes. A panel's two registers stand beside each other: so it is
read in order, and a number of the vector that is spread over a register serves both (loads bound this loop). Rows
are filled up with zeros to whole panels, columns to a multiple of ``TOGETHER``.

A row's products are added in four sums, k mod 4, whatever else is multiplied beside it: so a text's numbers
depend neither on the other texts of its batch nor on who does which rows.
"""

# mypy: disable-error-code="misc,untyped-decorator,no-untyped-def"

from __future__ import annotations

from typing import Any

import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from weft.ops.cpu.constants import VECTOR
from weft.ops.cpu.launch import Kernel
from weft.ops.cpu.simd import as_float32, floats, fused, load, prefetch, splat, store

PANEL = 2 * VECTOR  # rows
TOGETHER = 4  # columns that are multiplied in one turn, each in a sum of its own
TWO = VECTOR == 16  # whether two texts are multiplied at once: with AVX-512 there are registers for as many sums
AHEAD = 4096  # numbers: weights are asked for so far before they are used


def _turn(a, task):
    """Write panel ``task`` at ``a[1]`` from rows of ``a[2]`` pairs at ``a[0]``."""
    rows = as_float32(a[0])  # a pair is moved as 32 bits
    panels = as_float32(a[1])
    count = a[2]
    panel = task * PANEL * count
    for pair in range(count):
        for row in range(PANEL):
            panels[panel + pair * PANEL + row] = rows[panel + row * count + pair]


_turned = Kernel(_turn)


@torch.no_grad()
def pack(weight: Tensor) -> Tensor:
    """Round a matrix (rows, columns) to bfloat16 and pack it: one panel after another."""
    rows, columns = weight.shape
    panels = -(-rows // PANEL)
    full_columns = -(-columns // TOGETHER) * TOGETHER
    rounded = weight.new_zeros(panels * PANEL, full_columns, dtype=torch.bfloat16)
    rounded[:rows, :columns] = weight
    packed = torch.empty(panels, PANEL * full_columns, dtype=torch.bfloat16)
    _turned(panels, rounded.data_ptr(), packed.data_ptr(), full_columns // 2, alone=False)
    return packed


def _pairs(pointer: Any, widen: Any) -> Any:
    """Return an intrinsic that widens one half of each of ``VECTOR`` pairs from ``pointer[index]`` on."""
    if pointer != types.CPointer(types.uint16):
        return None
    ints = ir.VectorType(ir.IntType(32), VECTOR)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        address = builder.bitcast(builder.gep(args[0], [args[1]]), ints.as_pointer())
        return builder.bitcast(widen(builder, builder.load(address, align=4), ints), context.get_value_type(floats))

    return floats(pointer, types.intp), generate


@intrinsic
def firsts(typing: Any, pointer: Any, index: Any) -> Any:
    """Return the first number of each of ``VECTOR`` pairs of bfloat16 from ``pointer[index]`` on."""
    return _pairs(pointer, lambda builder, both, ints: builder.shl(both, ir.Constant(ints, [16] * VECTOR)))


@intrinsic
def seconds(typing: Any, pointer: Any, index: Any) -> Any:
    """Return the second number of each of ``VECTOR`` pairs of bfloat16 from ``pointer[index]`` on."""
    return _pairs(pointer, lambda builder, both, ints: builder.and_(both, ir.Constant(ints, [0xFFFF0000] * VECTOR)))


@njit
def wide(columns):
    """Return how many columns a packed matrix has."""
    return (columns + TOGETHER - 1) // TOGETHER * TOGETHER


@njit
def _half(w, at, columns, x, start, y, to):
    """Multiply one register of a panel with a vector."""
    a = splat(0.0)
    b = splat(0.0)
    c = splat(0.0)
    d = splat(0.0)
    for k in range(0, columns, TOGETHER):
        i = at + k * PANEL
        a = fused(firsts(w, i), splat(x[start + k]), a)
        b = fused(seconds(w, i), splat(x[start + k + 1]), b)
        c = fused(firsts(w, i + 4 * VECTOR), splat(x[start + k + 2]), c)
        d = fused(seconds(w, i + 4 * VECTOR), splat(x[start + k + 3]), d)
    store(y, to, (a + b) + (c + d))


@njit
def _panel(w, at, columns, x, start, y, to):
    """Multiply a panel with a vector."""
    a = splat(0.0)
    b = splat(0.0)
    c = splat(0.0)
    d = splat(0.0)
    e = splat(0.0)
    f = splat(0.0)
    g = splat(0.0)
    h = splat(0.0)
    for k in range(0, columns, TOGETHER):
        i = at + k * PANEL
        for line in range(0, 8 * VECTOR, 2 * VECTOR):
            prefetch(w, i + AHEAD + line)
        u = splat(x[start + k])
        a = fused(firsts(w, i), u, a)
        e = fused(firsts(w, i + 2 * VECTOR), u, e)
        u = splat(x[start + k + 1])
        b = fused(seconds(w, i), u, b)
        f = fused(seconds(w, i + 2 * VECTOR), u, f)
        u = splat(x[start + k + 2])
        c = fused(firsts(w, i + 4 * VECTOR), u, c)
        g = fused(firsts(w, i + 6 * VECTOR), u, g)
        u = splat(x[start + k + 3])
        d = fused(seconds(w, i + 4 * VECTOR), u, d)
        h = fused(seconds(w, i + 6 * VECTOR), u, h)
    store(y, to, (a + b) + (c + d))
    store(y, to + VECTOR, (e + f) + (g + h))


@njit
def _panel_for_two(w, at, columns, x, start, other, y, to, to_other):
    """Multiply a panel with two vectors."""
    a0 = splat(0.0)
    a1 = splat(0.0)
    a2 = splat(0.0)
    a3 = splat(0.0)
    b0 = splat(0.0)
    b1 = splat(0.0)
    b2 = splat(0.0)
    b3 = splat(0.0)
    c0 = splat(0.0)
    c1 = splat(0.0)
    c2 = splat(0.0)
    c3 = splat(0.0)
    d0 = splat(0.0)
    d1 = splat(0.0)
    d2 = splat(0.0)
    d3 = splat(0.0)
    for k in range(0, columns, TOGETHER):
        i = at + k * PANEL
        for line in range(0, 8 * VECTOR, 2 * VECTOR):
            prefetch(w, i + AHEAD + line)
        v = firsts(w, i)
        t = firsts(w, i + 2 * VECTOR)
        u = splat(x[start + k])
        a0 = fused(v, u, a0)
        b0 = fused(t, u, b0)
        u = splat(x[other + k])
        c0 = fused(v, u, c0)
        d0 = fused(t, u, d0)
        v = seconds(w, i)
        t = seconds(w, i + 2 * VECTOR)
        u = splat(x[start + k + 1])
        a1 = fused(v, u, a1)
        b1 = fused(t, u, b1)
        u = splat(x[other + k + 1])
        c1 = fused(v, u, c1)
        d1 = fused(t, u, d1)
        v = firsts(w, i + 4 * VECTOR)
        t = firsts(w, i + 6 * VECTOR)
        u = splat(x[start + k + 2])
        a2 = fused(v, u, a2)
        b2 = fused(t, u, b2)
        u = splat(x[other + k + 2])
        c2 = fused(v, u, c2)
        d2 = fused(t, u, d2)
        v = seconds(w, i + 4 * VECTOR)
        t = seconds(w, i + 6 * VECTOR)
        u = splat(x[start + k + 3])
        a3 = fused(v, u, a3)
        b3 = fused(t, u, b3)
        u = splat(x[other + k + 3])
        c3 = fused(v, u, c3)
        d3 = fused(t, u, d3)
    store(y, to, (a0 + a1) + (a2 + a3))
    store(y, to + VECTOR, (b0 + b1) + (b2 + b3))
    store(y, to_other, (c0 + c1) + (c2 + c3))
    store(y, to_other + VECTOR, (d0 + d1) + (d2 + d3))


@njit
def _one_register(w, row, columns, x, x_stride, y, y_stride, offset, lanes, count):
    """Multiply one register of rows with each text's vector."""
    at = row // PANEL * PANEL * columns + row % PANEL * 2
    for n in range(count):
        _half(w, at, columns, x, lanes[n] * x_stride, y, lanes[n] * y_stride + offset + row)


@njit
def multiplied_packed(w, bias, rows, columns, x, x_stride, y, y_stride, offset, lanes, count, first, end):
    """Multiply rows ``first`` to ``end``, whole registers, with each text's vector, a panel being read once for all."""
    columns = wide(columns)
    # Where the border to another task is inside a panel, each does its half.
    start = (first + PANEL - 1) // PANEL * PANEL
    stop = end // PANEL * PANEL
    if first < min(start, end):
        _one_register(w, first, columns, x, x_stride, y, y_stride, offset, lanes, count)
    if max(start, stop) < end:
        _one_register(w, stop, columns, x, x_stride, y, y_stride, offset, lanes, count)
    pairs = count - count % 2 if TWO else 0
    for row in range(start, stop, PANEL):
        at = row * columns
        here = offset + row
        for n in range(0, pairs, 2):
            a = lanes[n]
            b = lanes[n + 1]
            to = here + a * y_stride
            _panel_for_two(w, at, columns, x, a * x_stride, b * x_stride, y, to, here + b * y_stride)
        for n in range(pairs, count):
            _panel(w, at, columns, x, lanes[n] * x_stride, y, here + lanes[n] * y_stride)
    if bias != 0:
        last = min(end, rows)
        even = last - (last - first) % VECTOR
        add = as_float32(bias)
        for n in range(count):
            to = lanes[n] * y_stride + offset
            for row in range(first, even, VECTOR):
                store(y, to + row, load(y, to + row) + load(add, row))
            for row in range(even, last):
                y[to + row] += add[row]
