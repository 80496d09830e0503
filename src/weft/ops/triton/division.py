"""How the work of a GPU kernel is cut up. Nothing here needs Triton.

A row is ``width`` channels of one sequence. Its time is cut into parts, and a program walks through one of
them in chunks of steps, carrying the cell. With one part every byte is read once. With more, a first pass
finds what each part does to a cell, and a second one starts each part from the cell that reaches it: inputs
are read twice, but a few long sequences keep the whole device busy.

Shapes: B batch, T time, N chunks, P parts, C cell width.
"""

from __future__ import annotations

import contextlib
import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 8  # steps of pooling whose values a program holds in registers
LONG_CHUNK = 16  # the same for the recurrence alone, which has fewer values a step
WARP = 32  # threads of a program; each loads four bytes at a time, so that a warp reads whole cache lines
PROGRAMS = 8  # per multiprocessor, so that the loads of some hide behind the work of others


class Tiling(NamedTuple):
    """Steps of a chunk and channels of a row (a power of two)."""

    chunk: int
    width: int


class Division(NamedTuple):
    """The division of a (B, T, C) problem; ``span`` is the number of chunks in a part."""

    tiling: Tiling
    batch: int
    time: int
    cells: int
    chunks: int
    span: int
    parts: int

    @property
    def programs(self) -> int:
        """The number of programs that the work is done by."""
        return self.batch * self.parts * -(-self.cells // self.tiling.width)

    def across_parts(self) -> Division:
        """Return the division of the pass that carries a cell from part to part: the parts are its steps."""
        chunks = -(-self.parts // self.tiling.chunk)
        return self._replace(time=self.parts, chunks=chunks, span=chunks, parts=1)


def tile(like: Tensor, chunk: int) -> Tiling:
    """Return the tiling for elements like those of ``like``."""
    return Tiling(chunk, WARP * max(1, 4 // like.element_size()))


def divide(like: Tensor, cells: int, tiling: Tiling, parts: int | None = None) -> Division:
    """Return how to divide the work over ``like`` (B, T, ...) with C = ``cells``.

    ``parts`` asks for that many parts of time instead of as many as the device has use for.
    """
    batch, time = like.shape[:2]
    chunks = -(-time // tiling.chunk)
    if parts is None:
        parts = _useful_parts(batch * -(-cells // tiling.width), like.device)
    span = -(-chunks // max(1, min(parts, chunks)))
    return Division(tiling, batch, time, cells, chunks, span, -(-chunks // span) if span else 0)


def _useful_parts(rows: int, device: torch.device) -> int:
    """Return the number of parts that fills the device; reading everything twice must at least double the programs."""
    wanted = PROGRAMS * _multiprocessors(device)
    return 1 if 2 * rows >= wanted else -(-wanted // max(rows, 1))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def cell_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type of cells for inputs of ``dtype``: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def in_rows(x_BTW: Tensor) -> Tensor:
    """Return ``x`` with its last dimension contiguous and all B * T steps equally far apart; copied only if need be."""
    batch, time, width = x_BTW.shape
    together = width == 1 or x_BTW.stride(2) == 1
    even = batch == 1 or time == 1 or x_BTW.stride(0) == time * x_BTW.stride(1)
    return x_BTW if together and even else x_BTW.contiguous()


def row_stride(x_BTW: Tensor) -> int:
    """Return the elements from one step to the next of what :func:`in_rows` returned."""
    return x_BTW.stride(0 if x_BTW.shape[1] == 1 else 1)


def alignment(*sizes: int) -> int:
    """Return the largest power of two up to 16 that divides all: so many elements may be loaded together."""
    return math.gcd(16, *sizes)


def fast(like: Tensor) -> bool:
    """Say whether gates may be computed by NVIDIA's own instructions for float32."""
    return like.device.type == "cuda" and torch.version.hip is None and cell_dtype(like.dtype) == torch.float32


def as_bytes(reset_BT: Tensor | None) -> Tensor | None:
    """Return a boolean mask as bytes in rows."""
    return None if reset_BT is None else reset_BT.contiguous().view(torch.uint8)


def on_device(like: Tensor) -> contextlib.AbstractContextManager[object]:
    """Return the context in which kernels start on the device of ``like``."""
    return torch.cuda.device(like.device) if like.device.type == "cuda" else contextlib.nullcontext()
