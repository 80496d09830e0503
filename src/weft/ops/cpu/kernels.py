"""The kernels but those of pooling: what one task of each does, in Numba's Python, on a register of numbers at a time.

A task is some rows, or the channels of one sequence from ``first`` to ``end``. Where a width is no multiple
of ``VECTOR``, the last of them overlap those before them, so nothing may be read after it was overwritten. Pointers
come as float32 or as bfloat16 (:mod:`weft.ops.cpu.simd`); cells and sums are float32 always. ``reset`` is the
address of booleans or 0.

Shapes: B batch, T time, C cell width, N rows, D width, V vocabulary. Pooling:
:mod:`weft.ops.cpu.pooling_kernels`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from weft.ops.cpu.constants import VECTOR
from weft.ops.cpu.simd import (
    as_bool,
    as_float32,
    exp,
    fused,
    lanes_from,
    largest,
    load,
    one,
    prefetch,
    splat,
    square_root,
    store,
    stream,
    total,
    upper,
)

AHEAD = 4  # steps: what is far from what was read before is asked for so early


@njit
def copied(source, at, target, to, width):
    """Copy ``width`` numbers, a register at least."""
    for i in range(0, width, VECTOR):
        j = min(i, width - VECTOR)
        store(target, to + j, load(source, at + j))


@njit
def scratch(buffer):
    """Return where the buffer's numbers are.

    Numba frees an array after the line that names it last, and a pointer into it names nothing: call
    :func:`keep` once the numbers are no longer needed.
    """
    return as_float32(buffer.ctypes.data)


@njit
def keep(buffer):
    """Keep a buffer from being freed until here."""
    buffer[0] = 0.0


@njit
def is_reset(reset, place):
    """Return whether a document begins at ``place``; there are no resets where the address is 0."""
    return reset != 0 and as_bool(reset)[place] != 0


@njit
def recurrence_forward(forget, update, cells, state, last, reset, b, T, C, forget_row, update_row, large, first, end):
    """Run one sequence's channels; what is ``large`` is written past the caches, which it would only fill."""
    # Two rows of cells, before and after a step, which change places with every step: where the last register's
    # channels overlap those before them, a step must not read what it has just written.
    width = end - first
    buffer = np.empty(2 * width, np.float32)
    before, after = scratch(buffer[:width]), scratch(buffer[width:])
    copied(state, b * C + first, before, 0, width)
    for t in range(T):
        fresh = is_reset(reset, b * T + t)
        to = (b * T + t) * C + first
        at = (b * T + t) * forget_row + first
        add = (b * T + t) * update_row + first
        for i in range(0, width, VECTOR):
            j = min(i, width - VECTOR)  # the last begins earlier where the width is no multiple
            prefetch(update, add + AHEAD * update_row + j)
            prefetch(forget, at + AHEAD * forget_row + j)
            c = load(update, add + j)
            if not fresh:
                c = fused(load(forget, at + j), load(before, j), c)
            store(after, j, c)
            if large:
                stream(cells, to + j, c)
            else:
                store(cells, to + j, c)
        before, after = after, before
    copied(before, 0, last, b * C + first, width)
    keep(buffer)


@njit
def recurrence_backward(
    grad_cells, grad_last, forget, state, cells, grad_forget, grad_update, grad_state, reset, b, T, C, row, large,
    first, end,
):  # fmt: skip
    """Run one sequence's channels from the end: the gradient of an update is that of its cell.

    g_t = dc_t + f_{t+1} g_{t+1}, du_t = g_t, df_t = g_t c_{t-1}; ``later`` holds f_{t+1} g_{t+1}, ``now``
    gets f_t g_t.
    """
    width = end - first
    buffer = np.empty(2 * width, np.float32)
    later, now = scratch(buffer[:width]), scratch(buffer[width:])
    copied(grad_last, b * C + first, later, 0, width)
    for t in range(T - 1, -1, -1):
        fresh = is_reset(reset, b * T + t)
        to = (b * T + t) * C + first
        at = (b * T + t) * row + first
        for i in range(0, width, VECTOR):
            j = min(i, width - VECTOR)
            prefetch(grad_cells, to - AHEAD * C + j)
            prefetch(cells, to - (AHEAD + 1) * C + j)
            prefetch(forget, at - AHEAD * row + j)
            g = load(grad_cells, to + j) + load(later, j)
            h = splat(0.0)
            passed = splat(0.0)
            if not fresh:  # at a reset nothing goes back to the cell before, and the forget gate had no say
                h = g * (load(state, b * C + first + j) if t == 0 else load(cells, to - C + j))
                passed = load(forget, at + j) * g
            store(now, j, passed)
            if large:
                stream(grad_update, to + j, g)
                stream(grad_forget, to + j, h)
            else:
                store(grad_update, to + j, g)
                store(grad_forget, to + j, h)
        later, now = now, later
    copied(later, 0, grad_state, b * C + first, width)
    keep(buffer)


@njit
def square_sum(x, at, D):
    """Return the sum of the squares of ``D`` numbers."""
    even = D - D % VECTOR
    squares = splat(0.0)
    for j in range(0, even, VECTOR):
        v = load(x, at + j)
        squares = fused(v, v, squares)
    if even < D:
        v = load(x, at + D - VECTOR) * lanes_from(VECTOR - (D - even))
        squares = fused(v, v, squares)
    return total(squares)


@njit
def inverse_rms(x, at, D, eps):
    """Return one over the root mean square of ``D`` numbers."""
    return np.float32(1.0 / math.sqrt(square_sum(x, at, D) / D + eps))


@njit
def rms_norm_forward(x, weight, y, scales, D, eps, first, end):
    """Divide rows by their root mean square and scale; keep the divisors' inverses."""
    for n in range(first, end):
        # one pass for the sum of squares, a second over what is in the cache now
        scale = inverse_rms(x, n * D, D, eps)
        scales[n] = scale
        for i in range(0, D, VECTOR):
            j = min(i, D - VECTOR)
            store(y, n * D + j, load(x, n * D + j) * scale * load(weight, j))


@njit
def rms_norm_backward(x, weight, scales, grad, grad_x, grad_weight, D, part, first, end):
    """Go back through rows; ``grad_weight`` (parts, D) gets the sum over this task's rows in row ``part``.

    With h = x s: dx = s (g w - h mean(g w h)), dw = sum of g h.
    """
    at = part * D
    even = D - D % VECTOR
    behind = lanes_from(VECTOR - (D - even))  # of the last register, where it overlaps the one before
    for i in range(0, D, VECTOR):
        store(grad_weight, at + min(i, D - VECTOR), splat(0.0))
    for n in range(first, end):
        # the mean of g w h, and this row's part of dw in the same pass
        scale = scales[n]
        dots = splat(0.0)
        for i in range(0, D, VECTOR):
            j = min(i, D - VECTOR)
            g = load(grad, n * D + j)
            if i > j:
                g = g * behind
            h = load(x, n * D + j) * scale
            dots = fused(g * load(weight, j), h, dots)
            store(grad_weight, at + j, fused(g, h, load(grad_weight, at + j)))
        mean = np.float32(total(dots) / D)
        for i in range(0, D, VECTOR):
            j = min(i, D - VECTOR)
            h = load(x, n * D + j) * scale
            store(grad_x, n * D + j, (load(grad, n * D + j) * load(weight, j) - h * mean) * scale)


@njit
def relu_squared_forward(x, y, first, end):
    """Square what is positive, zero the rest."""
    for i in range(first, end, VECTOR):
        j = min(i, end - VECTOR)
        v = upper(load(x, j), splat(0.0))
        store(y, j, v * v)


@njit
def relu_squared_backward(y, grad, grad_x, first, end):
    """Multiply by 2 relu(x), which is 2 sqrt(y)."""
    for i in range(first, end, VECTOR):
        j = min(i, end - VECTOR)
        store(grad_x, j, 2.0 * square_root(load(y, j)) * load(grad, j))


@njit
def softmax_loss(logits, targets, nats, weight, V, gradient, first, end):
    """Write each row's nats; where ``gradient`` is asked for, put that of ``weight`` * nats over the logits.

    A target below zero is not scored. A row is read twice, the second time from the cache; its exponentials
    are kept in float32 beside it, and what is written comes from there.
    """
    buffer = np.empty(V, np.float32)
    exponentials = scratch(buffer)
    even = V - V % VECTOR
    behind = lanes_from(VECTOR - (V - even))  # of the last register, where it overlaps the one before
    for n in range(first, end):
        at = n * V
        target = targets[n]
        if target < 0:
            nats[n] = 0.0
            if gradient:
                for i in range(0, V, VECTOR):
                    store(logits, at + min(i, V - VECTOR), splat(0.0))
            continue
        # The largest logit is subtracted, so that e^x stays finite.
        most = load(logits, at + V - VECTOR)
        for j in range(0, even, VECTOR):
            most = upper(most, load(logits, at + j))
        top = largest(most)
        sums = splat(0.0)
        for j in range(0, even, VECTOR):
            e = exp(load(logits, at + j) - top)
            store(exponentials, j, e)
            sums = sums + e
        if even < V:
            e = exp(load(logits, at + V - VECTOR) - top)
            store(exponentials, V - VECTOR, e)
            sums = sums + e * behind
        s = total(sums)
        nats[n] = math.log(s) + (top - one(logits, at + target))
        # d nats / d logits = softmax - one at the target
        if gradient:
            exponentials[target] -= np.float32(s)
            share = splat(np.float32(weight / s))
            for i in range(0, V, VECTOR):
                j = min(i, V - VECTOR)
                store(logits, at + j, load(exponentials, j) * share)
    keep(buffer)
