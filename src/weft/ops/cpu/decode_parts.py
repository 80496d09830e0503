"""What the operations of :mod:`weft.ops.cpu.decode` are made of: products with rows, norms, gates, a head's attention.

Indices are in numbers from a pointer. Shapes: K head width.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from weft.ops.cpu.constants import VECTOR
from weft.ops.cpu.simd import (
    as_float32,
    exp,
    fused,
    largest,
    load,
    prefetch,
    sigmoid,
    splat,
    store,
    tanh,
    total,
    upper,
)

NONE, RMS, LAYER = range(3)  # norms
PLAIN, POOL_F, POOL_FO, POOL_IFO, SWIGLU, RELU, RELU_SQUARED, GELU, ADD = range(9)  # what follows a map
AHEAD = 2048  # numbers: weights are asked for so far before they are used


@njit
def asked_for(w, at):
    """Ask for the first ``AHEAD`` numbers from here."""
    for i in range(0, AHEAD, 2 * VECTOR):
        prefetch(w, at + i)


@njit
def _square_sum(x, at, width, mean):
    """Return the sum of (x - mean)^2."""
    even = width - width % VECTOR
    sums = splat(0.0)
    for i in range(0, even, VECTOR):
        v = load(x, at + i) - mean
        sums = fused(v, v, sums)
    s = total(sums)
    for i in range(even, width):
        s += (x[at + i] - mean) * (x[at + i] - mean)
    return s


@njit
def _mean(x, at, width):
    even = width - width % VECTOR
    sums = splat(0.0)
    for i in range(0, even, VECTOR):
        sums = sums + load(x, at + i)
    s = total(sums)
    for i in range(even, width):
        s += x[at + i]
    return np.float32(s / width)


@njit
def copied(x, at, y, to, width):
    """Copy ``width`` numbers."""
    for i in range(width):
        y[to + i] = x[at + i]


@njit
def normed(x, at, y, to, width, how, weight, bias, eps):
    """Write a vector as a norm gives it."""
    # RMSNorm is LayerNorm with a mean of zero
    mean = _mean(x, at, width) if how == LAYER else np.float32(0.0)
    scale = np.float32(1.0 / math.sqrt(_square_sum(x, at, width, mean) / width + eps))
    even = width - width % VECTOR
    gain = as_float32(weight)
    for i in range(0, even, VECTOR):
        v = (load(x, at + i) - mean) * scale * load(gain, i)
        store(y, to + i, v if bias == 0 else v + load(as_float32(bias), i))
    for i in range(even, width):
        one = (x[at + i] - mean) * scale * gain[i]
        y[to + i] = one if bias == 0 else one + as_float32(bias)[i]


@njit
def shifted(x, at, before, before_at, share, y, to, width):
    """Write a vector mixed, channel by channel, with the one before it."""
    even = width - width % VECTOR
    share = as_float32(share)
    for i in range(0, even, VECTOR):
        v = load(x, at + i)
        store(y, to + i, fused(load(share, i), load(before, before_at + i) - v, v))
    for i in range(even, width):
        y[to + i] = x[at + i] + share[i] * (before[before_at + i] - x[at + i])


@njit
def _row_dot(w, at, columns, x, start):
    """Multiply a row of a matrix with a vector."""
    even = columns - columns % VECTOR
    a = splat(0.0)
    for i in range(0, even, VECTOR):
        a = fused(load(w, at + i), load(x, start + i), a)
    s = total(a)
    for i in range(even, columns):
        s += w[at + i] * x[start + i]
    return s


@njit
def _two_rows(w, at, columns, x, start, y, to):
    """Multiply two rows with a vector, in four sums that do not wait for one another.

    The rows lie one after the other, so what is asked for ahead is the next ones, in order.
    """
    even = columns - columns % (2 * VECTOR)
    next_row = at + columns
    a = splat(0.0)
    b = splat(0.0)
    c = splat(0.0)
    d = splat(0.0)
    for i in range(0, even, 2 * VECTOR):
        prefetch(w, at + AHEAD + 2 * i)
        prefetch(w, at + AHEAD + 2 * i + 2 * VECTOR)
        u = load(x, start + i)
        v = load(x, start + i + VECTOR)
        a = fused(load(w, at + i), u, a)
        b = fused(load(w, at + i + VECTOR), v, b)
        c = fused(load(w, next_row + i), u, c)
        d = fused(load(w, next_row + i + VECTOR), v, d)
    s = total(a + b)
    t = total(c + d)
    for i in range(even, columns):
        s += w[at + i] * x[start + i]
        t += w[next_row + i] * x[start + i]
    y[to] = s
    y[to + 1] = t


@njit
def multiplied(w, bias, columns, x, x_stride, y, y_stride, offset, lanes, count, first, end):
    """Multiply rows ``first`` to ``end`` with each text's vector, each row's weights being read once."""
    for row in range(first, end, 2):
        for n in range(count):
            start = lanes[n] * x_stride
            to = lanes[n] * y_stride + offset + row
            if row + 1 < end:
                _two_rows(w, row * columns, columns, x, start, y, to)
            else:
                y[to] = _row_dot(w, row * columns, columns, x, start)
    if bias != 0:
        for n in range(count):
            to = lanes[n] * y_stride + offset
            for row in range(first, end):
                y[to + row] += as_float32(bias)[row]


@njit
def pooled(y, at, part, cell, cell_at, h, to, how, zoneout, first, end):
    """Make gates of what the map gave, step the cells, gate what comes out."""
    for i in range(first, end, VECTOR):
        z = tanh(load(y, at + i))
        f = sigmoid(load(y, at + part + i))
        u = sigmoid(load(y, at + 3 * part + i)) if how == POOL_IFO else 1.0 - f
        # zoneout outside training is its mean: f' = 1 - (1 - zoneout) (1 - f), and the update by 1 - zoneout
        f = fused(1.0 - f, splat(zoneout), f)
        u = u * (1.0 - zoneout)
        c = fused(f, load(cell, cell_at + i), u * z)
        store(cell, cell_at + i, c)
        store(h, to + i, c if how == POOL_F else sigmoid(load(y, at + 2 * part + i)) * c)


@njit
def block_gate(x, at, width, weight, gain):
    """Return by how much a block's output is multiplied, given what the block reads."""
    z = _row_dot(as_float32(weight), 0, width, x, at) / math.sqrt(width)
    return np.float32(2.0 * as_float32(gain)[0] / (1.0 + math.exp(-z)))


@njit
def activated(y, at, part, h, to, how, first, end):
    """Apply a feed-forward block's activation."""
    for i in range(first, end, VECTOR):
        v = load(y, at + i)
        if how == SWIGLU:
            gate = load(y, at + part + i)
            store(h, to + i, v * gate * sigmoid(gate))
        elif how == RELU:
            store(h, to + i, upper(v, splat(0.0)))
        elif how == RELU_SQUARED:
            v = upper(v, splat(0.0))
            store(h, to + i, v * v)
        else:
            for j in range(i, i + VECTOR):
                one = np.float64(y[at + j])
                h[to + j] = np.float32(0.5 * one * (1.0 + math.erf(one * math.sqrt(0.5))))


@njit
def turned(x, at, K, norm, eps, angles, scale, y, to):
    """Norm a head's query or key, rotate it by the angles (cosines, then sines), and scale it."""
    if norm != 0:
        gain = as_float32(norm)
        root = np.float32(1.0 / math.sqrt(_square_sum(x, at, K, np.float32(0.0)) / K + eps))
        for i in range(K):
            y[to + i] = x[at + i] * root * gain[i] * scale
    else:
        for i in range(K):
            y[to + i] = x[at + i] * scale
    if angles != 0:
        half = K // 2
        turn = as_float32(angles)
        for i in range(half):
            a = y[to + i]
            b = y[to + half + i]
            y[to + i] = a * turn[i] - b * turn[half + i]
            y[to + half + i] = a * turn[half + i] + b * turn[i]


@njit
def _softmax(scores, at, count):
    """Turn scores into e^(score - the largest); return their sum. What fills up a register counts for nothing."""
    end = at + (count + VECTOR - 1) // VECTOR * VECTOR
    for i in range(at + count, end):
        scores[i] = -1e30
    most = splat(-1e30)
    for i in range(at, end, VECTOR):
        most = upper(most, load(scores, i))
    top = largest(most)
    sums = splat(0.0)
    for i in range(at, end, VECTOR):
        e = exp(load(scores, i) - top)
        store(scores, i, e)
        sums = sums + e
    return total(sums)


@njit
def _dots(keys, at, wide, first, end, query, start, scores, to):
    """Write the products of the query with the keys in slots ``first`` to ``end``."""
    for slot in range(first, end, 2):
        if slot + 1 < end:
            _two_rows(keys, at + slot * wide, wide, query, start, scores, to + slot - first)
        else:
            scores[to + slot - first] = _row_dot(keys, at + slot * wide, wide, query, start)


@njit
def _summed(values, at, wide, first, end, scores, weight, y, to):
    """Add the values in slots ``first`` to ``end``, by their weights, to ``y``."""
    even = wide - wide % (4 * VECTOR)
    for i in range(0, even, 4 * VECTOR):
        a = load(y, to + i)
        b = load(y, to + i + VECTOR)
        c = load(y, to + i + 2 * VECTOR)
        d = load(y, to + i + 3 * VECTOR)
        for slot in range(first, end):
            here = at + slot * wide + i
            share = splat(scores[weight + slot - first])
            a = fused(load(values, here), share, a)
            b = fused(load(values, here + VECTOR), share, b)
            c = fused(load(values, here + 2 * VECTOR), share, c)
            d = fused(load(values, here + 3 * VECTOR), share, d)
        store(y, to + i, a)
        store(y, to + i + VECTOR, b)
        store(y, to + i + 2 * VECTOR, c)
        store(y, to + i + 3 * VECTOR, d)
    for i in range(even, wide, VECTOR):
        a = load(y, to + i)
        for slot in range(first, end):
            a = fused(load(values, at + slot * wide + i), splat(scores[weight + slot - first]), a)
        store(y, to + i, a)


@njit
def attended(keys, values, at, wide, slots, first, count, scratch):
    """Attend with one head, whose query stands first in ``scratch``; write the result behind it."""
    # What is remembered is a ring: some keys from slot ``first`` on, and the rest, which has wrapped around,
    # from slot
    # 0. ``scratch`` holds the query, the result, and then the scores in the order of time.
    scores = 2 * wide
    straight = min(count, slots - first)
    _dots(keys, at, wide, first, first + straight, scratch, 0, scratch, scores)
    _dots(keys, at, wide, 0, count - straight, scratch, 0, scratch, scores + straight)
    sums = _softmax(scratch, scores, count)
    for i in range(wide, 2 * wide, VECTOR):
        store(scratch, i, splat(0.0))
    _summed(values, at, wide, first, first + straight, scratch, scores, scratch, wide)
    _summed(values, at, wide, 0, count - straight, scratch, scores + straight, scratch, wide)
    share = np.float32(1.0 / sums)
    for i in range(wide, 2 * wide, VECTOR):
        store(scratch, i, load(scratch, i) * share)
