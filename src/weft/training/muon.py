"""Muon (Jordan et al. 2024), which takes steps of one size in every direction of a matrix: batched by shape.

With the momentum M and the gradient G of a matrix of r rows and c columns,

    M <- m M + (1 - m) G,   U = (1 - m) G + m M  (Nesterov),   W <- (1 - a w) W - 0.2 a sqrt(max(r, c)) orth(U)

for the learning rate a, the momentum m and the weight decay w. The scale makes a step the size of AdamW's
(Moonshot AI 2025, arXiv 2502.16982), so one learning rate means the same for both. orth(U) drives every
singular value of U into about [0.7, 1.2] by five steps of X <- (p I + q A + s A A) X with A = X X^T, from
X = U / |U|.

``normalise`` makes it NorMuon (Li et al. 2025, arXiv 2510.05491): the rows of orth(U), where there are more
rows than columns, otherwise its columns (Li et al. take rows throughout), differ in size. Each is divided by
the root of a running mean v of its mean square, and the matrix brought back to the norm that it had:

    v <- 0.95 v + 0.05 mean(orth(U)^2),   O = orth(U) / sqrt(v),   orth(U) <- O |orth(U)| / |O|.

Same-shaped matrices are worked through together as one tensor. A parameter of three dimensions is a row of
matrices, such as the blocks of a block-diagonal one; one of four, (a, i, j, d), a local tensor of a matrix
product, the matrix (a i, j d).
Shapes: N matrices, R rows, C columns, S the shorter of the two sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from weft.ops.cpu.constants import EVENING, LEAST_NORM
from weft.training.parallel import join_shards, local, own_shard, shard_like
from weft.training.precision import cpu_has_bf16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # p, q, s
STEPS = 5
# Where the longer side is so many times the shorter one, small square matrices alone cost less: by the ratio k,
# 2 k + 17 products of S x S matrices against 10 k + 5.
LONG = 1.5


class Muon(Optimizer):
    """Muon as ``torch.optim.Muon`` with ``adjust_lr_fn="match_rms_adamw"``, but for rounding, and for rows of matrices.

    A parameter may be a shard of a matrix (DTensor): its whole update is gathered, and each process makes all
    of it. The attribute ``found_inf``, where there is one (a scalar tensor), is 1 for a step that must change
    nothing, as in torch's fused optimizers. The state of a parameter is its ``momentum_buffer`` and, with
    ``normalise``, v as its ``second_moment``, which every process has whole.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        normalise: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._normalise = normalise
        self._stacks: dict[tuple[str, torch.Size], tuple[list[int], Tensor]] = {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of another Muon."""
        super().load_state_dict(state_dict)
        self.restack()

    def restack(self) -> None:
        """Put the states together anew at the next step, as parameters or states have come or gone."""
        self._stacks.clear()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        assert closure is None, "Muon looks at the gradient once"
        for group in self.param_groups:
            self._change_all([parameter for parameter in group["params"] if parameter.grad is not None], group)

    def _change_all(self, parameters: Sequence[Tensor], group: dict[str, Any]) -> None:
        """Take a step with matrices of any shapes."""
        alike: dict[torch.Size, list[Tensor]] = {}
        for parameter in parameters:
            alike.setdefault(parameter.shape, []).append(parameter)
        for same in alike.values():
            self._change(same, group)

    def _change(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Take a step with same-shaped matrices. A step that must change nothing turns everything into its old self."""
        rate = group["lr"]
        weights = [local(parameter) for parameter in parameters]
        form = matrix_form(parameters[0].shape)
        scale: Tensor | float = -0.2 * rate * math.sqrt(max(form[-2:]))
        decay: Tensor | float = rate * group["weight_decay"]
        momenta = self._stack("momentum_buffer", parameters, [torch.zeros_like(weight) for weight in weights])
        update = torch.stack([local(parameter.grad) for parameter in parameters if parameter.grad is not None])
        skip: Tensor | None = getattr(self, "found_inf", None)
        if skip is not None:
            # With the momentum in place of the gradient the momentum stays, and with 0 for both factors the weights.
            torch.where(skip > 0, momenta, update, out=update)
            scale = (1 - skip) * scale
            decay = (1 - skip) * decay

        # M, and Nesterov's U, which takes the place of G in memory.
        momenta.lerp_(update, 1 - group["momentum"])
        update.lerp_(momenta, group["momentum"])

        # Singular values are those of a whole matrix, so that shards are joined for them.
        whole = join_shards(update, parameters[0])
        whole_NRC = orthogonalise(whole.reshape(-1, *form[-2:]))
        if self._normalise:
            whole_NRC = self._even(whole_NRC, parameters, form, skip)
        update = own_shard(whole_NRC.view(whole.shape), parameters[0]).mul_(scale)
        torch._foreach_mul_(weights, 1 - decay)
        torch._foreach_add_(weights, update.unbind())

    def _even(
        self, update_NRC: Tensor, parameters: Sequence[Tensor], form: tuple[int, ...], skip: Tensor | None
    ) -> Tensor:
        """Return the updates with rows (or columns) of one size in the long run, and the norms that they had."""
        along = 2 if tall(update_NRC) else 1
        squares = torch.linalg.vector_norm(update_NRC, dim=along, keepdim=True).square() / update_NRC.shape[along]

        # v, by the parameters: a row of matrices has one for each of them.
        of_each = squares.view(len(parameters), *form[:-2], *squares.shape[1:])
        second = self._stack("second_moment", parameters, list(torch.zeros_like(of_each)))
        weight = EVENING if skip is None else EVENING * (1 - skip)
        second.add_((of_each - second) * weight)
        second = second.view(squares.shape)

        # O, brought back to the norm of each matrix. Both norms lack the same factor.
        scales = (second + LEAST_NORM**2).rsqrt()
        before = squares.sum(dim=(1, 2), keepdim=True).sqrt()
        after = (squares * scales.square()).sum(dim=(1, 2), keepdim=True).sqrt()
        return update_NRC.mul_(scales * (before / after.clamp(min=LEAST_NORM)))

    def _stack(self, name: str, parameters: Sequence[Tensor], starts: Sequence[Tensor]) -> Tensor:
        """Return a state of same-shaped matrices as one tensor, of which their own are views; ``starts`` where new."""
        identities = [id(parameter) for parameter in parameters]
        key = (name, parameters[0].shape)
        known, stack = self._stacks.get(key, ([], torch.empty(0)))
        if known == identities:
            return stack

        # The first step, or parameters have come or gone: what is known of each is copied together.
        states = [self.state[parameter] for parameter in parameters]
        kept = []
        for state, start in zip(states, starts, strict=True):
            kept.append(local(state[name]) if name in state else start)
        stack = torch.stack(kept)
        for parameter, state, part in zip(parameters, states, stack.unbind(), strict=True):
            is_of_weights = part.shape == local(parameter).shape  # a second moment is smaller, and has no shards
            state[name] = shard_like(part, parameter) if is_of_weights else part
        self._stacks[key] = (identities, stack)
        return stack


def matrix_form(shape: torch.Size) -> tuple[int, ...]:
    """Return the shape of a parameter as one matrix or a row of them."""
    if len(shape) == 4:  # (a, i, j, d), a tensor of a matrix product
        return (shape[0] * shape[1], shape[2] * shape[3])
    return tuple(shape)


def orthogonalise(matrices_NRC: Tensor) -> Tensor:
    """Return the matrices with their singular vectors kept and their singular values near 1, in float32."""
    dtype = working_type(matrices_NRC.device)
    x_NRC = matrices_NRC.to(dtype)
    x_NRC = x_NRC / x_NRC.norm(dim=(1, 2), keepdim=True).clamp(min=LEAST_NORM)
    shorter, longer = sorted(x_NRC.shape[1:])
    by_powers = longer > LONG * shorter and dtype == torch.float32
    x_NRC = _by_powers(x_NRC) if by_powers else _by_products(x_NRC)
    return x_NRC.to(torch.float32)


def working_type(device: torch.device) -> torch.dtype:
    """Return bfloat16, precise enough, where it is native; a CPU that emulates it is some twenty times slower."""
    native = device.type == "cuda" or (device.type == "cpu" and cpu_has_bf16())
    return torch.bfloat16 if native else torch.float32


def _small_square(x_NRC: Tensor) -> Tensor:
    """Return X X^T, or X^T X where that is the smaller."""
    return x_NRC.mT @ x_NRC if tall(x_NRC) else x_NRC @ x_NRC.mT


def tall(x_NRC: Tensor) -> bool:
    """Return whether the matrices have more rows than columns."""
    return x_NRC.shape[1] > x_NRC.shape[2]


def _by_products(x_NRC: Tensor) -> Tensor:
    """Take the steps as they are written."""
    p, q, s = COEFFICIENTS
    is_tall = tall(x_NRC)
    for _ in range(STEPS):
        a_NSS = _small_square(x_NRC)
        a_NSS = torch.baddbmm(a_NSS, a_NSS, a_NSS, beta=q, alpha=s)  # q A + s A A
        factors = (x_NRC, a_NSS) if is_tall else (a_NSS, x_NRC)
        x_NRC = torch.baddbmm(x_NRC, *factors, beta=p)
    return x_NRC


def _by_powers(x_NRC: Tensor) -> Tensor:
    """Take the steps with small square matrices alone, and multiply by the long one at the end.

    Every factor F = p I + q A + s A A is a polynomial of the first A, so all commute: the next A is F A F,
    and X is the product of the factors times the first X. A holds the squares of the singular values, for
    which bfloat16 has too few digits.
    """
    p, q, s = COEFFICIENTS
    a_NSS = _small_square(x_NRC)
    product_NSS = None
    for step in range(STEPS):
        factor_NSS = torch.baddbmm(a_NSS, a_NSS, a_NSS, beta=q, alpha=s)
        factor_NSS.diagonal(dim1=1, dim2=2).add_(p)
        product_NSS = factor_NSS if product_NSS is None else factor_NSS @ product_NSS
        if step + 1 < STEPS:  # nobody needs the A behind the last factor
            a_NSS = factor_NSS @ a_NSS @ factor_NSS
    assert product_NSS is not None
    return x_NRC @ product_NSS if tall(x_NRC) else product_NSS @ x_NRC
