"""Fused QRNN pooling on a GPU: what :mod:`weft.ops.triton` says of it, as launches of kernels.

Shapes: B batch, T time, N chunks, P parts, C cell width, A gates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops.gates import GATES
from weft.ops.triton import division
from weft.ops.triton import pooling_kernels as kernels
from weft.ops.triton.division import Division, Tiling
from weft.ops.triton.recurrence import across_parts, back_across_parts, empty_parts, tile_options


def forward(
    gates: Tensor,
    bias: Tensor | None,
    cell: Tensor,
    reset: Tensor | None,
    pooling: str,
    tiling: Tiling | None = None,
    parts: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(hidden, last, starts)``; ``tiling`` and ``parts`` are chosen where they are not given."""
    real = division.cell_dtype(gates.dtype)
    cells = gates.shape[2] // GATES[pooling]
    work = division.divide(gates, cells, tiling or division.tile(gates, division.CHUNK), parts)
    cell = cell.to(real)
    hidden = torch.empty(work.batch, work.time, cells, dtype=gates.dtype, device=gates.device)
    starts = torch.empty(work.batch, work.chunks, cells, dtype=real, device=gates.device)
    if not hidden.numel():
        return hidden, cell.clone(memory_format=torch.contiguous_format), starts
    gates = division.in_rows(gates)
    cell = cell.contiguous()
    flags = division.as_bytes(reset)
    bias = _bias(bias, real)
    last = torch.empty(work.batch, cells, dtype=real, device=gates.device)
    row = division.row_stride(gates)
    with division.on_device(gates):
        between = cell
        if work.parts > 1:  # a first pass over all parts at once finds the cells that reach each
            between = across_parts(*_forward_ends(gates, bias, flags, pooling, work), cell, work)
        kernels.forward[(work.programs,)](
            *(gates, bias, cell, between, flags, hidden, starts, last),
            *(work.time, work.chunks, work.span, cells, row),
            **tile_options(work, row),
            HAS_OUTPUT=pooling != "f",
            HAS_INPUT=pooling == "ifo",
            HAS_BIAS=bias is not None,
            HAS_RESET=flags is not None,
            FAST=division.fast(gates),
        )
    return hidden, last, starts


def backward(
    grad_hidden: Tensor,
    grad_last: Tensor,
    gates: Tensor,
    bias: Tensor | None,
    starts: Tensor,
    reset: Tensor | None,
    pooling: str,
    tiling: Tiling | None = None,
    parts: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(grad_gates, grad_bias, grad_cell)``; ``tiling`` must be the one that ``starts`` was made with."""
    real = starts.dtype
    cells = gates.shape[2] // GATES[pooling]
    work = division.divide(gates, cells, tiling or division.tile(gates, division.CHUNK), parts)
    grad_last = grad_last.to(real)
    grad_gates = torch.empty(gates.shape, dtype=gates.dtype, device=gates.device)
    if not gates.numel():
        return grad_gates, grad_last.new_zeros(gates.shape[2]), grad_last.clone(memory_format=torch.contiguous_format)
    grad_hidden = division.in_rows(grad_hidden)
    gates = division.in_rows(gates)
    starts = starts.contiguous()
    grad_last = grad_last.contiguous()
    flags = division.as_bytes(reset)
    bias = _bias(bias, real)
    grad_cell = torch.empty(work.batch, cells, dtype=real, device=gates.device)
    sums = (0,) if bias is None else (work.batch * work.parts, gates.shape[2])  # one row for each part's program
    grad_bias = torch.empty(sums, dtype=real, device=gates.device)
    grad_row = division.row_stride(grad_hidden)
    row = division.row_stride(gates)
    with division.on_device(gates):
        between = grad_last
        if work.parts > 1:  # and the gradients that come back to each
            ends = _backward_ends(grad_hidden, gates, bias, flags, pooling, work)
            between = back_across_parts(*ends, grad_last, work)
        kernels.backward[(work.programs,)](
            *(grad_hidden, grad_last, between, gates, bias, starts, flags, grad_gates, grad_bias, grad_cell),
            *(work.time, work.chunks, work.span, cells, grad_row, row, gates.shape[2]),
            **tile_options(work, grad_row, row),
            HAS_OUTPUT=pooling != "f",
            HAS_INPUT=pooling == "ifo",
            HAS_BIAS=bias is not None,
            HAS_RESET=flags is not None,
            FAST=division.fast(gates),
        )
    if bias is None:
        return grad_gates, grad_cell.new_zeros(gates.shape[2]), grad_cell
    return grad_gates, grad_bias.sum(0), grad_cell


def _bias(bias: Tensor | None, real: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(real).contiguous()


def _forward_ends(
    gates: Tensor, bias: Tensor | None, flags: Tensor | None, pooling: str, work: Division
) -> tuple[Tensor, Tensor]:
    """Return what each part does to the cell before it, c -> product c + end, both (B, P, C)."""
    product, end = empty_parts(gates, work)
    row = division.row_stride(gates)
    kernels.forward_ends[(work.programs,)](
        *(gates, bias, flags, product, end),
        *(work.time, work.chunks, work.span, work.cells, row),
        **tile_options(work, row),
        HAS_INPUT=pooling == "ifo",
        HAS_BIAS=bias is not None,
        HAS_RESET=flags is not None,
        FAST=division.fast(gates),
    )
    return product, end


def _backward_ends(
    grad_hidden: Tensor, gates: Tensor, bias: Tensor | None, flags: Tensor | None, pooling: str, work: Division
) -> tuple[Tensor, Tensor]:
    """Return what each part does to the gradient that comes back to it, both (B, P, C)."""
    product, end = empty_parts(gates, work)
    grad_row = division.row_stride(grad_hidden)
    row = division.row_stride(gates)
    kernels.backward_ends[(work.programs,)](
        *(grad_hidden, gates, bias, flags, product, end),
        *(work.time, work.chunks, work.span, work.cells, grad_row, row),
        **tile_options(work, grad_row, row),
        HAS_OUTPUT=pooling != "f",
        HAS_BIAS=bias is not None,
        HAS_RESET=flags is not None,
        FAST=division.fast(gates),
    )
    return product, end
