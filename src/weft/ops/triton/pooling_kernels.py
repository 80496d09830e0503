"""Kernels of fused QRNN pooling, from gate pre-activations to hidden values and back. For Triton's compiler.

Gates lie side by side, (B, T, A * C) in the order z, f, o, i. Cells are recomputed in the backward pass,
chunk by chunk, from the cells before each chunk. The flags: HAS_OUTPUT for fo and ifo, HAS_INPUT for ifo,
FAST as in ``tile``. For T, N, span and ALIGN see ``recurrence_kernels``. Steps past the end of time read f as
OPEN and all else as 0, so that they keep the whole cell and add nothing: sigmoid(OPEN) is 1 and tanh(0) is 0
to the last bit.

Shapes: B batch, T time, N chunks, P parts, C cell width, A gates.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005 (plain forms, as the compiler reads them)

from __future__ import annotations

import triton
import triton.language as tl

from weft.ops.triton.tile import (
    carry_in,
    cut_off,
    live_rows,
    load_bias,
    load_cuts,
    load_gates,
    load_rows,
    place_program,
    sigmoid,
    tanh,
)

OPEN = tl.constexpr(100.0)


@triton.jit(do_not_specialize=["T", "N", "span"])
def forward_ends(
    gates_ptr,
    bias_ptr,
    reset_ptr,
    product_ptr,
    end_ptr,
    T,
    N,
    span,
    C,
    gates_row,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_INPUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESET: tl.constexpr,
    FAST: tl.constexpr,
):
    """Find what each part does to a cell, c -> product c + end, both (B, P, C)."""
    C = C // ALIGN * ALIGN
    gates_row = gates_row // ALIGN * ALIGN
    real: tl.constexpr = end_ptr.dtype.element_ty
    sequence, part, parts, channel = place_program(N, span, C, BLOCK)
    inside = channel < C
    bias_z = load_bias(bias_ptr, channel, inside, HAS_BIAS)
    bias_f = load_bias(bias_ptr, C + channel, inside, HAS_BIAS)
    if HAS_INPUT:
        bias_i = load_bias(bias_ptr, 3 * C + channel, inside, HAS_BIAS)
    # c -> product c + end, one step after another: f (product c + end) + i z = (f product) c + (f end + i z)
    product = tl.full((BLOCK,), 1.0, real)
    end = tl.full((BLOCK,), 0.0, real)
    for n in range(part * span, tl.minimum(part * span + span, N)):
        begin = sequence * T + n * CHUNK
        left = T - n * CHUNK
        live = live_rows(inside, 0, left, CHUNK)
        gates_at = gates_ptr + begin * gates_row + channel
        raw_z = load_gates(gates_at, gates_row, live, bias_z, 0.0, CHUNK, HAS_BIAS)
        raw_f = load_gates(gates_at + C, gates_row, live, bias_f, OPEN, CHUNK, HAS_BIAS)
        if HAS_INPUT:
            raw_i = load_gates(gates_at + 3 * C, gates_row, live, bias_i, 0.0, CHUNK, HAS_BIAS)
        cut = load_cuts(reset_ptr, begin, left, CHUNK, HAS_RESET)
        for k in tl.static_range(CHUNK):
            f = sigmoid(raw_f[k].to(real), FAST)
            i = 1.0 - f
            if HAS_INPUT:
                i = sigmoid(raw_i[k].to(real), FAST)
            keep = cut_off(f, cut[k], HAS_RESET)
            product = product * keep
            end = keep * end + i * tanh(raw_z[k].to(real), FAST)
    at = (sequence * parts + part) * C + channel
    tl.store(product_ptr + at, product, mask=inside)
    tl.store(end_ptr + at, end, mask=inside)


@triton.jit(do_not_specialize=["T", "N", "span"])
def forward(
    gates_ptr,
    bias_ptr,
    cell_ptr,
    between_ptr,
    reset_ptr,
    hidden_ptr,
    starts_ptr,
    last_ptr,
    T,
    N,
    span,
    C,
    gates_row,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_OUTPUT: tl.constexpr,
    HAS_INPUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESET: tl.constexpr,
    FAST: tl.constexpr,
):
    """Write hidden values (B, T, C), the cells before each chunk (B, N, C) and the last ones (B, C).

    ``between`` (B, P, C) holds the cells after each part; it is not read where there is one part.
    """
    C = C // ALIGN * ALIGN
    gates_row = gates_row // ALIGN * ALIGN
    real: tl.constexpr = starts_ptr.dtype.element_ty
    out_type: tl.constexpr = hidden_ptr.dtype.element_ty
    sequence, part, parts, channel = place_program(N, span, C, BLOCK)
    inside = channel < C
    bias_z = load_bias(bias_ptr, channel, inside, HAS_BIAS)
    bias_f = load_bias(bias_ptr, C + channel, inside, HAS_BIAS)
    if HAS_OUTPUT:
        bias_o = load_bias(bias_ptr, 2 * C + channel, inside, HAS_BIAS)
    if HAS_INPUT:
        bias_i = load_bias(bias_ptr, 3 * C + channel, inside, HAS_BIAS)
    cell = carry_in(cell_ptr, between_ptr, sequence, part, parts, channel, C, False).to(real)
    for n in range(part * span, tl.minimum(part * span + span, N)):
        # All gates of the chunk are read before the first is used.
        begin = sequence * T + n * CHUNK
        left = T - n * CHUNK
        live = live_rows(inside, 0, left, CHUNK)
        gates_at = gates_ptr + begin * gates_row + channel
        raw_z = load_gates(gates_at, gates_row, live, bias_z, 0.0, CHUNK, HAS_BIAS)
        raw_f = load_gates(gates_at + C, gates_row, live, bias_f, OPEN, CHUNK, HAS_BIAS)
        if HAS_OUTPUT:
            raw_o = load_gates(gates_at + 2 * C, gates_row, live, bias_o, 0.0, CHUNK, HAS_BIAS)
        if HAS_INPUT:
            raw_i = load_gates(gates_at + 3 * C, gates_row, live, bias_i, 0.0, CHUNK, HAS_BIAS)
        cut = load_cuts(reset_ptr, begin, left, CHUNK, HAS_RESET)
        # The backward pass makes this chunk again from the cell before it. Then the steps: a cell, and what
        # it gives.
        tl.store(starts_ptr + (sequence * N + n) * C + channel, cell, mask=inside)
        for k in tl.static_range(CHUNK):
            f = sigmoid(raw_f[k].to(real), FAST)
            i = 1.0 - f
            if HAS_INPUT:
                i = sigmoid(raw_i[k].to(real), FAST)
            cell = cut_off(f, cut[k], HAS_RESET) * cell + i * tanh(raw_z[k].to(real), FAST)
            hidden = cell
            if HAS_OUTPUT:
                hidden = sigmoid(raw_o[k].to(real), FAST) * cell
            out = hidden_ptr + (begin + k) * C + channel
            tl.store(out, hidden.to(out_type), mask=live[k])
    tl.store(last_ptr + sequence * C + channel, cell, mask=inside & (part == parts - 1))


@triton.jit(do_not_specialize=["T", "N", "span"])
def backward_ends(
    grad_ptr,
    gates_ptr,
    bias_ptr,
    reset_ptr,
    product_ptr,
    end_ptr,
    T,
    N,
    span,
    C,
    grad_row,
    gates_row,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_OUTPUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESET: tl.constexpr,
    FAST: tl.constexpr,
):
    """Find what each part does to the gradient that comes back to it, x -> product x + end, both (B, P, C)."""
    C = C // ALIGN * ALIGN
    grad_row = grad_row // ALIGN * ALIGN
    gates_row = gates_row // ALIGN * ALIGN
    real: tl.constexpr = end_ptr.dtype.element_ty
    sequence, part, parts, channel = place_program(N, span, C, BLOCK)
    inside = channel < C
    bias_f = load_bias(bias_ptr, C + channel, inside, HAS_BIAS)
    if HAS_OUTPUT:
        bias_o = load_bias(bias_ptr, 2 * C + channel, inside, HAS_BIAS)
    product = tl.full((BLOCK,), 1.0, real)
    end = tl.full((BLOCK,), 0.0, real)
    first = part * span
    last = tl.minimum(first + span, N)
    for step in range(first, last):
        n = first + last - 1 - step
        begin = sequence * T + n * CHUNK
        left = T - n * CHUNK
        live = live_rows(inside, 0, left, CHUNK)
        gates_at = gates_ptr + begin * gates_row + channel
        grads = load_rows(grad_ptr + begin * grad_row + channel, grad_row, live, 0.0, CHUNK)
        raw_f = load_gates(gates_at + C, gates_row, live, bias_f, OPEN, CHUNK, HAS_BIAS)
        if HAS_OUTPUT:
            raw_o = load_gates(gates_at + 2 * C, gates_row, live, bias_o, 0.0, CHUNK, HAS_BIAS)
        cut = load_cuts(reset_ptr, begin, left, CHUNK, HAS_RESET)
        for k in tl.static_range(CHUNK - 1, -1, -1):
            grad = grads[k].to(real)
            if HAS_OUTPUT:
                grad = grad * sigmoid(raw_o[k].to(real), FAST)
            keep = cut_off(sigmoid(raw_f[k].to(real), FAST), cut[k], HAS_RESET)
            product = product * keep
            end = (end + grad) * keep
    at = (sequence * parts + part) * C + channel
    tl.store(product_ptr + at, product, mask=inside)
    tl.store(end_ptr + at, end, mask=inside)


@triton.jit(do_not_specialize=["T", "N", "span"])
def backward(
    grad_ptr,
    grad_last_ptr,
    between_ptr,
    gates_ptr,
    bias_ptr,
    starts_ptr,
    reset_ptr,
    grad_gates_ptr,
    grad_bias_ptr,
    grad_cell_ptr,
    T,
    N,
    span,
    C,
    grad_row,
    gates_row,
    out_row,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_OUTPUT: tl.constexpr,
    HAS_INPUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESET: tl.constexpr,
    FAST: tl.constexpr,
):
    """Write the gradients of the gates (B, T, A * C) and of the cell before the first step (B, C).

    That of the bias is written as the sums of each part, (B, P, A * C).

    With g the gradient of a cell, from its own output and from all later ones, and k what is kept (f, or 0 at
    a reset):

        ifo:     dz = g i (1 - z^2)         df = g k c_{t-1} (1 - f)            di = g i z (1 - i)
        f, fo:   dz = g (1 - f) (1 - z^2)   df = g (k c_{t-1} - f z) (1 - f)
        fo, ifo: do = dh c o (1 - o)

    ``between`` (B, P, C) holds what each part passes on to the cell before it.
    """
    C = C // ALIGN * ALIGN
    grad_row = grad_row // ALIGN * ALIGN
    gates_row = gates_row // ALIGN * ALIGN
    out_row = out_row // ALIGN * ALIGN
    real: tl.constexpr = starts_ptr.dtype.element_ty
    out_type: tl.constexpr = grad_gates_ptr.dtype.element_ty
    sequence, part, parts, channel = place_program(N, span, C, BLOCK)
    inside = channel < C
    bias_z = load_bias(bias_ptr, channel, inside, HAS_BIAS)
    bias_f = load_bias(bias_ptr, C + channel, inside, HAS_BIAS)
    if HAS_OUTPUT:
        bias_o = load_bias(bias_ptr, 2 * C + channel, inside, HAS_BIAS)
    if HAS_INPUT:
        bias_i = load_bias(bias_ptr, 3 * C + channel, inside, HAS_BIAS)
    passed = carry_in(grad_last_ptr, between_ptr, sequence, part, parts, channel, C, True).to(real)
    sum_z = tl.full((BLOCK,), 0.0, real)
    sum_f = tl.full((BLOCK,), 0.0, real)
    sum_o = tl.full((BLOCK,), 0.0, real)
    sum_i = tl.full((BLOCK,), 0.0, real)
    first = part * span
    last = tl.minimum(first + span, N)
    for step in range(first, last):
        n = first + last - 1 - step
        begin = sequence * T + n * CHUNK
        left = T - n * CHUNK
        live = live_rows(inside, 0, left, CHUNK)
        gates_at = gates_ptr + begin * gates_row + channel
        cell = tl.load(starts_ptr + (sequence * N + n) * C + channel, mask=inside, other=0.0)
        raw_z = load_gates(gates_at, gates_row, live, bias_z, 0.0, CHUNK, HAS_BIAS)
        raw_f = load_gates(gates_at + C, gates_row, live, bias_f, OPEN, CHUNK, HAS_BIAS)
        if HAS_INPUT:
            raw_i = load_gates(gates_at + 3 * C, gates_row, live, bias_i, 0.0, CHUNK, HAS_BIAS)
        if HAS_OUTPUT:
            raw_o = load_gates(gates_at + 2 * C, gates_row, live, bias_o, 0.0, CHUNK, HAS_BIAS)
        grads = load_rows(grad_ptr + begin * grad_row + channel, grad_row, live, 0.0, CHUNK)
        cut = load_cuts(reset_ptr, begin, left, CHUNK, HAS_RESET)

        # Forward through the chunk: the cells c_0 .. c_CHUNK, and the two terms of each, k c_{t-1} and i z.
        cells = (cell,)
        kept = ()
        added = ()
        for t in tl.static_range(CHUNK):
            f = sigmoid(raw_f[t].to(real), FAST)
            i = 1.0 - f
            if HAS_INPUT:
                i = sigmoid(raw_i[t].to(real), FAST)
            keep_cell = cut_off(f, cut[t], HAS_RESET) * cell
            add_cell = i * tanh(raw_z[t].to(real), FAST)
            cell = keep_cell + add_cell
            cells = cells + (cell,)
            kept = kept + (keep_cell,)
            added = added + (add_cell,)

        # And back: the gates' gradients, step by step, and what is passed on to the cell before. Gates are
        # made again rather than kept, as registers are what this kernel has least of.
        for k in tl.static_range(CHUNK - 1, -1, -1):
            out = grad_gates_ptr + (begin + k) * out_row + channel
            grad = grads[k].to(real)
            if HAS_OUTPUT:
                o = sigmoid(raw_o[k].to(real), FAST)
                grad = grad * o
                grad_o = grad * cells[k + 1] * (1.0 - o)
                sum_o += grad_o
                tl.store(out + 2 * C, grad_o.to(out_type), mask=live[k])
            grad = grad + passed
            z = tanh(raw_z[k].to(real), FAST)
            f = sigmoid(raw_f[k].to(real), FAST)
            i = 1.0 - f
            kept_f = kept[k]
            if HAS_INPUT:
                i = sigmoid(raw_i[k].to(real), FAST)
                grad_i = grad * added[k] * (1.0 - i)
                sum_i += tl.where(live[k], grad_i, 0.0)
                tl.store(out + 3 * C, grad_i.to(out_type), mask=live[k])
            else:
                kept_f = kept_f - f * z
            grad_f = grad * kept_f * (1.0 - f)
            grad_z = grad * i * (1.0 - z * z)
            sum_f += tl.where(live[k], grad_f, 0.0)
            sum_z += tl.where(live[k], grad_z, 0.0)
            tl.store(out + C, grad_f.to(out_type), mask=live[k])
            tl.store(out, grad_z.to(out_type), mask=live[k])
            passed = grad * cut_off(f, cut[k], HAS_RESET)
    tl.store(grad_cell_ptr + sequence * C + channel, passed, mask=inside & (part == 0))
    if HAS_BIAS:
        sums = grad_bias_ptr + (sequence * parts + part) * out_row + channel
        tl.store(sums, sum_z, mask=inside)
        tl.store(sums + C, sum_f, mask=inside)
        if HAS_OUTPUT:
            tl.store(sums + 2 * C, sum_o, mask=inside)
        if HAS_INPUT:
            tl.store(sums + 3 * C, sum_i, mask=inside)
