"""The kernels: what one task of each does, in Numba's Python, on eight numbers at a time.

A task is some rows, or the channels of one sequence from ``first`` to ``end``. Where a width is no multiple of eight,
the last eight overlap those before them, so nothing may be read after it was overwritten. Pointers come as float32 or
as bfloat16 (:mod:`weft.ops.cpu.simd`); cells and sums are float32 always. ``reset`` is the address of booleans or 0.

Shapes: B batch, T time, C cell width, G gates of a cell (in the order z, f, o, i), N rows, D width, V vocabulary.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from weft.ops.cpu.simd import (
    LANES,
    as_bool,
    as_float32,
    exp,
    fused,
    largest,
    load,
    sigmoid,
    splat,
    square_root,
    store,
    tanh,
    total,
    upper,
)

CHUNK = 32  # steps between the cells that are kept for the backward pass
F, FO, IFO = 0, 1, 2


@njit
def _copy(source, at, target, to, width):
    """Copy ``width`` float32 numbers."""
    for i in range(0, width, LANES):
        j = min(i, width - LANES)
        store(target, to + j, load(source, at + j))


@njit
def _scratch(buffer):
    return as_float32(buffer.ctypes.data)


@njit
def _is_reset(reset, place):
    return reset != 0 and as_bool(reset)[place] != 0


@njit
def pooling_forward(gates, hidden, cell, last, starts, reset, b, T, C, row, kind, first, end):
    """Run one sequence's channels through the gates and the recurrence; keep the cells before each chunk."""
    width, chunks = end - first, (T + CHUNK - 1) // CHUNK
    buffer = np.empty(2 * width, np.float32)
    before, after = _scratch(buffer[:width]), _scratch(buffer[width:])
    _copy(cell, b * C + first, before, 0, width)
    for t in range(T):
        if t % CHUNK == 0:
            _copy(before, 0, starts, (b * chunks + t // CHUNK) * C + first, width)
        fresh = _is_reset(reset, b * T + t)
        at, to = (b * T + t) * row + first, (b * T + t) * C + first
        for i in range(0, width, LANES):
            j = min(i, width - LANES)
            c = splat(0.0) if fresh else load(before, j)
            z, f = tanh(load(gates, at + j)), sigmoid(load(gates, at + C + j))
            c = fused(f, c, sigmoid(load(gates, at + 3 * C + j)) * z if kind == IFO else z - f * z)
            store(after, j, c)
            if kind == F:
                store(hidden, to + j, c)
            else:
                store(hidden, to + j, sigmoid(load(gates, at + 2 * C + j)) * c)
        before, after = after, before
    _copy(before, 0, last, b * C + first, width)


@njit
def _pooling_again(gates, cells, values, forgets, reset, b, begin, stop, T, C, row, kind, first, width):
    """Make a chunk's gates again, and from its first cell the cells before each of its steps."""
    for t in range(begin, stop):
        fresh = _is_reset(reset, b * T + t)
        at, to = (b * T + t) * row + first, (t - begin) * width
        for i in range(0, width, LANES):
            j = min(i, width - LANES)
            z, f = tanh(load(gates, at + j)), sigmoid(load(gates, at + C + j))
            store(values, to + j, z)
            store(forgets, to + j, f)
            if t + 1 < stop:
                c = splat(0.0) if fresh else load(cells, to + j)
                u = sigmoid(load(gates, at + 3 * C + j)) * z if kind == IFO else z - f * z
                store(cells, to + width + j, fused(f, c, u))


@njit
def _pooling_step_back(gates, grad_gates, cells, values, forgets, at, to, kept, j, C, kind, fresh, grad, later):
    """Write one step's gradients of eight channels' gates; return what goes on to the cells before."""
    z, f = load(values, kept + j), load(forgets, kept + j)
    c = splat(0.0) if fresh else load(cells, kept + j)
    i_gate = sigmoid(load(gates, at + 3 * C + j)) if kind == IFO else 1.0 - f
    o = splat(1.0) if kind == F else sigmoid(load(gates, at + 2 * C + j))
    g = fused(grad, o, later)
    if kind != F:
        store(grad_gates, to + 2 * C + j, grad * fused(f, c, i_gate * z) * o * (1.0 - o))
    if kind == IFO:
        store(grad_gates, to + C + j, g * c * f * (1.0 - f))
        store(grad_gates, to + 3 * C + j, g * z * i_gate * (1.0 - i_gate))
    else:
        store(grad_gates, to + C + j, g * (c - z) * f * i_gate)
    store(grad_gates, to + j, g * i_gate * (1.0 - z * z))
    return splat(0.0) if fresh else f * g


@njit
def pooling_backward(
    gates, grad_hidden, grad_gates, grad_last, grad_cell, starts, reset, b, T, C, row, kind, first, end
):
    """Go back through one sequence's channels, chunk by chunk, making each chunk's cells again."""
    width, chunks = end - first, (T + CHUNK - 1) // CHUNK
    size = CHUNK * width
    buffer = np.empty(3 * size + 2 * width, np.float32)
    cells, values, forgets = _scratch(buffer), _scratch(buffer[size:]), _scratch(buffer[2 * size :])
    later, now = _scratch(buffer[3 * size :]), _scratch(buffer[3 * size + width :])
    _copy(grad_last, b * C + first, later, 0, width)
    for chunk in range(chunks - 1, -1, -1):
        begin, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, T)
        _copy(starts, (b * chunks + chunk) * C + first, cells, 0, width)
        _pooling_again(gates, cells, values, forgets, reset, b, begin, stop, T, C, row, kind, first, width)
        for t in range(stop - 1, begin - 1, -1):
            fresh, kept = _is_reset(reset, b * T + t), (t - begin) * width
            at, to, out = (b * T + t) * row + first, (b * T + t) * (kind + 2) * C + first, (b * T + t) * C + first
            for i in range(0, width, LANES):
                j = min(i, width - LANES)
                grad, g = load(grad_hidden, out + j), load(later, j)
                g = _pooling_step_back(
                    gates, grad_gates, cells, values, forgets, at, to, kept, j, C, kind, fresh, grad, g
                )
                store(now, j, g)
            later, now = now, later
    _copy(later, 0, grad_cell, b * C + first, width)
    buffer[0] = 0.0  # keeps the buffer alive until here


@njit
def recurrence_forward(forget, update, cells, state, last, reset, b, T, C, forget_row, update_row, first, end):
    """Run one sequence's channels; the cell before is read where it was written."""
    width = end - first
    for t in range(T):
        fresh = _is_reset(reset, b * T + t)
        to = (b * T + t) * C + first
        at, add = (b * T + t) * forget_row + first, (b * T + t) * update_row + first
        for i in range(0, width, LANES):
            j = min(i, width - LANES)
            c = load(update, add + j)
            if not fresh:
                before = load(state, b * C + first + j) if t == 0 else load(cells, to - C + j)
                c = fused(load(forget, at + j), before, c)
            store(cells, to + j, c)
    if T == 0:
        _copy(state, b * C + first, last, b * C + first, width)
    else:
        _copy(cells, (b * T + T - 1) * C + first, last, b * C + first, width)


@njit
def recurrence_backward(
    grad_cells, grad_last, forget, state, cells, grad_forget, grad_update, grad_state, reset, b, T, C, row, first, end
):
    """Run one sequence's channels from the end: the gradient of an update is that of its cell."""
    width = end - first
    for t in range(T - 1, -1, -1):
        fresh, fresh_later = _is_reset(reset, b * T + t), t + 1 < T and _is_reset(reset, b * T + t + 1)
        to, later = (b * T + t) * C + first, (b * T + t + 1) * row + first
        for i in range(0, width, LANES):
            j = min(i, width - LANES)
            g = load(grad_cells, to + j)
            if t == T - 1:
                g = g + load(grad_last, b * C + first + j)
            elif not fresh_later:
                g = fused(load(forget, later + j), load(grad_update, to + C + j), g)
            store(grad_update, to + j, g)
            if fresh:
                store(grad_forget, to + j, splat(0.0))
            else:
                before = load(state, b * C + first + j) if t == 0 else load(cells, to - C + j)
                store(grad_forget, to + j, g * before)
    at = b * C + first
    for i in range(0, width, LANES):
        j = min(i, width - LANES)
        if T == 0:
            store(grad_state, at + j, load(grad_last, at + j))
        elif _is_reset(reset, b * T):
            store(grad_state, at + j, splat(0.0))
        else:
            store(grad_state, at + j, load(forget, b * T * row + first + j) * load(grad_update, b * T * C + first + j))


@njit
def rms_norm_forward(x, weight, y, scales, D, eps, first, end):
    """Divide rows by their root mean square and scale; keep the divisors' inverses. D is a multiple of eight."""
    for n in range(first, end):
        squares = splat(0.0)
        for j in range(0, D, LANES):
            v = load(x, n * D + j)
            squares = fused(v, v, squares)
        scale = np.float32(1.0 / math.sqrt(total(squares) / D + eps))
        scales[n] = scale
        for j in range(0, D, LANES):
            store(y, n * D + j, load(x, n * D + j) * scale * load(weight, j))


@njit
def rms_norm_backward(x, weight, scales, grad, grad_x, grad_weight, D, part, first, end):
    """Go back through rows; ``grad_weight`` (parts, D) gets the sum over this task's rows in row ``part``.

    With h = x s: dx = s (g w - h mean(g w h)), dw = sum of g h.
    """
    at = part * D
    for j in range(0, D, LANES):
        store(grad_weight, at + j, splat(0.0))
    for n in range(first, end):
        scale, dots = scales[n], splat(0.0)
        for j in range(0, D, LANES):
            g, h = load(grad, n * D + j), load(x, n * D + j) * scale
            dots = fused(g * load(weight, j), h, dots)
            store(grad_weight, at + j, fused(g, h, load(grad_weight, at + j)))
        mean = np.float32(total(dots) / D)
        for j in range(0, D, LANES):
            h = load(x, n * D + j) * scale
            store(grad_x, n * D + j, (load(grad, n * D + j) * load(weight, j) - h * mean) * scale)


@njit
def relu_squared_forward(x, y, first, end):
    """Square what is positive, zero the rest."""
    for i in range(first, end, LANES):
        j = min(i, end - LANES)
        v = upper(load(x, j), splat(0.0))
        store(y, j, v * v)


@njit
def relu_squared_backward(y, grad, grad_x, first, end):
    """Multiply by 2 relu(x), which is 2 sqrt(y)."""
    for i in range(first, end, LANES):
        j = min(i, end - LANES)
        store(grad_x, j, 2.0 * square_root(load(y, j)) * load(grad, j))


@njit
def softmax_loss(logits, targets, nats, weight, V, gradient, first, end):
    """Write each row's nats; where ``gradient`` is asked for, put that of ``weight`` * nats over the logits.

    A target below zero is not scored. The last V mod 8 columns go one by one.
    """
    even = V - V % LANES
    for n in range(first, end):
        at, target = n * V, targets[n]
        if target < 0:
            nats[n] = 0.0
            if gradient:
                for j in range(V):
                    logits[at + j] = 0.0
            continue
        most = splat(logits[at + V - 1])
        for j in range(0, even, LANES):
            most = upper(most, load(logits, at + j))
        top = largest(most)
        for j in range(even, V):
            top = max(top, logits[at + j])
        scored, sums = logits[at + target], splat(0.0)
        for j in range(0, even, LANES):
            e = exp(load(logits, at + j) - top)
            sums = sums + e
            if gradient:
                store(logits, at + j, e)
        s = total(sums)
        for j in range(even, V):
            e_one = total(exp(splat(logits[at + j] - top))) / LANES
            s += e_one
            if gradient:
                logits[at + j] = e_one
        nats[n] = math.log(s) + (top - scored)
        if gradient:
            share = np.float32(weight / s)
            for j in range(0, even, LANES):
                store(logits, at + j, load(logits, at + j) * share)
            for j in range(even, V):
                logits[at + j] *= share
            logits[at + target] -= np.float32(weight)
