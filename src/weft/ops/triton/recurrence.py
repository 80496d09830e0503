"""The linear recurrence on a GPU: what :mod:`weft.ops.triton` says of it, as launches of kernels.

Shapes: B batch, T time, P parts, C cell width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft.ops.triton import division
from weft.ops.triton import recurrence_kernels as kernels
from weft.ops.triton.division import Division, Tiling


def forward(
    forget: Tensor,
    update: Tensor,
    state: Tensor,
    reset: Tensor | None,
    tiling: Tiling | None = None,
    parts: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``(cells, last)``; ``tiling`` and ``parts`` are chosen where they are not given."""
    real = division.cell_dtype(update.dtype)
    cells = torch.empty(update.shape, dtype=real, device=update.device)
    if not update.numel():
        return cells, state.to(real, copy=True, memory_format=torch.contiguous_format)
    forget = division.in_rows(forget)
    update = division.in_rows(update)
    state = state.to(real).contiguous()
    flags = division.as_bytes(reset)
    work = division.divide(update, update.shape[2], tiling or division.tile(update, division.LONG_CHUNK), parts)
    with division.on_device(update):
        between = state
        if work.parts > 1:  # a first pass over all parts at once finds the cells that reach each
            product, end = part_ends(forget, update, flags, work, back=False)
            between = across_parts(product, end, state, work)
        return _run(forget, update, state, between, flags, work, flip=False)


def backward(
    grad_cells: Tensor,
    grad_last: Tensor,
    forget: Tensor,
    state: Tensor,
    reset: Tensor | None,
    cells: Tensor,
    tiling: Tiling | None = None,
    parts: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(grad_forget, grad_update, grad_state)`` in the type of the cells."""
    real = cells.dtype
    grad_update = torch.empty(cells.shape, dtype=real, device=cells.device)
    grad_forget = torch.empty(cells.shape, dtype=real, device=cells.device)
    if not cells.numel():
        return grad_forget, grad_update, grad_last.to(real, copy=True, memory_format=torch.contiguous_format)
    grad_cells = division.in_rows(grad_cells)
    forget = division.in_rows(forget)
    cells = division.in_rows(cells)
    state = state.to(real).contiguous()
    grad_last = grad_last.to(real).contiguous()
    grad_state = torch.empty_like(state)
    flags = division.as_bytes(reset)
    work = division.divide(cells, cells.shape[2], tiling or division.tile(cells, division.LONG_CHUNK), parts)
    grad_row = division.row_stride(grad_cells)
    keep_row = division.row_stride(forget)
    cells_row = division.row_stride(cells)
    with division.on_device(cells):
        between = grad_last
        if work.parts > 1:
            product, end = part_ends(forget, grad_cells, flags, work, back=True)
            between = back_across_parts(product, end, grad_last, work)
        kernels.backward[(work.programs,)](
            *(grad_cells, grad_last, between, forget, state, cells, flags, grad_forget, grad_update, grad_state),
            *(work.time, work.chunks, work.span, work.cells, grad_row, keep_row, cells_row),
            **tile_options(work, grad_row, keep_row, cells_row),
            HAS_RESET=flags is not None,
        )
    return grad_forget, grad_update, grad_state


def part_ends(
    forget: Tensor, update: Tensor, flags: Tensor | None, work: Division, *, back: bool
) -> tuple[Tensor, Tensor]:
    """Return what each part does to what reaches it, x -> product x + end, both (B, P, C)."""
    product, end = empty_parts(update, work)
    keep_row = division.row_stride(forget)
    update_row = division.row_stride(update)
    kernels.ends[(work.programs,)](
        *(forget, update, flags, product, end),
        *(work.time, work.chunks, work.span, work.cells, keep_row, update_row),
        **tile_options(work, keep_row, update_row),
        HAS_RESET=flags is not None,
        BACK=back,
    )
    return product, end


def across_parts(product: Tensor, end: Tensor, state: Tensor, work: Division) -> Tensor:
    """Return the cells after each part (B, P, C), from what each does to the cell before it."""
    return _run(product, end, state, state, None, work.across_parts(), flip=False)[0]


def back_across_parts(product: Tensor, end: Tensor, grad_last: Tensor, work: Division) -> Tensor:
    """Return what each part passes on to the one before it (B, P, C), from the last part to the first."""
    return _run(product, end, grad_last, grad_last, None, work.across_parts(), flip=True)[0]


def empty_parts(like: Tensor, work: Division) -> tuple[Tensor, Tensor]:
    """Return two tensors (B, P, C) to be written."""
    shape = (work.batch, work.parts, work.cells)
    real = division.cell_dtype(like.dtype)
    return torch.empty(shape, dtype=real, device=like.device), torch.empty(shape, dtype=real, device=like.device)


def tile_options(work: Division, *row_strides: int) -> dict[str, Any]:
    """Return what every kernel is compiled for; it follows from the cell width and the layout alone."""
    return {
        "CHUNK": work.tiling.chunk,
        "BLOCK": work.tiling.width,
        "ALIGN": division.alignment(work.cells, *row_strides),
        "num_warps": 1,
        "enable_fp_fusion": True,  # said aloud: Triton 3.9 warns that its default will change
    }


def _run(
    keep: Tensor, update: Tensor, state: Tensor, between: Tensor, flags: Tensor | None, work: Division, *, flip: bool
) -> tuple[Tensor, Tensor]:
    """Run the recurrence given the cells ``between`` parts; ``flip`` runs it from the end of time."""
    real = division.cell_dtype(update.dtype)
    cells = torch.empty(update.shape, dtype=real, device=update.device)
    last = torch.empty(state.shape, dtype=real, device=update.device)
    keep_row = division.row_stride(keep)
    update_row = division.row_stride(update)
    kernels.forward[(work.programs,)](
        *(keep, update, state, between, flags, cells, last),
        *(work.time, work.chunks, work.span, work.cells, keep_row, update_row),
        **tile_options(work, keep_row, update_row),
        HAS_RESET=flags is not None,
        FLIP=flip,
    )
    return cells, last
