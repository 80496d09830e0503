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

from weft.ops.cpu.constants import CHUNK, KINDS, VECTOR
from weft.ops.cpu.simd import (
    as_bool,
    as_float32,
    decline,
    exp,
    fused,
    largest,
    load,
    prefetch,
    prefetch_to_write,
    splat,
    square_root,
    store,
    stream,
    tanh_parts,
    total,
    upper,
)

F, FO, IFO = KINDS["f"], KINDS["fo"], KINDS["ifo"]
AHEAD = 4  # steps: what is far from what was read before is asked for so early


@njit
def _copy(source, at, target, to, width):
    """Copy ``width`` float32 numbers."""
    for i in range(0, width, VECTOR):
        j = min(i, width - VECTOR)
        store(target, to + j, load(source, at + j))


@njit
def _scratch(buffer):
    """Return where the buffer's numbers are. It must be named after their last use, or it is freed: :func:`_keep`."""
    return as_float32(buffer.ctypes.data)


@njit
def _keep(buffer):
    """Keep a buffer until here."""
    buffer[0] = 0.0


@njit
def _is_reset(reset, place):
    return reset != 0 and as_bool(reset)[place] != 0


@njit
def _decline(gates, bias, at, C, gate, channel):
    """Return 1 + e^-x of eight pre-activations x, the denominator of their sigmoid; ``at`` is where those of z are."""
    return 1.0 + decline(load(gates, at + gate * C) + load(bias, gate * C + channel))


@njit
def pooling_forward(gates, bias, hidden, cell, last, starts, reset, b, T, C, row, kind, first, end):
    """Run one sequence's channels through the gates and the recurrence; keep the cells before each chunk.

    With z = p / q, f = 1 / k, o = 1 / m and i = 1 / n, cell and output are sums of products over one denominator.
    """
    width, chunks = end - first, (T + CHUNK - 1) // CHUNK
    buffer = np.empty(2 * width, np.float32)
    before, after = _scratch(buffer[:width]), _scratch(buffer[width:])
    _copy(cell, b * C + first, before, 0, width)
    for t in range(T):
        if t % CHUNK == 0:
            _copy(before, 0, starts, (b * chunks + t // CHUNK) * C + first, width)
        fresh = _is_reset(reset, b * T + t)
        for i in range(0, width, VECTOR):
            j = min(i, width - VECTOR)
            at, to, channel = (b * T + t) * row + first + j, (b * T + t) * C + first + j, first + j
            _ask(gates, at + AHEAD * row, C, kind)
            c = splat(0.0) if fresh else load(before, j)
            p, q = tanh_parts(load(gates, at) + load(bias, channel))
            k = _decline(gates, bias, at, C, 1, channel)
            if kind == IFO:
                n = _decline(gates, bias, at, C, 3, channel)
                over, under = fused(c * q, n, p * k), q * k * n
            else:
                over, under = fused(c, q, (k - 1.0) * p), q * k
            if kind == F:
                c = over / under
                store(hidden, to, c)
            else:
                m = _decline(gates, bias, at, C, 2, channel)
                h = over / (under * m)
                c = h * m
                store(hidden, to, h)
            store(after, j, c)
        before, after = after, before
    _copy(before, 0, last, b * C + first, width)
    _keep(buffer)


@njit
def _ask(gates, at, C, kind):
    """Ask for later gates: those of a task lie apart, and the processor does not foresee them all."""
    prefetch(gates, at)
    prefetch(gates, at + C)
    if kind != F:
        prefetch(gates, at + 2 * C)
    if kind == IFO:
        prefetch(gates, at + 3 * C)


@njit
def _room(grad_gates, at, C, kind):
    """Ask for the places of a step's gradients."""
    prefetch_to_write(grad_gates, at)
    prefetch_to_write(grad_gates, at + C)
    if kind != F:
        prefetch_to_write(grad_gates, at + 2 * C)
    if kind == IFO:
        prefetch_to_write(grad_gates, at + 3 * C)


@njit
def _activated(gates, bias, at, C, channel, kind):
    """Return z, f, o and i by one division, as in :func:`pooling_forward`; o and i are 1 and 1 - f without gates."""
    p, q = tanh_parts(load(gates, at) + load(bias, channel))
    k = _decline(gates, bias, at, C, 1, channel)
    if kind == F:
        r = 1.0 / (q * k)
        f = q * r
        return p * k * r, f, splat(1.0), (k - 1.0) * f
    m = _decline(gates, bias, at, C, 2, channel)
    if kind == FO:
        r = 1.0 / (q * k * m)
        f = q * r * m
        return p * (k * m * r), f, q * r * k, (k - 1.0) * f
    n = _decline(gates, bias, at, C, 3, channel)
    r = 1.0 / (q * k * m * n)
    return p * (k * m * n * r), q * r * (m * n), q * r * (k * n), q * r * (k * m)


@njit
def _step_again(gates, bias, at, C, channel, kind, fresh, made, to, size, cells, place, width):
    """Make a step's gates again, keep them, and step eight cells: from ``cells[place]`` to those ``width`` further."""
    z, f, o, i_gate = _activated(gates, bias, at, C, channel, kind)
    c = splat(0.0) if fresh else load(cells, place)
    store(made, to, z)
    store(made, size + to, f)
    if kind != F:
        store(made, 2 * size + to, o)
    if kind == IFO:
        store(made, 3 * size + to, i_gate)
    store(cells, place + width, fused(f, c, i_gate * z))


@njit
def _step_back(grad_gates, sums, cells, made, size, at, to, width, slot, even, C, kind, fresh, grad, later):
    """Write one step's gradients of eight channels' gates; return what goes on to the cells before."""
    z, f = load(made, at), load(made, size + at)
    c = splat(0.0) if fresh else load(cells, at)
    o = splat(1.0) if kind == F else load(made, 2 * size + at)
    i_gate = load(made, 3 * size + at) if kind == IFO else 1.0 - f
    g = fused(grad, o, later)
    if kind != F:
        _put(grad_gates, to + 2 * C, sums, 2 * even + slot, grad * load(cells, at + width) * (o * (1.0 - o)))
    if kind == IFO:
        _put(grad_gates, to + C, sums, even + slot, g * c * (f * (1.0 - f)))
        _put(grad_gates, to + 3 * C, sums, 3 * even + slot, g * z * (i_gate * (1.0 - i_gate)))
    else:
        _put(grad_gates, to + C, sums, even + slot, g * (c - z) * (f * i_gate))
    _put(grad_gates, to, sums, slot, g * i_gate * (1.0 - z * z))
    return splat(0.0) if fresh else f * g


@njit
def _put(grad_gates, at, sums, slot, value):
    """Write a gate's gradient, and add it to the bias's."""
    store(grad_gates, at, value)
    store(sums, slot, load(sums, slot) + value)


@njit
def pooling_backward(
    gates, bias, grad_hidden, grad_gates, grad_bias, grad_last, grad_cell, starts, reset, b, T, C, row, kind, first, end
):
    """Go back through one sequence's channels, chunk by chunk, making each chunk's gates and cells again.

    ``made`` are a chunk's z, f, then o and i where there are any, ``size`` numbers each. ``grad_bias`` (B, G C) gets
    the sums over this sequence's steps; the last eight channels, which may overlap others, have sums of their own.
    """
    width, chunks, own = end - first, (T + CHUNK - 1) // CHUNK, kind + 2
    size, even = CHUNK * width, (width + VECTOR - 1) // VECTOR * VECTOR
    buffer = np.empty((own + 1) * size + 3 * width + own * even, np.float32)
    made, cells, rest = _scratch(buffer), _scratch(buffer[own * size :]), (own + 1) * size + width
    later, now, sums = _scratch(buffer[rest:]), _scratch(buffer[rest + width :]), _scratch(buffer[rest + 2 * width :])
    buffer[rest + 2 * width :] = 0.0
    _copy(grad_last, b * C + first, later, 0, width)
    for chunk in range(chunks - 1, -1, -1):
        begin, stop = b * T + chunk * CHUNK, b * T + min((chunk + 1) * CHUNK, T)
        _copy(starts, (b * chunks + chunk) * C + first, cells, 0, width)
        for t in range(begin, stop):
            fresh, kept = _is_reset(reset, t), (t - begin) * width
            for i in range(0, width, VECTOR):
                j = min(i, width - VECTOR)
                at = t * row + first + j
                prefetch(grad_hidden, t * C + first + j)
                _ask(gates, at + AHEAD * row, C, kind)
                _room(grad_gates, t * own * C + first + j, C, kind)
                _step_again(gates, bias, at, C, first + j, kind, fresh, made, kept + j, size, cells, kept + j, width)
        for t in range(stop - 1, begin - 1, -1):
            fresh, kept = _is_reset(reset, t), (t - begin) * width
            for i in range(0, width, VECTOR):
                j = min(i, width - VECTOR)
                to, grad, g = t * own * C + first + j, load(grad_hidden, t * C + first + j), load(later, j)
                g = _step_back(
                    grad_gates, sums, cells, made, size, kept + j, to, width, i, even, C, kind, fresh, grad, g
                )
                store(now, j, g)
            later, now = now, later
    _copy(later, 0, grad_cell, b * C + first, width)
    for gate in range(own):
        for i in range(0, width, VECTOR):
            store(grad_bias, (b * own + gate) * C + first + min(i, width - VECTOR), load(sums, gate * even + i))
    _keep(buffer)


@njit
def recurrence_forward(forget, update, cells, state, last, reset, b, T, C, forget_row, update_row, large, first, end):
    """Run one sequence's channels; what is ``large`` is written past the caches, which it would only fill."""
    width = end - first
    buffer = np.empty(2 * width, np.float32)
    before, after = _scratch(buffer[:width]), _scratch(buffer[width:])
    _copy(state, b * C + first, before, 0, width)
    for t in range(T):
        fresh = _is_reset(reset, b * T + t)
        to = (b * T + t) * C + first
        at, add = (b * T + t) * forget_row + first, (b * T + t) * update_row + first
        for i in range(0, width, VECTOR):
            j = min(i, width - VECTOR)
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
    _copy(before, 0, last, b * C + first, width)
    _keep(buffer)


@njit
def recurrence_backward(
    grad_cells, grad_last, forget, state, cells, grad_forget, grad_update, grad_state, reset, b, T, C, row, large,
    first, end,
):  # fmt: skip
    """Run one sequence's channels from the end: the gradient of an update is that of its cell."""
    width = end - first
    buffer = np.empty(2 * width, np.float32)
    later, now = _scratch(buffer[:width]), _scratch(buffer[width:])
    _copy(grad_last, b * C + first, later, 0, width)
    for t in range(T - 1, -1, -1):
        fresh = _is_reset(reset, b * T + t)
        to, at = (b * T + t) * C + first, (b * T + t) * row + first
        for i in range(0, width, VECTOR):
            j = min(i, width - VECTOR)
            prefetch(grad_cells, to - AHEAD * C + j)
            prefetch(cells, to - (AHEAD + 1) * C + j)
            prefetch(forget, at - AHEAD * row + j)
            g = load(grad_cells, to + j) + load(later, j)
            h, passed = splat(0.0), splat(0.0)
            if not fresh:
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
    _copy(later, 0, grad_state, b * C + first, width)
    _keep(buffer)


@njit
def rms_norm_forward(x, weight, y, scales, D, eps, first, end):
    """Divide rows by their root mean square and scale; keep the divisors' inverses. D is a multiple of eight."""
    for n in range(first, end):
        squares = splat(0.0)
        for j in range(0, D, VECTOR):
            v = load(x, n * D + j)
            squares = fused(v, v, squares)
        scale = np.float32(1.0 / math.sqrt(total(squares) / D + eps))
        scales[n] = scale
        for j in range(0, D, VECTOR):
            store(y, n * D + j, load(x, n * D + j) * scale * load(weight, j))


@njit
def rms_norm_backward(x, weight, scales, grad, grad_x, grad_weight, D, part, first, end):
    """Go back through rows; ``grad_weight`` (parts, D) gets the sum over this task's rows in row ``part``.

    With h = x s: dx = s (g w - h mean(g w h)), dw = sum of g h.
    """
    at = part * D
    for j in range(0, D, VECTOR):
        store(grad_weight, at + j, splat(0.0))
    for n in range(first, end):
        scale, dots = scales[n], splat(0.0)
        for j in range(0, D, VECTOR):
            g, h = load(grad, n * D + j), load(x, n * D + j) * scale
            dots = fused(g * load(weight, j), h, dots)
            store(grad_weight, at + j, fused(g, h, load(grad_weight, at + j)))
        mean = np.float32(total(dots) / D)
        for j in range(0, D, VECTOR):
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

    A target below zero is not scored. The last V mod 8 columns go one by one.
    """
    even = V - V % VECTOR
    for n in range(first, end):
        at, target = n * V, targets[n]
        if target < 0:
            nats[n] = 0.0
            if gradient:
                for j in range(V):
                    logits[at + j] = 0.0
            continue
        most = splat(logits[at + V - 1])
        for j in range(0, even, VECTOR):
            most = upper(most, load(logits, at + j))
        top = largest(most)
        for j in range(even, V):
            top = max(top, logits[at + j])
        scored, sums = logits[at + target], splat(0.0)
        for j in range(0, even, VECTOR):
            e = exp(load(logits, at + j) - top)
            sums = sums + e
            if gradient:
                store(logits, at + j, e)
        s = total(sums)
        for j in range(even, V):
            e_one = total(exp(splat(logits[at + j] - top))) / VECTOR
            s += e_one
            if gradient:
                logits[at + j] = e_one
        nats[n] = math.log(s) + (top - scored)
        if gradient:
            share = np.float32(weight / s)
            for j in range(0, even, VECTOR):
                store(logits, at + j, load(logits, at + j) * share)
            for j in range(even, V):
                logits[at + j] *= share
            logits[at + target] -= np.float32(weight)
