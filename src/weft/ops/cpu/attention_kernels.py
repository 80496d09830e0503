"""The kernels of attention around its products: what goes into them, the softmax over what a query sees, the way back.

Queries, keys and values of a position come side by side, as one product made them: H K, G K and G K numbers.
Queries and keys are normed and rotated by their positions, queries scaled, and everything is laid out by head.
Before the new keys stand those that are remembered, normed but not rotated.

What a query sees is one stretch of keys: the last ``window`` before it and itself, as far as they belong to its
document. Documents are numbered in the order of the keys, so their numbers never fall.

A task is the rows from ``first`` to ``end``; pointers are to float32, or to bfloat16 where nothing is said.
K is a multiple of two registers; the queries of a block are the keys from ``at`` on.
Shapes: B batch, T time, M remembered positions, S = M + T, H heads, G key-value heads, K head width, Q queries in a
block.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from weft.ops.cpu.constants import VECTOR
from weft.ops.cpu.kernels import copied, inverse_rms, keep, scratch
from weft.ops.cpu.simd import (
    as_bfloat16,
    as_float32,
    exp,
    fused,
    lanes_from,
    largest,
    load,
    one,
    splat,
    store,
    total,
    upper,
)


@njit
def _normed(x, at, y, to, K, weight, eps):
    """Write a head normed, or as it is where the address of ``weight`` is 0; return 1 / rms."""
    scale = np.float32(1.0)
    if weight != 0:
        scale = inverse_rms(x, at, K, eps)
    for j in range(0, K, VECTOR):
        v = load(x, at + j)
        if weight != 0:
            v = v * scale * load(as_float32(weight), j)
        store(y, to + j, v)
    return scale


@njit
def _rotated(x, at, y, to, K, angles, scale):
    """Write a head rotated by a position's angles (K / 2 cosines, then sines; 0: not at all) and scaled."""
    half = K // 2
    for j in range(0, half, VECTOR):
        a = load(x, at + j) * scale
        b = load(x, at + half + j) * scale
        if angles != 0:
            c = load(as_float32(angles), j)
            s = load(as_float32(angles), half + j)
            store(y, to + j, a * c - b * s)
            store(y, to + half + j, fused(a, s, b * c))
        else:
            store(y, to + j, a)
            store(y, to + half + j, b)


@njit
def attention_enter(
    joined, query_norm, key_norm, angles, old_keys, old_values, queries, keys, values, kept_keys, kept_values, roots,
    T, M, kept, H, G, K, scale, eps, first, end,
):  # fmt: skip
    """Lay out queries (B, H, T, K), keys and values (B, G, S, K), and what is remembered: the last ``kept`` of S.

    ``joined`` is (B, T, (H + 2 G) K), ``old_keys`` and ``old_values`` (B, M, G, K), ``kept_keys`` and
    ``kept_values`` (B, kept, G, K); ``angles`` (S, K), float32, or 0. ``roots`` (B T, H + G) gets 1 / rms of each
    head, float32. A row is one of the B S positions.
    """
    S = M + T
    width = (H + 2 * G) * K
    buffer = np.empty(K, np.float32)
    head = as_bfloat16(buffer.ctypes.data)
    for n in range(first, end):
        b = n // S
        s = n % S
        t = s - M
        turn = angles + 4 * K * s if angles != 0 else 0
        row = b * T + t
        if t >= 0:
            for h in range(H):
                root = _normed(joined, row * width + h * K, head, 0, K, query_norm, eps)
                roots[row * (H + G) + h] = root
                _rotated(head, 0, queries, ((b * H + h) * T + t) * K, K, turn, scale)
        for g in range(G):
            to = ((b * G + g) * S + s) * K
            remembered = ((b * kept + s - (S - kept)) * G + g) * K
            # what the state keeps is rounded before it is rotated, so a text in pieces is the text as a whole
            if t >= 0:
                at = row * width + (H + g) * K
                roots[row * (H + G) + H + g] = _normed(joined, at, head, 0, K, key_norm, eps)
                copied(joined, at + G * K, values, to, K)
            else:
                at = ((b * M + s) * G + g) * K
                copied(old_keys, at, head, 0, K)
                copied(old_values, at, values, to, K)
            _rotated(head, 0, keys, to, K, turn, np.float32(1.0))
            if s >= S - kept:
                copied(head, 0, kept_keys, remembered, K)
                copied(values, to, kept_values, remembered, K)
    keep(buffer)


@njit
def _normed_back(grad, x, at, grad_x, to, K, weight, root, sums):
    """Go back through the norm of a head; ``grad`` is float32. Add the weight's gradient to ``sums``."""
    if weight == 0:
        for j in range(0, K, VECTOR):
            store(grad_x, to + j, load(grad, j))
        return
    w = as_float32(weight)
    dots = splat(0.0)
    for j in range(0, K, VECTOR):
        g = load(grad, j)
        xhat = load(x, at + j) * root
        dots = fused(g * load(w, j), xhat, dots)
        store(sums, j, fused(g, xhat, load(sums, j)))
    mean = np.float32(total(dots) / K)
    for j in range(0, K, VECTOR):
        xhat = load(x, at + j) * root
        store(grad_x, to + j, (load(grad, j) * load(w, j) - xhat * mean) * root)


@njit
def _rotated_back(grad, at, y, K, angles, scale):
    """Write the gradient (K), float32, of what was rotated and scaled."""
    half = K // 2
    for j in range(0, half, VECTOR):
        a = load(grad, at + j) * scale
        b = load(grad, at + half + j) * scale
        if angles != 0:
            c = load(as_float32(angles), j)
            s = load(as_float32(angles), half + j)
            store(y, j, fused(b, s, a * c))
            store(y, half + j, b * c - a * s)
        else:
            store(y, j, a)
            store(y, half + j, b)


@njit
def attention_leave(
    grad_queries, grad_keys, grad_values, grad_kept_keys, grad_kept_values, joined, query_norm, key_norm, angles, roots,
    grad_joined, grad_norms, T, M, kept, H, G, K, scale, part, first, end,
):  # fmt: skip
    """Write the gradient of ``joined``, given those of what :func:`attention_enter` laid out.

    ``grad_kept_keys`` and ``grad_kept_values`` (B, kept, G, K) may be 0. Row ``part`` of ``grad_norms`` (parts,
    2, K), float32, gets this task's sums for both norms' weights. A row is one of the B T new positions.
    """
    S = M + T
    width = (H + 2 * G) * K
    buffer = np.empty(K, np.float32)
    grad = scratch(buffer)
    of_queries = as_float32(grad_norms + 8 * K * part)
    of_keys = as_float32(grad_norms + 8 * K * part + 4 * K)
    for j in range(0, K, VECTOR):
        store(of_queries, j, splat(0.0))
        store(of_keys, j, splat(0.0))
    for n in range(first, end):
        b = n // T
        t = n % T
        s = M + t
        turn = angles + 4 * K * s if angles != 0 else 0
        for h in range(H):
            at = n * width + h * K
            _rotated_back(grad_queries, ((b * H + h) * T + t) * K, grad, K, turn, scale)
            _normed_back(grad, joined, at, grad_joined, at, K, query_norm, roots[n * (H + G) + h], of_queries)
        for g in range(G):
            at = n * width + (H + g) * K
            by_head = ((b * G + g) * S + s) * K
            remembered = ((b * kept + s - (S - kept)) * G + g) * K
            _rotated_back(grad_keys, by_head, grad, K, turn, np.float32(1.0))
            if grad_kept_keys != 0 and s >= S - kept:
                for j in range(0, K, VECTOR):
                    store(grad, j, load(grad, j) + load(as_bfloat16(grad_kept_keys), remembered + j))
            _normed_back(grad, joined, at, grad_joined, at, K, key_norm, roots[n * (H + G) + H + g], of_keys)
            for j in range(0, K, VECTOR):
                v = load(grad_values, by_head + j)
                if grad_kept_values != 0 and s >= S - kept:
                    v = v + load(as_bfloat16(grad_kept_values), remembered + j)
                store(grad_joined, at + G * K + j, v)
    keep(buffer)


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
def softmax_backward(weights, grad, keys, first, end):
    """Put the gradient of the scores in the place of that of the weights: w (g - sum of w g)."""
    for n in range(first, end):
        row = n * keys
        dots = splat(0.0)
        for j in range(0, keys, VECTOR):
            dots = fused(load(weights, row + j), load(grad, row + j), dots)
        dot = total(dots)
        for j in range(0, keys, VECTOR):
            store(grad, row + j, load(weights, row + j) * (load(grad, row + j) - dot))
