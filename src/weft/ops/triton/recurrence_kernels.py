"""Kernels of c_t = f_t c_{t-1} + u_t and of its backward pass. For Triton's compiler.

Every program works on one part of time of one row (see ``division``). Numbers that change with the batch or
the length (T, N, span) are arguments on which nothing is specialised, so a new length compiles nothing. Row
strides and the cell width are multiples of ALIGN; saying so lets several channels be loaded at once. Steps
past the end of time keep everything and add nothing.

Shapes: B batch, T time, N chunks, P parts, C cell width.
"""
# mypy: ignore-errors
# ruff: noqa: SIM108 (plain forms, as the compiler reads them)

from __future__ import annotations

import triton
import triton.language as tl

from weft.ops.triton.tile import carry_in, cut_off, live_rows, load_cuts, load_rows, place_program


@triton.jit(do_not_specialize=["T", "N", "span"])
def ends(
    keep_ptr,
    update_ptr,
    reset_ptr,
    product_ptr,
    end_ptr,
    T,
    N,
    span,
    C,
    keep_row,
    update_row,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_RESET: tl.constexpr,
    BACK: tl.constexpr,
):
    """Find what each part does to a cell, c -> product c + end, both (B, P, C).

    With BACK, what it does to the gradient x that comes back to it: x -> f_t (x +
    dc_t), where ``update`` is dc.
    """
    C = C // ALIGN * ALIGN
    keep_row = keep_row // ALIGN * ALIGN
    update_row = update_row // ALIGN * ALIGN
    real: tl.constexpr = end_ptr.dtype.element_ty
    sequence, part, parts, channel = place_program(N, span, C, BLOCK)
    inside = channel < C
    product = tl.full((BLOCK,), 1.0, real)
    end = tl.full((BLOCK,), 0.0, real)
    first = part * span
    last = tl.minimum(first + span, N)
    for step in range(first, last):
        n = first + last - 1 - step if BACK else step  # chunks from the last one on
        begin = sequence * T + n * CHUNK
        left = T - n * CHUNK
        live = live_rows(inside, 0, left, CHUNK)
        keep = load_rows(keep_ptr + begin * keep_row + channel, keep_row, live, 1.0, CHUNK)
        update = load_rows(update_ptr + begin * update_row + channel, update_row, live, 0.0, CHUNK)
        cut = load_cuts(reset_ptr, begin, left, CHUNK, HAS_RESET)
        for k in tl.static_range(CHUNK - 1 if BACK else 0, -1 if BACK else CHUNK, -1 if BACK else 1):
            kept = cut_off(keep[k].to(real), cut[k], HAS_RESET)
            product = product * kept
            if BACK:
                end = (end + update[k].to(real)) * kept
            else:
                end = end * kept + update[k].to(real)
    at = (sequence * parts + part) * C + channel
    tl.store(product_ptr + at, product, mask=inside)
    tl.store(end_ptr + at, end, mask=inside)


@triton.jit(do_not_specialize=["T", "N", "span"])
def forward(
    keep_ptr,
    update_ptr,
    state_ptr,
    between_ptr,
    reset_ptr,
    cells_ptr,
    last_ptr,
    T,
    N,
    span,
    C,
    keep_row,
    update_row,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_RESET: tl.constexpr,
    FLIP: tl.constexpr,
):
    """Write all cells (B, T, C) and the last ones (B, C); with FLIP, time runs from the end to the beginning.

    ``between`` (B, P, C) holds the cells after each part; it is not read where there is one part.
    """
    C = C // ALIGN * ALIGN
    keep_row = keep_row // ALIGN * ALIGN
    update_row = update_row // ALIGN * ALIGN
    real: tl.constexpr = cells_ptr.dtype.element_ty
    way: tl.constexpr = -1 if FLIP else 1
    sequence, part, parts, channel = place_program(N, span, C, BLOCK)
    inside = channel < C
    cell = carry_in(state_ptr, between_ptr, sequence, part, parts, channel, C, False).to(real)
    for n in range(part * span, tl.minimum(part * span + span, N)):
        begin = sequence * T + (T - 1 - n * CHUNK if FLIP else n * CHUNK)
        left = T - n * CHUNK
        live = live_rows(inside, 0, left, CHUNK)
        keep = load_rows(keep_ptr + begin * keep_row + channel, way * keep_row, live, 1.0, CHUNK)
        update = load_rows(update_ptr + begin * update_row + channel, way * update_row, live, 0.0, CHUNK)
        cut = load_cuts(reset_ptr, begin, left, CHUNK, HAS_RESET)
        for k in tl.static_range(CHUNK):
            cell = cut_off(keep[k].to(real), cut[k], HAS_RESET) * cell + update[k].to(real)
            tl.store(cells_ptr + (begin + way * k) * C + channel, cell, mask=live[k])
    tl.store(last_ptr + sequence * C + channel, cell, mask=inside & (part == parts - 1))


@triton.jit(do_not_specialize=["T", "N", "span"])
def backward(
    grad_ptr,
    grad_last_ptr,
    between_ptr,
    keep_ptr,
    state_ptr,
    cells_ptr,
    reset_ptr,
    grad_keep_ptr,
    grad_update_ptr,
    grad_state_ptr,
    T,
    N,
    span,
    C,
    grad_row,
    keep_row,
    cells_row,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
    HAS_RESET: tl.constexpr,
):
    """Run g_t = dc_t + f_{t+1} g_{t+1} from the end: du_t = g_t, df_t = g_t c_{t-1}, and f_1 g_1 for the state.

    ``between`` (B, P, C) holds what each part passes on to the cell before it, f_t g_t of its first step.
    """
    C = C // ALIGN * ALIGN
    grad_row = grad_row // ALIGN * ALIGN
    keep_row = keep_row // ALIGN * ALIGN
    cells_row = cells_row // ALIGN * ALIGN
    real: tl.constexpr = grad_update_ptr.dtype.element_ty
    sequence, part, parts, channel = place_program(N, span, C, BLOCK)
    inside = channel < C
    state = tl.load(state_ptr + sequence * C + channel, mask=inside, other=0.0).to(real)
    passed = carry_in(grad_last_ptr, between_ptr, sequence, part, parts, channel, C, True).to(real)
    first = part * span
    last = tl.minimum(first + span, N)
    for step in range(first, last):
        n = first + last - 1 - step
        begin = sequence * T + n * CHUNK
        left = T - n * CHUNK
        live = live_rows(inside, 0, left, CHUNK)
        grad = load_rows(grad_ptr + begin * grad_row + channel, grad_row, live, 0.0, CHUNK)
        keep = load_rows(keep_ptr + begin * keep_row + channel, keep_row, live, 1.0, CHUNK)
        # c_{t-1} are the cells one row earlier; before the first step there is none,
        # and the state takes its place
        before_live = live_rows(inside, tl.where(n == 0, 1, 0), left, CHUNK)
        before = load_rows(cells_ptr + (begin - 1) * cells_row + channel, cells_row, before_live, 0.0, CHUNK)
        cut = load_cuts(reset_ptr, begin, left, CHUNK, HAS_RESET)
        for k in tl.static_range(CHUNK - 1, -1, -1):
            passed = passed + grad[k].to(real)
            cell = before[k].to(real)
            if k == 0:
                cell = tl.where(n == 0, state, cell)
            out = (begin + k) * C + channel
            tl.store(grad_update_ptr + out, passed, mask=live[k])
            tl.store(grad_keep_ptr + out, cut_off(passed * cell, cut[k], HAS_RESET), mask=live[k])
            passed = passed * cut_off(keep[k].to(real), cut[k], HAS_RESET)
    tl.store(grad_state_ptr + sequence * C + channel, passed, mask=inside & (part == 0))
