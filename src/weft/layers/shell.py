"""A block's shell in fused passes where the CPU's kernels take it: see :mod:`weft.ops.cpu.shell_kernels`.

What a block reads is normed, shifted by a token and cast; what it gives is gated and added to the residual
stream. Plain torch makes a pass over memory for each of these, and keeps most of what lies between. The plain
form is :meth:`weft.blocks.base.Block.forward`'s own.
Shapes: B batch, T time, D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from weft.layers.norms import RMSNorm, given_dtype
from weft.layers.token_shift import TokenShift
from weft.layers.versions import untouched
from weft.ops import cpu
from weft.ops.cpu import shell


def can_enter(
    x_BTD: Tensor,
    norm: torch.nn.Module,
    shift: TokenShift | None,
    before_BD: Tensor | None = None,
    reset_BT: Tensor | None = None,
) -> bool:
    """Return whether :func:`enter` takes this; what does not fit together is left to the plain form, which says so."""
    if not untouched(norm, RMSNorm) or x_BTD.dtype != torch.float32 or given_dtype(x_BTD) not in cpu.DTYPES:
        return False
    weights = [cast("RMSNorm", norm).weight]
    if shift is not None:
        if not untouched(shift, TokenShift):
            return False
        weights.append(shift.share)
    batch, time, width = x_BTD.shape
    if before_BD is not None and (before_BD.shape != (batch, width) or before_BD.device != x_BTD.device):
        return False
    if reset_BT is not None and (reset_BT.shape != (batch, time) or reset_BT.dtype != torch.bool):
        return False
    return cpu.usable(x_BTD, *weights)


def enter(
    x_BTD: Tensor, norm: RMSNorm, shift: TokenShift | None, before_BD: Tensor | None, reset_BT: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return ``(x_BTD, h_BTD, last_BD)``: the stream as it was, what the mixer reads, and the last norm.

    Who goes on with the stream takes it from here: so the gradients that come back to it are added in the pass
    that goes back through the norm. ``last_BD`` is None without a shift.
    """
    share = None
    if shift is not None:
        share = shift.share
    if before_BD is not None:
        before_BD = before_BD.float()
    dtype = given_dtype(x_BTD)
    x_BTD, h_BTD, last_BD = _Enter.apply(x_BTD, norm.weight, share, before_BD, reset_BT, norm.eps, dtype)  # type: ignore[no-untyped-call]
    return x_BTD, h_BTD, last_BD if shift is not None else None


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        weight: Tensor,
        share: Tensor | None,
        before_BD: Tensor | None,
        reset_BT: Tensor | None,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        stream = x_BTD
        x_BTD = x_BTD.contiguous()
        if before_BD is not None:
            before_BD = before_BD.contiguous()
        if reset_BT is not None:
            reset_BT = reset_BT.contiguous()
        h_BTD, last_BD, scales = shell.enter_forward(x_BTD, weight, share, before_BD, reset_BT, eps, dtype)
        ctx.save_for_backward(x_BTD, weight, share, before_BD, reset_BT, scales)
        ctx.dtype = dtype
        return stream, h_BTD, last_BD

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_x: Tensor | None, grad_h: Tensor | None, grad_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        x_BTD, weight, share, before_BD, reset_BT, scales = ctx.saved_tensors
        if grad_h is None:
            grad_h = torch.zeros(x_BTD.shape, dtype=ctx.dtype)
        if grad_x is not None:
            grad_x = grad_x.contiguous()
        if grad_last is not None:
            grad_last = grad_last.float().contiguous()
        grads = shell.enter_backward(
            grad_h.contiguous(), grad_x, grad_last, x_BTD, weight, share, scales, before_BD, reset_BT
        )
        of_x, of_weight, of_share, of_before = grads
        if before_BD is None:
            of_before = None
        return of_x, of_weight, of_share, of_before, None, None, None


def can_leave(x_BTD: Tensor, u_BTD: Tensor, h_BTD: Tensor, weight: Tensor, gain: Tensor) -> bool:
    """Return whether :func:`leave` takes this."""
    alike = x_BTD.dtype == torch.float32 and u_BTD.dtype == h_BTD.dtype and gain.dtype == torch.float32
    return alike and cpu.usable(x_BTD, weight) and cpu.usable(u_BTD, h_BTD)


def leave(x_BTD: Tensor, u_BTD: Tensor, h_BTD: Tensor, weight: Tensor, gain: Tensor) -> Tensor:
    """Return ``x + 2 g sigmoid(h . v / sqrt(D)) u`` (B, T, D), for the gate's weights v (D) and gain g (1)."""
    y_BTD: Tensor = _Leave.apply(x_BTD, u_BTD, h_BTD, weight, gain)  # type: ignore[no-untyped-call]
    return y_BTD


class _Leave(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, u_BTD: Tensor, h_BTD: Tensor, weight: Tensor, gain: Tensor) -> Tensor:
        u_BTD = u_BTD.contiguous()
        h_BTD = h_BTD.contiguous()
        y_BTD, gates = shell.leave_forward(x_BTD.contiguous(), u_BTD, h_BTD, weight, gain)
        ctx.save_for_backward(u_BTD, h_BTD, weight, gain, gates)
        return y_BTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, ...]:
        grad_y = grad_y.contiguous()
        return (grad_y, *shell.leave_backward(grad_y, *ctx.saved_tensors))
