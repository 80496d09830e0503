"""AdamW and Muon on a CPU: the same steps as torch's, in few passes of kernels over all parameters.

A step reads each gradient where it is, multiplied by the factor that clipping asks for, and writes weights,
state and, where products are made in bfloat16, the copy of a weight for them (:mod:`weft.layers.copies`) in one
pass. What the kernels cannot take (other dtypes, shards, very narrow matrices) torch does as before, of which
these are subclasses; state and its names are the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import AdamW, Optimizer

from weft.layers.copies import copy_to_renew, keep_copies, renewed
from weft.ops.cpu import optimizer as passes
from weft.ops.cpu.constants import VECTOR
from weft.training.muon import Muon, matrix_form, working_type
from weft.training.orthogonalisation import Orthogonaliser

PLANS = 2  # that are kept, as some parameters may have a gradient in every second step alone


class TakesFactor(Optimizer):
    """An optimizer whose next step multiplies gradients by ``factor``, as clipping would have before it."""

    factor: float = 1.0
    found_inf: Tensor | None = None  # 1 for a step that must change nothing, as torch's fused optimizers know it

    def take_factor(self) -> float:
        """Return the factor of this step; that of the next is 1 again."""
        factor = self.factor
        self.factor = 1.0
        return factor

    def left_out(self) -> bool:
        """Return whether this step must change nothing (see :func:`weft.training.step.apply_gradients`)."""
        return self.found_inf is not None and bool(self.found_inf.item() > 0)


def keep_bf16(optimizer: Optimizer) -> None:
    """Let the copies of an optimizer's weights be renewed by its steps."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    keep_copies([p for p in parameters if p.dim() >= 2 and p.numel() >= VECTOR], optimizer)


def _scale(gradients: Sequence[Tensor], factor: float) -> None:
    if gradients and factor != 1.0:
        torch._foreach_mul_(list(gradients), factor)


def _changed(parameters: Sequence[Tensor], copies: Sequence[Tensor | None]) -> None:
    """Tell autograd of changes by address, and the keeper of copies of those that were written."""
    increment_version([*parameters, *(copy for copy in copies if copy is not None)])
    for parameter, copy in zip(parameters, copies, strict=True):
        if copy is not None:
            renewed(parameter)


class FusedAdamW(TakesFactor, AdamW):
    """torch's fused AdamW with kernels of Weft's."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        assert closure is None, "a step looks at the gradient once"
        factor = self.take_factor()
        groups = []
        changed: list[Tensor] = []
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            groups.append((group, given))
            changed += given
        gradients = [parameter.grad for parameter in changed if parameter.grad is not None]
        if not passes.fits(changed) or not passes.fits(gradients):
            _scale(gradients, factor)
            super().step()
            return
        if not changed or self.left_out():
            return
        copies = []
        told = []
        for group, given in groups:
            rows = []
            for parameter in given:
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"] = torch.zeros_like(parameter)
                    state["exp_avg_sq"] = torch.zeros_like(parameter)
                copy = copy_to_renew(parameter)
                copies.append(copy)
                averages = (state["exp_avg"], state["exp_avg_sq"])
                rows.append(passes.AdamWTensor(parameter, parameter.grad, *averages, state["step"], copy))
            told.append((rows, (group["lr"], group["weight_decay"], *group["betas"], group["eps"])))
        passes.adamw(told, factor)
        _changed(changed, copies)


class _Plan:
    """How parameters of given shapes are worked through: matrices of one shape side by side in one batch."""

    def __init__(self, shapes: Sequence[torch.Size], dtype: torch.dtype, *, evened: bool) -> None:
        forms = [matrix_form(shape) for shape in shapes]
        by_form: dict[tuple[int, int], list[int]] = {}
        for place, form in enumerate(forms):
            by_form.setdefault((form[-2], form[-1]), []).append(place)
        self.order = [place for places in by_form.values() for place in places]
        self.forms = [(math.prod(forms[place][:-2]), *forms[place][-2:]) for place in self.order]
        counts = [sum(math.prod(forms[place][:-2]) for place in places) for places in by_form.values()]
        batches = [(count, *form) for count, form in zip(counts, by_form, strict=True)]
        self.orthogonalise = Orthogonaliser(batches, dtype)
        updates = [x.data_ptr() for batch in self.orthogonalise.updates for x in batch]
        results = [x.data_ptr() for batch in self.orthogonalise.results for x in batch]
        each = [form for count, form in zip(counts, by_form, strict=True) for _ in range(count)]
        self.passes = passes.MuonPasses(each, updates, results, dtype, evened=evened)


class FusedMuon(TakesFactor, Muon):
    """:class:`Muon` with kernels, and orthogonalisation in memory that is used again."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._plans: dict[Any, _Plan] = {}

    def restack(self) -> None:
        """Also make the memory for orthogonalising anew."""
        super().restack()
        self._plans.clear()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Change every parameter that has a gradient."""
        assert closure is None, "a step looks at the gradient once"
        factor = self.take_factor()
        taken: list[tuple[Tensor, dict[str, Any]]] = []
        for group in self.param_groups:
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            gradients = [parameter.grad for parameter in given if parameter.grad is not None]
            left = given
            if passes.fits(given) and passes.fits(gradients):
                left = [parameter for parameter in given if matrix_form(parameter.shape)[-1] < VECTOR]
                taken += [(p, group) for p in given if matrix_form(p.shape)[-1] >= VECTOR]
            _scale([parameter.grad for parameter in left if parameter.grad is not None], factor)
            self._change_all(left, group)
        if taken and not self.left_out():
            self._change_fused(taken, factor)

    def _change_fused(self, taken: Sequence[tuple[Tensor, dict[str, Any]]], factor: float) -> None:
        """Take a step with parameters, each with its group."""
        plan = self._plan_of([parameter.shape for parameter, _ in taken])
        matrices: list[passes.MuonMatrix] = []
        copies: list[Tensor | None] = []
        for place, (count, rows, columns) in zip(plan.order, plan.forms, strict=True):
            parameter, group = taken[place]
            assert parameter.grad is not None
            state = self._state_of(parameter, rows, columns)
            copy = copy_to_renew(parameter)
            copies.append(copy)
            tensors = [parameter, parameter.grad, state["momentum_buffer"], copy, state.get("second_moment")]
            weight, gradient, momentum, copied, second = (0 if x is None else x.data_ptr() for x in tensors)
            rate = -0.2 * group["lr"] * math.sqrt(max(rows, columns))
            remains = 1 - group["lr"] * group["weight_decay"]
            size = rows * columns
            for n in range(count):
                matrices.append(
                    passes.MuonMatrix(
                        weight=weight + 4 * size * n,
                        copy=copied + 2 * size * n if copied else 0,
                        gradient=gradient + 4 * size * n,
                        momentum=momentum + 4 * size * n,
                        second=second + 4 * max(rows, columns) * n,
                        weight_of_old=group["momentum"],
                        rate=rate,
                        remains=remains,
                    )
                )
        norms = plan.passes.momentum(matrices, factor)
        plan.orthogonalise(norms)
        plan.passes.change()
        _changed([taken[place][0] for place in plan.order], copies)

    def _plan_of(self, shapes: Sequence[torch.Size]) -> _Plan:
        dtype = working_type(torch.device("cpu"))
        key = (dtype, *shapes)
        if key not in self._plans:
            while len(self._plans) >= PLANS:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = _Plan(shapes, dtype, evened=self._normalise)
        return self._plans[key]

    def _state_of(self, parameter: Tensor, rows: int, columns: int) -> dict[str, Any]:
        """Return a parameter's state, of zeros where it is new."""
        state: dict[str, Any] = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        if self._normalise and "second_moment" not in state:
            side = (rows, 1) if rows > columns else (1, columns)
            state["second_moment"] = torch.zeros(*matrix_form(parameter.shape)[:-2], *side)
        return state
