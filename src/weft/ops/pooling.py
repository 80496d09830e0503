"""A QRNN's pooling as one operator: from the gates' pre-activations to its outputs, nothing in between in memory.

Plain torch writes tanh, sigmoids, products and cells one after another, and keeps most of them for the
backward pass. The operator reads the gates as the linear map laid them out, and keeps the cells before
each chunk of steps alone; the backward pass makes the rest again. Its forms are :mod:`weft.ops.cpu`
and :mod:`weft.ops.triton`.

With z = tanh, f, o, i = sigmoid of the pre-activations and r_t = 0 at a reset, else 1 (Bradbury et al. 2017):

    c_t = r_t f_t c_{t-1} + (1 - f_t) z_t   (f, fo)      h_t = c_t       (f)
    c_t = r_t f_t c_{t-1} + i_t z_t         (ifo)        h_t = o_t c_t   (fo, ifo)

Shapes: B batch, T time, C cell width, A gates of a cell.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from weft.ops import cpu, triton
from weft.ops.gates import GATES, Pooling


def can_fuse(gates_BTAC: Tensor, pooling: Pooling) -> bool:
    """Return whether a form of the operator takes these gates; in an exported program there is none."""
    gates = gates_BTAC
    if torch.compiler.is_exporting():
        return False
    if gates.device.type == "cuda":
        return gates.dtype in (torch.float32, torch.bfloat16, torch.float16) and triton.available()
    return gates.shape[-1] >= cpu.LEAST_WIDTH * GATES[pooling] and cpu.fits(gates)


def fused_pooling(
    gates_BTAC: Tensor,
    cell_BC: Tensor | None,
    reset_BT: Tensor | None,
    pooling: Pooling,
    bias_AC: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``(hidden_BTC, cell_BC)``: outputs in the gates' dtype, and the last cell, float32.

    ``gates_BTAC`` are pre-activations side by side (B, T, A * C), to which ``bias_AC`` is added in float32;
    differentiable as these are, and ``cell_BC`` (None for zeros). ``reset_BT`` (boolean) marks steps at which
    the past counts as zero. Raises ValueError for shapes that do not agree, and RuntimeError where no form
    takes the gates (ask :func:`can_fuse`).
    """
    batch, time, width = gates_BTAC.shape
    cells = width // GATES[pooling]
    if cells * GATES[pooling] != width:
        raise ValueError(f"gates are {width} wide, but {pooling} pooling needs a multiple of {GATES[pooling]}")
    if cell_BC is None:
        cell_BC = gates_BTAC.new_zeros(batch, cells, dtype=torch.float32)
    if cell_BC.shape != (batch, cells):
        raise ValueError(f"cell is {tuple(cell_BC.shape)}, must be (B, C) = ({batch}, {cells})")
    for name, x in (("cell", cell_BC), ("reset", reset_BT), ("bias", bias_AC)):
        if x is not None and x.device != gates_BTAC.device:
            raise ValueError(f"{name} is on {x.device}, but the gates are on {gates_BTAC.device}")
    if reset_BT is not None and (reset_BT.shape != (batch, time) or reset_BT.dtype != torch.bool):
        raise ValueError(f"reset is {tuple(reset_BT.shape)} of {reset_BT.dtype}, must be boolean ({batch}, {time})")
    if bias_AC is not None and bias_AC.shape != (width,):
        raise ValueError(f"bias is {tuple(bias_AC.shape)}, must be (A * C,) = ({width},)")
    if bias_AC is not None:
        bias_AC = bias_AC.float()
    cell_BC = cell_BC.float()
    if cpu.usable(gates_BTAC) and can_fuse(gates_BTAC, pooling):
        hidden, last = _OnCPU.apply(gates_BTAC, bias_AC, cell_BC, reset_BT, pooling)  # type: ignore[no-untyped-call]
    else:
        hidden, last, _ = torch.ops.weft.pooling(gates_BTAC, bias_AC, cell_BC, reset_BT, pooling)
    return hidden, last


class _OnCPU(torch.autograd.Function):
    """The same without the registry of operators, which takes longer than a short text's pooling."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, bias: Tensor | None, cell: Tensor, reset: Tensor | None, pooling: str
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        hidden, last, starts = cpu.pooling_forward(gates, bias, cell, reset, pooling)
        ctx.save_for_backward(gates, bias, reset, starts)
        ctx.pooling = pooling
        return hidden, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
        gates, bias, reset, starts = ctx.saved_tensors
        batch, _, width = starts.shape
        if grad_hidden is None:
            grad_hidden = gates.new_zeros(batch, gates.shape[1], width)
        if grad_last is None:
            grad_last = starts.new_zeros(batch, width)
        grads = cpu.pooling_backward(grad_hidden, grad_last, gates, bias, starts, reset, ctx.pooling)
        return grads[0], None if bias is None else grads[1], grads[2], None, None


def _form(gates: Tensor, pooling: str) -> ModuleType:
    """Return the form of the operator for these gates; RuntimeError where there is none."""
    if not can_fuse(gates, cast("Pooling", pooling)):
        raise RuntimeError(f"no fused pooling for {gates.dtype} on {gates.device}")
    return triton if gates.device.type == "cuda" else cpu


def _chunks(gates: Tensor) -> Any:
    """Return how many chunks of steps the cells before are kept for; the forms have chunks of their own length."""
    chunk = triton.CHUNK if gates.device.type == "cuda" else cpu.CHUNK
    return (gates.shape[1] + chunk - 1) // chunk


@torch.library.custom_op("weft::pooling", mutates_args=())
def _forward(
    gates: Tensor, bias: Tensor | None, cell: Tensor, reset: Tensor | None, pooling: str
) -> tuple[Tensor, Tensor, Tensor]:
    hidden, last, starts = _form(gates, pooling).pooling_forward(gates, bias, cell, reset, pooling)
    return hidden, last, starts


@_forward.register_fake
def _(
    gates: Tensor, bias: Tensor | None, cell: Tensor, reset: Tensor | None, pooling: str
) -> tuple[Tensor, Tensor, Tensor]:
    batch, width = cell.shape
    hidden = gates.new_empty(batch, gates.shape[1], width)
    return hidden, cell.new_empty(batch, width), cell.new_empty(batch, _chunks(gates), width)


@torch.library.custom_op("weft::pooling_backward", mutates_args=())
def _backward(
    grad_hidden: Tensor,
    grad_last: Tensor,
    gates: Tensor,
    bias: Tensor | None,
    starts: Tensor,
    reset: Tensor | None,
    pooling: str,
) -> tuple[Tensor, Tensor, Tensor]:
    backward = _form(gates, pooling).pooling_backward
    grad_gates, grad_bias, grad_cell = backward(grad_hidden, grad_last, gates, bias, starts, reset, pooling)
    return grad_gates, grad_bias, grad_cell


@_backward.register_fake
def _(
    grad_hidden: Tensor,
    grad_last: Tensor,
    gates: Tensor,
    bias: Tensor | None,
    starts: Tensor,
    reset: Tensor | None,
    pooling: str,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_bias = grad_last.new_empty(gates.shape[2])
    return gates.new_empty(gates.shape), grad_bias, grad_last.new_empty(grad_last.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    gates, bias, _, reset, ctx.pooling = inputs
    ctx.save_for_backward(gates, bias, reset, output[2])


def _autograd(
    ctx: Any, grad_hidden: Tensor, grad_last: Tensor, _: Tensor
) -> tuple[Tensor, Tensor | None, Tensor, None, None]:
    gates, bias, reset, starts = ctx.saved_tensors
    grads = torch.ops.weft.pooling_backward(grad_hidden, grad_last, gates, bias, starts, reset, ctx.pooling)
    return grads[0], None if bias is None else grads[1], grads[2], None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)
