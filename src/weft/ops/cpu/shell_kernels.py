"""The kernels of a block's shell: what goes into its mixer, and what comes out of it, in one pass each.

    enter:  n_t = x_t / rms(x_t) * w,   h_t = n_t + m (n_{t-1} - n_t)
    leave:  s_t = 2 g sigmoid(h_t . v / sqrt(D)),   y_t = x_t + s_t u_t

for the residual stream x, the norm's weight w, the shares m of token shift, the mixer's output u, and the
weights v and the gain g of a block gate. x and y are float32; n, h and u are float32 or bfloat16, as their
pointers say. Rows are numbered through all sequences: row b T + t is position t of sequence b.

A task is the rows from ``first`` to ``end``. How widths and resets come is said in :mod:`weft.ops.cpu.kernels`.
Shapes: B batch, T time, D width.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from weft.ops.cpu.constants import VECTOR
from weft.ops.cpu.kernels import copied, inverse_rms, is_reset, keep, scratch
from weft.ops.cpu.simd import as_float32, fused, lanes_from, load, splat, store, total, where_below


@njit
def _normed(x, weight, row, D, scale, rows, to):
    """Write a row's n to ``rows``."""
    for i in range(0, D, VECTOR):
        j = min(i, D - VECTOR)
        store(rows, to + j, load(x, row * D + j) * scale * load(weight, j))


@njit
def enter_forward(x, weight, share, before, reset, h, scales, last, rows, T, D, eps, first, end):
    """Norm and shift rows; ``rows`` is room for two of n, as precise as h is.

    ``before`` (B, D) are the n before each sequence, zeros where the address is 0; so no shift is where that of
    ``share`` is 0. ``scales`` gets 1 / rms of each row, ``last`` (B, D) the n of each sequence's last.
    """
    past = 0
    now = D
    if share != 0 and first % T > 0:
        _normed(x, weight, first - 1, D, inverse_rms(x, (first - 1) * D, D, eps), rows, past)
    for n in range(first, end):
        scale = inverse_rms(x, n * D, D, eps)
        scales[n] = scale
        if share == 0:
            _normed(x, weight, n, D, scale, h, n * D)
            continue
        b = n // T
        t = n % T
        fresh = is_reset(reset, n) or (t == 0 and before == 0)
        for i in range(0, D, VECTOR):
            j = min(i, D - VECTOR)
            # what the next row and the state see is rounded, so a text in pieces is the text as a whole
            store(rows, now + j, load(x, n * D + j) * scale * load(weight, j))
            v = load(rows, now + j)
            p = splat(0.0)
            if not fresh:
                p = load(as_float32(before), b * D + j) if t == 0 else load(rows, past + j)
            # as torch.lerp does it, from the nearer of both
            m = load(as_float32(share), j)
            half = splat(0.5)
            store(h, n * D + j, fused(where_below(m, half, m, m - 1.0), p - v, where_below(m, half, v, p)))
        if t == T - 1:
            copied(rows, now, last, b * D, D)
        past, now = now, past


@njit
def enter_backward(
    grad_h, grad_x_after, grad_last, x, weight, share, scales, before, reset, grad_x, grad_weight, grad_share,
    grad_before, T, D, part, first, end,
):  # fmt: skip
    """Go back through norm and shift, and add what comes back to x from elsewhere (``grad_x_after``).

    dn_t = (1 - m) dh_t + m dh_{t+1}, without the second term where t + 1 is a reset; ``grad_last`` (B, D),
    where there is one, belongs to the last n. ``grad_weight`` and ``grad_share`` (parts, D) get this task's
    sums in row ``part``, ``grad_before`` (B, D) is written where t is 0.
    """
    buffer = np.empty(D, np.float32)
    grad_n = scratch(buffer)
    to = part * D
    even = D - D % VECTOR
    behind = lanes_from(VECTOR - (D - even))  # of the last register, where it overlaps the one before
    for i in range(0, D, VECTOR):
        j = min(i, D - VECTOR)
        store(grad_weight, to + j, splat(0.0))
        if share != 0:
            store(grad_share, to + j, splat(0.0))
    for n in range(first, end):
        t = n % T
        b = n // T
        at = n * D
        scale = scales[n]
        earlier = scales[n - 1] if t > 0 else np.float32(0.0)
        fresh = is_reset(reset, n)
        to_next = t + 1 < T and not is_reset(reset, n + 1)
        # First dn, with the sums over rows, and the dot product of dn w with x / rms(x).
        dots = splat(0.0)
        for i in range(0, D, VECTOR):
            j = min(i, D - VECTOR)
            w = load(weight, j)
            xhat = load(x, at + j) * scale
            g = load(grad_h, at + j)
            if share != 0:
                m = load(as_float32(share), j)
                v = xhat * w
                p = splat(0.0)
                if not fresh:
                    if t > 0:
                        p = load(x, at - D + j) * earlier * w
                    elif before != 0:
                        p = load(as_float32(before), b * D + j)
                moved = g * (p - v)
                if i > j:
                    moved = moved * behind
                store(grad_share, to + j, load(grad_share, to + j) + moved)
                if t == 0:
                    store(grad_before, b * D + j, splat(0.0) if fresh else g * m)
                g = g - g * m
                if to_next:
                    g = fused(load(grad_h, at + D + j), m, g)
            if t == T - 1 and grad_last != 0:
                g = g + load(as_float32(grad_last), b * D + j)
            store(grad_n, j, g)
            if i > j:
                g = g * behind
            dots = fused(g * w, xhat, dots)
            store(grad_weight, to + j, fused(g, xhat, load(grad_weight, to + j)))
        # Then dx = (dn w - mean(dn w xhat) xhat) / rms(x).
        mean = np.float32(total(dots) / D)
        for i in range(0, D, VECTOR):
            j = min(i, D - VECTOR)
            g = (load(grad_n, j) * load(weight, j) - load(x, at + j) * scale * mean) * scale
            if grad_x_after != 0:
                g = g + load(as_float32(grad_x_after), at + j)
            store(grad_x, at + j, g)
    keep(buffer)


@njit
def leave_forward(x, u, h, weight, gain, y, gates, D, first, end):
    """Gate rows of the mixer's output and add them to the stream; keep sigmoid(h . v / sqrt(D)) of each."""
    even = D - D % VECTOR
    behind = lanes_from(VECTOR - (D - even))
    root = 1.0 / math.sqrt(D)
    for n in range(first, end):
        at = n * D
        dots = splat(0.0)
        for i in range(0, D, VECTOR):
            j = min(i, D - VECTOR)
            v = load(weight, j)
            if i > j:
                v = v * behind
            dots = fused(load(h, at + j), v, dots)
        gate = 1.0 / (1.0 + math.exp(-total(dots) * root))
        gates[n] = np.float32(gate)
        scale = splat(np.float32(2.0 * gain[0] * gate))
        for i in range(0, D, VECTOR):
            j = min(i, D - VECTOR)
            store(y, at + j, fused(scale, load(u, at + j), load(x, at + j)))


@njit
def leave_backward(grad_y, u, h, weight, gain, gates, grad_u, grad_h, grad_weight, grad_gain, D, part, first, end):
    """Go back through the gate; the gradient of x is that of y.

    ``grad_weight`` (parts, D) and ``grad_gain`` (parts) get this task's sums in row ``part``.
    """
    even = D - D % VECTOR
    behind = lanes_from(VECTOR - (D - even))
    root = 1.0 / math.sqrt(D)
    to = part * D
    for i in range(0, D, VECTOR):
        store(grad_weight, to + min(i, D - VECTOR), splat(0.0))
    gains = 0.0
    for n in range(first, end):
        at = n * D
        gate = gates[n]
        scale = splat(np.float32(2.0 * gain[0] * gate))
        dots = splat(0.0)
        for i in range(0, D, VECTOR):
            j = min(i, D - VECTOR)
            g = load(grad_y, at + j)
            store(grad_u, at + j, g * scale)
            if i > j:
                g = g * behind
            dots = fused(g, load(u, at + j), dots)
        of_scale = total(dots)
        gains += 2.0 * gate * of_scale
        of_dot = splat(np.float32(of_scale * 2.0 * gain[0] * gate * (1.0 - gate) * root))
        for i in range(0, D, VECTOR):
            j = min(i, D - VECTOR)
            store(grad_h, at + j, of_dot * load(weight, j))
            g = of_dot * load(h, at + j)
            if i > j:
                g = g * behind
            store(grad_weight, to + j, load(grad_weight, to + j) + g)
    grad_gain[part] = np.float32(gains)
