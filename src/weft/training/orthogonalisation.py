"""Orthogonalising batches of matrices on a CPU, in memory that is used again: what Muon's step spends its time on.

Five steps of X <- (p I + q A + s A A) X with A = X X^T (:mod:`weft.training.muon`). Square and nearly square matrices
take them as they are written, a batch of one shape at a time. For longer ones small square matrices alone cost
less: every factor F = p I + q A + s A A is a polynomial of the first A, so all commute, the next A is F A F, and X is
the product of the factors times the first X. That needs the longer side for the first A and the last product
only, and the small matrices of all shapes with one shorter side make one batch.

A holds the squares of the singular values, for which bfloat16 has too few digits: small ones drown in the
rounding of large ones, and each step multiplies what came of it by up to p^2. In bfloat16 the product of factors is
multiplied with X after the first step therefore, after the third and after the last, and A made anew in between (as
in "Gram Newton-Schulz"): the first step brings the singular values near enough to each other. That is as exact as
the steps as they are written, also where one direction outweighs all others, as in the gradients of a small batch.
With the first stop after the third step, such updates came out up to forty times too large.
Shapes: N matrices, R rows, C columns, S the shorter of the two sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from weft.ops.cpu.constants import LEAST_NORM
from weft.training.muon import COEFFICIENTS, LONG, STEPS, tall

RESTARTS = {torch.bfloat16: (1, 3, STEPS), torch.float32: (STEPS,)}  # steps taken when A is made anew, or all are


class Orthogonaliser:
    """Orthogonalises what lies in ``updates``, a tensor (N, R, C) for each of ``shapes``; it is found in ``results``.

    ``updates`` are overwritten, and may be the results.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], dtype: torch.dtype) -> None:
        self.updates = [torch.empty(shape, dtype=dtype) for shape in shapes]
        self._counts = [shape[0] for shape in shapes]
        self._works: list[tuple[list[int], _ByProducts | _ByPowers]] = []
        by_side: dict[int, list[int]] = {}
        for place, (_, rows, columns) in enumerate(shapes):
            shorter, longer = sorted((rows, columns))
            if longer > LONG * shorter:
                by_side.setdefault(shorter, []).append(place)
            else:
                self._works.append(([place], _ByProducts(self.updates[place])))
        for places in by_side.values():
            self._works.append((places, _ByPowers([self.updates[place] for place in places])))
        self.results = list(self.updates)
        for places, work in self._works:
            for place, result in zip(places, work.results, strict=True):
                self.results[place] = result

    def __call__(self, norms: Tensor) -> None:
        """Run. ``norms`` (all matrices,) are those of the matrices, in the order of ``updates``."""
        inverses = torch.split_with_sizes(norms.clamp(min=LEAST_NORM).reciprocal().view(-1, 1, 1), self._counts)
        for places, work in self._works:
            work(torch.cat([inverses[place] for place in places]))


class _ByProducts:
    """The steps as they are written."""

    def __init__(self, x_NRC: Tensor) -> None:
        count, rows, columns = x_NRC.shape
        self._tall = tall(x_NRC)
        self._x_NRC = x_NRC
        self._other_NRC = torch.empty_like(x_NRC)
        self._a_NSS = x_NRC.new_empty(count, min(rows, columns), min(rows, columns))
        self._b_NSS = torch.empty_like(self._a_NSS)
        self.results = [self._x_NRC if STEPS % 2 == 0 else self._other_NRC]

    def __call__(self, inverses_N11: Tensor) -> None:
        p, q, s = COEFFICIENTS
        a_NSS, b_NSS = self._a_NSS, self._b_NSS
        x_NRC, other_NRC = self._x_NRC, self._other_NRC
        x_NRC.mul_(inverses_N11.to(x_NRC.dtype))
        for _ in range(STEPS):
            _small_square(x_NRC, a_NSS)
            torch.baddbmm(a_NSS, a_NSS, a_NSS, beta=q, alpha=s, out=b_NSS)  # q A + s A A
            factors = (x_NRC, b_NSS) if self._tall else (b_NSS, x_NRC)
            torch.baddbmm(x_NRC, *factors, beta=p, out=other_NRC)
            x_NRC, other_NRC = other_NRC, x_NRC


class _ByPowers:
    """The steps with small square matrices, of batches that have the shorter side S in common."""

    def __init__(self, batches: Sequence[Tensor]) -> None:
        self._batches = list(batches)
        self._others = [torch.empty_like(x_NRC) for x_NRC in batches]
        self._restarts = RESTARTS[batches[0].dtype]
        side = min(batches[0].shape[1:])
        self._counts = [len(x_NRC) for x_NRC in batches]
        self._small = batches[0].new_empty(5, sum(self._counts), side, side)
        self.results = self._batches if len(self._restarts) % 2 == 0 else self._others

    def __call__(self, inverses_N11: Tensor) -> None:
        inverses_N11 = inverses_N11.to(self._small.dtype)
        batches, others = self._batches, self._others
        done = 0
        for end in self._restarts:
            a_NSS = self._small[0]
            for x_NRC, part_NSS in zip(batches, torch.split_with_sizes(a_NSS, self._counts), strict=True):
                _small_square(x_NRC, part_NSS)
            if done == 0:  # X = U / |U|, without a pass over U
                a_NSS.mul_(inverses_N11.square())
            product_NSS = self._product(end - done)
            if done == 0:
                product_NSS.mul_(inverses_N11)
            products = torch.split_with_sizes(product_NSS, self._counts)
            for x_NRC, other_NRC, part_NSS in zip(batches, others, products, strict=True):
                factors = (x_NRC, part_NSS) if tall(x_NRC) else (part_NSS, x_NRC)
                torch.bmm(*factors, out=other_NRC)
            batches, others = others, batches
            done = end

    def _product(self, steps: int) -> Tensor:
        """Return the product of the next factors, given the first A in the first of the small matrices."""
        p, q, s = COEFFICIENTS
        a_NSS, b_NSS, half_NSS, product_NSS, other_NSS = self._small.unbind()
        for step in range(steps):
            torch.baddbmm(a_NSS, a_NSS, a_NSS, beta=q, alpha=s, out=b_NSS)  # F = p I + B
            if step == 0:
                product_NSS.copy_(b_NSS)
                product_NSS.diagonal(dim1=1, dim2=2).add_(p)
            else:
                torch.baddbmm(product_NSS, b_NSS, product_NSS, beta=p, out=other_NSS)
                product_NSS, other_NSS = other_NSS, product_NSS
            if step + 1 < steps:  # nobody needs the A behind the last factor
                torch.baddbmm(a_NSS, a_NSS, b_NSS, beta=p, out=half_NSS)
                torch.baddbmm(half_NSS, half_NSS, b_NSS, beta=p, out=a_NSS)
        return product_NSS


def _small_square(x_NRC: Tensor, out_NSS: Tensor) -> None:
    """Write X X^T, or X^T X where that is the smaller."""
    if tall(x_NRC):
        torch.bmm(x_NRC.mT, x_NRC, out=out_NSS)
    else:
        torch.bmm(x_NRC, x_NRC.mT, out=out_NSS)
