"""What the kernels share: the place of a program, the rows of a chunk, and the gates. For Triton's compiler.

A program is one warp that owns BLOCK neighbouring channels. It reads all rows of a chunk before it
writes any, so that their reads are under way together, then walks through them with every value in
a register: a scan across threads costs more instructions than the few that a cell needs, and would
be what bounds the kernel.

Only Triton's own primitives are used, not its library of composed functions: that keeps
what is compiled in sight.
"""
# mypy: ignore-errors
# ruff: noqa: RUF005, SIM108 (plain forms, as the compiler reads them)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place_program(N, span, C, BLOCK: tl.constexpr):
    """Return this program's sequence (64 bits), part, number of parts, and channels."""
    blocks = (C + BLOCK - 1) // BLOCK
    parts = (N + span - 1) // span
    program = tl.program_id(0)
    channel = (program % blocks) * BLOCK + tl.arange(0, BLOCK)
    program = program // blocks
    return (program // parts).to(tl.int64), program % parts, parts, channel


@triton.jit
def carry_in(edge_ptr, between_ptr, sequence, part, parts, channel, C, BACK: tl.constexpr):
    """Return what reaches a part: from the edge (B, C), or from the part next to it (B, P, C)."""
    inside = channel < C
    if BACK:
        edge = part == parts - 1
        other = part + 1
    else:
        edge = part == 0
        other = part - 1
    from_edge = tl.load(edge_ptr + sequence * C + channel, mask=inside & edge, other=0.0)
    between = between_ptr + (sequence * parts + other) * C + channel
    return from_edge + tl.load(between, mask=inside & (other >= 0) & (other < parts), other=0.0)


@triton.jit
def live_rows(inside, first, left, CHUNK: tl.constexpr):
    """Return for each row of a chunk which of its channels exist; rows before ``first`` and from ``left`` on do not."""
    live = ()
    for k in tl.static_range(CHUNK):
        live = live + (inside & (k >= first) & (k < left),)
    return live


@triton.jit
def load_rows(at, stride, live, missing, CHUNK: tl.constexpr):
    """Return the rows of a chunk, which begins at ``at``; what does not exist is ``missing``."""
    rows = ()
    for k in tl.static_range(CHUNK):
        rows = rows + (tl.load(at + k * stride, mask=live[k], other=missing),)
    return rows


@triton.jit
def load_bias(bias_ptr, channel, inside, HAS_BIAS: tl.constexpr):
    """Return a gate's bias for each channel."""
    bias = 0.0
    if HAS_BIAS:
        bias = tl.load(bias_ptr + channel, mask=inside, other=0.0)
    return bias


@triton.jit
def load_gates(at, stride, live, bias, missing, CHUNK: tl.constexpr, HAS_BIAS: tl.constexpr):
    """Return the rows of a gate's pre-activations with its bias, or as they are where there is none."""
    gates = load_rows(at, stride, live, missing, CHUNK)
    if HAS_BIAS:
        biased = ()
        for k in tl.static_range(CHUNK):
            biased = biased + (tl.where(live[k], gates[k] + bias, missing),)
        gates = biased
    return gates


@triton.jit
def load_cuts(reset_ptr, begin, left, CHUNK: tl.constexpr, HAS_RESET: tl.constexpr):
    """Return for each row of a chunk whether the past ends there."""
    cuts = ()
    for k in tl.static_range(CHUNK):
        if HAS_RESET:
            cuts = cuts + (tl.load(reset_ptr + begin + k, mask=k < left, other=0) != 0,)
        else:
            cuts = cuts + (False,)
    return cuts


@triton.jit
def cut_off(keep, cut, HAS_RESET: tl.constexpr):
    """Return what is kept of the past: nothing where it ends."""
    if HAS_RESET:
        keep = tl.where(cut, 0.0, keep)
    return keep


@triton.jit
def sigmoid(x, FAST: tl.constexpr):
    """Return 1 / (1 + exp(-x)); an exponential that overflows gives 0.

    FAST is for float32 on NVIDIA: the bare instructions (errors of about 2^-23), where Triton's own forms of
    them spend three times as many on numbers that do not occur here.
    """
    scaled = x * -1.4426950408889634
    if FAST:
        power = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [scaled], tl.float32, True, 1)
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [1.0 + power], tl.float32, True, 1)
    return 1.0 / (1.0 + tl.exp2(scaled))


@triton.jit
def tanh(x, FAST: tl.constexpr):
    """Return tanh."""
    return 2.0 * sigmoid(2.0 * x, FAST) - 1.0
