"""The kernels of a QRNN's pooling: what one task of each does, in Numba's Python, on a register of numbers at a time.

A task is the channels of one sequence from ``first`` to ``end``. It walks through time with its cells in
memory of its own, which stays in the core's cache. The forward pass keeps the cells before each chunk of
steps alone; the backward pass goes from the last chunk to the first, and makes each chunk's gates and cells
again. How pointers, widths and resets come is said in :mod:`weft.ops.cpu.kernels`.

    f:   c_t = f_t c_{t-1} + (1 - f_t) z_t        h_t = c_t
    fo:  the same cell                            h_t = o_t c_t
    ifo: c_t = f_t c_{t-1} + i_t z_t              h_t = o_t c_t

Shapes: B batch, T time, C cell width, A gates of a cell (in the order z, f, o, i).
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from weft.ops.cpu.constants import CHUNK, KINDS, VECTOR
from weft.ops.cpu.kernels import AHEAD, copied, is_reset, keep, scratch
from weft.ops.cpu.simd import decline, fused, load, prefetch, prefetch_to_write, splat, store, tanh_parts

F = KINDS["f"]
FO = KINDS["fo"]
IFO = KINDS["ifo"]


@njit
def _decline(gates, bias, at, C, gate, channel):
    """Return 1 + e^-x of pre-activations x, the denominator of their sigmoid; ``at`` is where those of z are."""
    return 1.0 + decline(load(gates, at + gate * C) + load(bias, gate * C + channel))


@njit
def pooling_forward(gates, bias, hidden, cell, last, starts, reset, b, T, C, row, kind, first, end):
    """Run one sequence's channels through the gates and the recurrence; keep the cells before each chunk.

    With z = p / q, f = 1 / k, o = 1 / m and i = 1 / n, cell and output are sums of products over one
    denominator: one division a cell rather than one for each gate.

        ifo:    c' = (c q n + p k) / (q k n)
        f, fo:  c' = (c q + (k - 1) p) / (q k)

    """
    # Two rows of cells, before and after a step, which change places with every step (see
    # recurrence_forward).
    width = end - first
    chunks = (T + CHUNK - 1) // CHUNK
    buffer = np.empty(2 * width, np.float32)
    before, after = scratch(buffer[:width]), scratch(buffer[width:])
    copied(cell, b * C + first, before, 0, width)
    for t in range(T):
        if t % CHUNK == 0:  # the backward pass starts from here
            copied(before, 0, starts, (b * chunks + t // CHUNK) * C + first, width)
        fresh = is_reset(reset, b * T + t)
        for i in range(0, width, VECTOR):
            j = min(i, width - VECTOR)
            at = (b * T + t) * row + first + j
            to = (b * T + t) * C + first + j
            channel = first + j
            _ask(gates, at + AHEAD * row, C, kind)
            c = splat(0.0) if fresh else load(before, j)
            p, q = tanh_parts(load(gates, at) + load(bias, channel))
            k = _decline(gates, bias, at, C, 1, channel)
            if kind == IFO:
                n = _decline(gates, bias, at, C, 3, channel)
                over = fused(c * q, n, p * k)
                under = q * k * n
            else:
                over = fused(c, q, (k - 1.0) * p)
                under = q * k
            if kind == F:
                c = over / under
                store(hidden, to, c)
            else:  # h = o c, so the division for h gives c as well
                m = _decline(gates, bias, at, C, 2, channel)
                h = over / (under * m)
                c = h * m
                store(hidden, to, h)
            store(after, j, c)
        before, after = after, before
    copied(before, 0, last, b * C + first, width)
    keep(buffer)


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
    """Return z, f, o and i by one division, as in :func:`pooling_forward`; o and i are 1 and 1 - f without gates.

    r is one over the product of all denominators; a gate is its numerator times r times the others'
    denominators.
    """
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
    """Make a step's gates again, keep them, and step cells: from ``cells[place]`` to those ``width`` further."""
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
    """Write one step's gradients of a register of channels' gates; return what goes on to the cells before.

    ``grad`` is dh, ``later`` what comes back from the next step. With g = dh o + later, and the derivatives
    1 - z^2 of tanh and s (1 - s) of a sigmoid:

        ifo:     dz = g i (1 - z^2)         df = g c f (1 - f)         di = g z i (1 - i)
        f, fo:   dz = g (1 - f) (1 - z^2)   df = g (c - z) f (1 - f)
        fo, ifo: do = dh c' o (1 - o)       where c' is the cell after the step

    """
    z = load(made, at)
    f = load(made, size + at)
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

    ``made`` are a chunk's z, f, then o and i where there are any, ``size`` numbers each. ``grad_bias`` (B, G
    C) gets the sums over this sequence's steps; the last register's channels, which may overlap others, have sums
    of their own.
    """
    width = end - first
    chunks = (T + CHUNK - 1) // CHUNK
    own = kind + 2  # gates of a cell
    size = CHUNK * width  # numbers of one gate in a chunk
    even = (width + VECTOR - 1) // VECTOR * VECTOR  # sums of a gate: a register for each step of a loop
    # The buffer holds, in this order: the chunk's gates, its cells and the one before them, two rows of what
    # comes back (they change places with every step), and the sums of the bias's gradients.
    buffer = np.empty((own + 1) * size + 3 * width + own * even, np.float32)
    made = scratch(buffer)
    cells = scratch(buffer[own * size :])
    rest = (own + 1) * size + width
    later, now, sums = scratch(buffer[rest:]), scratch(buffer[rest + width :]), scratch(buffer[rest + 2 * width :])
    buffer[rest + 2 * width :] = 0.0
    copied(grad_last, b * C + first, later, 0, width)
    for chunk in range(chunks - 1, -1, -1):
        begin = b * T + chunk * CHUNK
        stop = b * T + min((chunk + 1) * CHUNK, T)
        # forward through the chunk: its gates and cells once more, from the cells that were kept before it
        copied(starts, (b * chunks + chunk) * C + first, cells, 0, width)
        for t in range(begin, stop):
            fresh = is_reset(reset, t)
            kept = (t - begin) * width
            for i in range(0, width, VECTOR):
                j = min(i, width - VECTOR)
                at = t * row + first + j
                prefetch(grad_hidden, t * C + first + j)
                _ask(gates, at + AHEAD * row, C, kind)
                _room(grad_gates, t * own * C + first + j, C, kind)
                _step_again(gates, bias, at, C, first + j, kind, fresh, made, kept + j, size, cells, kept + j, width)
        # and back, from its last step to its first
        for t in range(stop - 1, begin - 1, -1):
            fresh = is_reset(reset, t)
            kept = (t - begin) * width
            for i in range(0, width, VECTOR):
                j = min(i, width - VECTOR)
                to = t * own * C + first + j
                grad = load(grad_hidden, t * C + first + j)
                g = load(later, j)
                g = _step_back(
                    grad_gates, sums, cells, made, size, kept + j, to, width, i, even, C, kind, fresh, grad, g
                )
                store(now, j, g)
            later, now = now, later
    copied(later, 0, grad_cell, b * C + first, width)
    for gate in range(own):
        for i in range(0, width, VECTOR):
            store(grad_bias, (b * own + gate) * C + first + min(i, width - VECTOR), load(sums, gate * even + i))
    keep(buffer)
