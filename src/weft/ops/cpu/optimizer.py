"""An optimizer's step on a CPU: passes of Numba kernels over many tensors, which stay where they are.

Tensors are contiguous, float32 unless it is said, and changed in place by their addresses, so that who calls
must tell autograd. Addresses are gathered anew for each step.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from weft.ops.cpu import FEW, available, bits, floats
from weft.ops.cpu.constants import VECTOR

_PART = 1 << 14  # numbers of a task
_ORDINARY = (Tensor, torch.nn.Parameter)


def fits(tensors: Sequence[Tensor]) -> bool:
    """Return whether the kernels can work on these tensors: ordinary ones of float32, contiguous, on a CPU."""
    return available() and all(
        type(x) in _ORDINARY and x.dtype == torch.float32 and x.is_cpu and x.is_contiguous() for x in tensors
    )


class _Parts:
    """What tasks work on: each a row of a table, and where in it to begin and to end."""

    def __init__(self, lengths: Sequence[int], widths: Sequence[int], leasts: Sequence[int]) -> None:
        """Part rows of ``lengths`` steps, of so many numbers each (``widths``), into no less than ``leasts``."""
        self._triples = array("q")
        self.bounds: list[tuple[int, int]] = []  # the parts of each row
        owners: list[int] = []
        for row, (length, width, least) in enumerate(zip(lengths, widths, leasts, strict=True)):
            step = max(1, _PART // (width * least)) * least
            begun = len(owners)
            first = 0
            while first < length:
                end = first + step
                if length - end < least:  # the last takes the rest
                    end = length
                self._triples.extend((row, first, end))
                owners.append(row)
                first = end
            self.bounds.append((begun, len(owners)))
        self.count = len(owners)
        self.owners = torch.tensor(owners)
        self.alone = sum(length * width for length, width in zip(lengths, widths, strict=True)) < FEW

    @property
    def address(self) -> int:
        """Where they are listed."""
        return _address(self._triples)


@lru_cache(maxsize=64)
def _flat(sizes: tuple[int, ...]) -> _Parts:
    return _Parts(sizes, [1] * len(sizes), [VECTOR] * len(sizes))


@lru_cache(maxsize=64)
def _by_rows(shapes: tuple[tuple[int, int], ...]) -> _Parts:
    return _Parts([rows for rows, _ in shapes], [columns for _, columns in shapes], [1] * len(shapes))


@lru_cache(maxsize=64)
def _by_longer_side(shapes: tuple[tuple[int, int], ...]) -> _Parts:
    leasts = [1 if rows > columns else VECTOR for rows, columns in shapes]  # columns are read a register at a time
    return _Parts([max(shape) for shape in shapes], [min(shape) for shape in shapes], leasts)


def _address(table: array[int]) -> int:
    return table.buffer_info()[0]


def norm(tensors: Sequence[Tensor]) -> float:
    """Return the root of the sum of all their squares."""
    from weft.ops.cpu import optimizer_kernels

    table = array("q", [x.data_ptr() for x in tensors])
    parts = _flat(tuple([x.numel() for x in tensors]))
    sums = floats(parts.count)
    optimizer_kernels.sum_of_squares(parts.count, _address(table), parts.address, sums.data_ptr(), alone=parts.alone)
    return math.sqrt(sums.sum(dtype=torch.float64).item())


@dataclass
class AdamWTensor:
    """A tensor with its gradient, the state of its AdamW and the copy in bfloat16 that is to be written."""

    weight: Tensor
    gradient: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor
    copy: Tensor | None


def adamw(groups: Sequence[tuple[Sequence[AdamWTensor], Sequence[float]]], factor: float) -> None:
    """Take a step with groups of tensors, each with rate, decay, both betas and eps; gradients times ``factor``."""
    from weft.ops.cpu import optimizer_kernels

    table = array("q")
    sizes = []
    for tensors, settings in groups:
        told = [bits(value) for value in settings]
        for x in tensors:
            copy = 0 if x.copy is None else x.copy.data_ptr()
            table.extend((x.weight.data_ptr(), x.gradient.data_ptr(), x.mean.data_ptr(), x.square.data_ptr()))
            table.extend((copy, x.steps.data_ptr(), *told))
            sizes.append(x.weight.numel())
    scales = floats(len(sizes), 2)
    address = _address(table)
    optimizer_kernels.adamw_begin(1, address, len(sizes), scales.data_ptr(), alone=True)
    parts = _flat(tuple(sizes))
    optimizer_kernels.adamw(parts.count, address, parts.address, scales.data_ptr(), bits(factor), alone=parts.alone)


@dataclass
class MuonMatrix:
    """Addresses of a matrix's weights, their copy (or 0), gradient and states (v: 0 where there is none); settings."""

    weight: int
    copy: int
    gradient: int
    momentum: int
    second: int
    weight_of_old: float  # m
    rate: float  # what orth(U) is multiplied by
    remains: float  # what the weights are multiplied by


class MuonPasses:
    """The passes of a step of Muon over matrices of given shapes.

    ``updates`` and ``results`` are the addresses of each matrix's U and orth(U), of ``dtype``. With ``evened``
    orth(U) is evened out as NorMuon does.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, int]],
        updates: Sequence[int],
        results: Sequence[int],
        dtype: torch.dtype,
        *,
        evened: bool,
    ) -> None:
        self._numbers = _flat(tuple([rows * columns for rows, columns in shapes]))
        self._sides = _by_longer_side(tuple(shapes))
        self._rows = _by_rows(tuple(shapes))
        self._kind = int(dtype == torch.bfloat16)
        self._evened = evened
        self._scales = floats(sum(max(shape) for shape in shapes))
        self._before = floats(self._sides.count)
        self._after = floats(self._sides.count)
        self._table = array("q")

        # What stays of each row of the table: U; orth(U); the scales, R and C; the parts of the longer side.
        self._fixed: list[tuple[int, int, tuple[int, int, int], tuple[int, int]]] = []
        scales = self._scales.data_ptr() if evened else 0
        for shape, update, result, bounds in zip(shapes, updates, results, self._sides.bounds, strict=True):
            self._fixed.append((update, result, (scales, *shape), bounds))
            if evened:
                scales += 4 * max(shape)

    def momentum(self, matrices: Sequence[MuonMatrix], factor: float) -> Tensor:
        """Take the gradients, times ``factor``, into M; write U and return the norm of each."""
        from weft.ops.cpu import optimizer_kernels

        self._table = array("q")
        for x, (update, result, side, bounds) in zip(matrices, self._fixed, strict=True):
            new, rate, remains = (bits(value) for value in (1 - x.weight_of_old, x.rate, x.remains))
            self._table.extend((x.weight, x.copy, x.gradient, x.momentum, new, update, result, x.second))
            self._table.extend((*side, rate, remains, *bounds))
        parts = self._numbers
        sums = floats(parts.count)
        kernel = optimizer_kernels.muon_momentum[self._kind]
        arguments = (_address(self._table), parts.address, bits(factor), sums.data_ptr())
        kernel(parts.count, *arguments, alone=parts.alone)
        squares = torch.zeros(len(self._fixed), dtype=torch.float64)
        return squares.index_add_(0, parts.owners, sums.double()).sqrt_().float()

    def change(self) -> None:
        """Take orth(U), evened out or not, into the weights and their copies."""
        from weft.ops.cpu import optimizer_kernels

        table = _address(self._table)
        sums = (self._before.data_ptr(), self._after.data_ptr())
        if self._evened:
            parts = self._sides
            optimizer_kernels.muon_evening[self._kind](parts.count, table, parts.address, *sums, alone=parts.alone)
        parts = self._rows
        optimizer_kernels.muon_change[self._kind](parts.count, table, parts.address, *sums, alone=parts.alone)
