"""The kernels of attention around its products: rotation by positions, and the softmax over what a query sees.

What a query sees is one stretch of keys: the last ``window`` before it and itself, as far as they belong to its
document. Documents are numbered in the order of the keys, so their numbers never fall.

A task is the rows from ``first`` to ``end``; pointers come as float32 or as bfloat16.
Shapes: B batch, S keys, H heads, K head width, Q queries of a block, which are the keys from ``at`` on.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from weft.ops.cpu.constants import VECTOR
from weft.ops.cpu.kernels import keep, scratch
from weft.ops.cpu.simd import exp, fused, lanes_from, largest, load, one, splat, store, total, upper


@njit
def rotate(x, cos, sin, y, scale, back, S, H, K, first, end):
    """Rotate the halves of each head of (B, S, H, K) and lay it out as (B, H, S, K); ``back``: from there, inversely.

    A row is a position of a sequence. K / 2 is a multiple of a register.
    """
    half = K // 2
    for n in range(first, end):
        s = n % S
        for h in range(H):
            by_position = (n * H + h) * K
            by_head = ((n // S * H + h) * S + s) * K
            at = by_head if back else by_position
            to = by_position if back else by_head
            for j in range(0, half, VECTOR):
                c = load(cos, s * half + j) * scale
                turn = load(sin, s * half + j) * scale
                if back:
                    turn = 0.0 - turn
                a = load(x, at + j)
                b = load(x, at + half + j)
                store(y, to + j, a * c - b * turn)
                store(y, to + half + j, fused(a, turn, b * c))


@njit
def seen_softmax(scores, documents, rows, Q, S, at, keys, window, first, end):
    """Put the softmax over what it sees in the place of each row of scores (B rows Q, keys), and 0 where it sees not.

    The scores are of the ``keys`` up to the last query's, of the ``S`` that ``documents`` (B, S) numbers; query
    q is key ``at`` + q. ``rows`` is how many rows of Q queries a sequence has (its heads). ``keys`` is a multiple
    of a register.
    """
    buffer = np.empty(keys, np.float32)
    exponentials = scratch(buffer)
    skipped = at + Q - keys  # keys before those that the scores are of
    start = 0
    for n in range(first, end):
        q = n % Q
        b = n // (rows * Q)
        # Along the queries of one head the first key that is seen only moves on.
        if n == first or q == 0:
            start = skipped
        own = documents[b * S + at + q]
        start = max(start, at + q - window)
        while documents[b * S + start] != own:
            start += 1
        low = start - skipped
        high = at + q - skipped
        begin = low // VECTOR * VECTOR
        stop = high // VECTOR * VECTOR + VECTOR
        row = n * keys
        most = splat(one(scores, row + high))
        for j in range(begin, stop, VECTOR):
            mask = lanes_from(low - j) - lanes_from(high + 1 - j)
            most = upper(most, fused(load(scores, row + j), mask, (mask - 1.0) * 1e30))
        top = largest(most)
        sums = splat(0.0)
        for j in range(begin, stop, VECTOR):
            mask = lanes_from(low - j) - lanes_from(high + 1 - j)
            e = exp(load(scores, row + j) - top) * mask
            store(exponentials, j, e)
            sums = sums + e
        share = splat(np.float32(1.0 / total(sums)))
        for j in range(0, begin, VECTOR):
            store(scores, row + j, splat(0.0))
        for j in range(begin, stop, VECTOR):
            store(scores, row + j, load(exponentials, j) * share)
        for j in range(stop, keys, VECTOR):
            store(scores, row + j, splat(0.0))
    keep(buffer)


@njit
def softmax_backward(weights, grad, grad_scores, keys, first, end):
    """Write the gradient of the scores, given that of the weights: w (g - sum of w g)."""
    for n in range(first, end):
        row = n * keys
        dots = splat(0.0)
        for j in range(0, keys, VECTOR):
            dots = fused(load(weights, row + j), load(grad, row + j), dots)
        dot = total(dots)
        for j in range(0, keys, VECTOR):
            store(grad_scores, row + j, load(weights, row + j) * (load(grad, row + j) - dot))
