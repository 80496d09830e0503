"""The linear recurrence c_t = f_t * c_{t-1} + u_t as a ``torch.library`` operator with its own backward.

Autograd, ``torch.compile`` and ``torch.export`` see one operator, ``weft::linear_recurrence``. Its forms are
compiled kernels on a CPU (:mod:`weft.ops.cpu`) and a GPU (:mod:`weft.ops.triton`), and elsewhere a loop over
time that works in place on whole (batch x channel) slabs. The backward pass is the same recurrence run from
the end:

    g_t = dc_t + f_{t+1} g_{t+1},   du_t = g_t,   df_t = g_t c_{t-1},   dc_0 = f_1 g_1

where f_t counts as zero at a reset, which also zeroes df_t there.

Shapes: B batch, T time, C cell width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from weft.ops import cpu, triton


def linear_recurrence(
    forget: Tensor, update: Tensor, state: Tensor | None = None, reset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``(cells, last)`` of c_t = f_t * c_{t-1} + u_t, differentiable in ``forget``, ``update`` and ``state``.

    ``forget`` and ``update`` are (B, T, C), ``state`` is (B, C) or None for zeros, ``reset`` is a boolean (B,
    T) that marks steps at which the past counts as zero. ``cells`` is (B, T, C) and ``last`` (B, C) is a copy
    of its last step (of ``state`` when T is 0). Cells are float32, or float64 for float64 inputs.

    f and fo pooling of a QRNN are u = (1 - f) z, ifo pooling is u = i z (Bradbury et al. 2017).
    Raises ValueError when the shapes do not agree.
    """
    dtype = torch.promote_types(update.dtype, torch.float32)
    _check_shapes(forget, update, state, reset)
    if state is None:
        state = update.new_zeros(update.shape[0], update.shape[2], dtype=dtype)
    cells, last = torch.ops.weft.linear_recurrence(forget.to(update.dtype), update, state.to(dtype), reset)
    return cells, last


def _check_shapes(forget: Tensor, update: Tensor, state: Tensor | None, reset: Tensor | None) -> None:
    if update.dim() != 3 or forget.shape != update.shape:
        raise ValueError(f"forget {tuple(forget.shape)} and update {tuple(update.shape)} must both be (B, T, C)")
    batch, time, width = update.shape
    for name, x in (("forget", forget), ("state", state), ("reset", reset)):
        if x is not None and x.device != update.device:
            raise ValueError(f"{name} is on {x.device}, but update is on {update.device}")
    if state is not None and state.shape != (batch, width):
        raise ValueError(f"state is {tuple(state.shape)}, must be (B, C) = ({batch}, {width})")
    if reset is not None and (reset.shape != (batch, time) or reset.dtype != torch.bool):
        raise ValueError(f"reset is {tuple(reset.shape)} of {reset.dtype}, must be boolean (B, T) = ({batch}, {time})")


def _keep(forget: Tensor, reset: Tensor | None) -> Tensor:
    """Return the forget gates with zeros where the past is cut off."""
    return forget if reset is None else forget.masked_fill(reset.unsqueeze(-1), 0.0)


def _on_gpu(x: Tensor) -> bool:
    return x.device.type == "cuda" and x.dtype in (torch.float32, torch.bfloat16, torch.float16) and triton.available()


@torch.library.custom_op("weft::linear_recurrence", mutates_args=())
def _forward(forget: Tensor, update: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    if _on_gpu(update):
        cells, last = triton.recurrence_forward(forget, update, state, reset)
        return cells, last
    forget = forget.to(state.dtype)
    update = update.to(state.dtype)
    if cpu.fits(update, state):
        return cpu.recurrence_forward(forget, update, state, reset)
    return _loop(forget, update, state, reset)


def _loop(forget: Tensor, update: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    cells = torch.empty(update.shape, dtype=update.dtype, device=update.device)
    last = state
    steps = zip(_keep(forget, reset).unbind(1), update.unbind(1), cells.unbind(1), strict=True)
    for forget_BC, update_BC, cell_BC in steps:  # written in place: one slab after another, nothing copied
        torch.addcmul(update_BC, forget_BC, last, out=cell_BC)
        last = cell_BC
    return cells, last.clone(memory_format=torch.contiguous_format)


@_forward.register_fake
def _(forget: Tensor, update: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    return state.new_empty(update.shape), state.new_empty(state.shape)


@torch.library.custom_op("weft::linear_recurrence_backward", mutates_args=())
def _backward(
    grad_cells: Tensor, grad_last: Tensor, forget: Tensor, state: Tensor, reset: Tensor | None, cells: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    how: Any = triton.recurrence_backward
    if not _on_gpu(cells):
        how = cpu.recurrence_backward if cpu.fits(cells, state) else _loop_backward
        forget = forget.to(cells.dtype)
    grad_forget, grad_update, grad_state = how(grad_cells, grad_last, forget, state, reset, cells)
    return grad_forget, grad_update, grad_state


def _loop_backward(
    grad_cells: Tensor, grad_last: Tensor, forget: Tensor, state: Tensor, reset: Tensor | None, cells: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    grad_update = torch.empty(cells.shape, dtype=cells.dtype, device=cells.device)
    grad_forget = torch.empty_like(grad_update)
    keep_BTC = _keep(forget, reset)
    running = grad_last  # what comes back to the cell from later steps
    steps = zip(grad_cells.unbind(1), keep_BTC.unbind(1), grad_update.unbind(1), strict=True)
    later_keep: Tensor | None = None
    for grad_BC, keep_BC, grad_update_BC in reversed(list(steps)):
        if later_keep is None:
            torch.add(grad_BC, running, out=grad_update_BC)
        else:
            torch.addcmul(grad_BC, later_keep, running, out=grad_update_BC)
        running = grad_update_BC
        later_keep = keep_BC
    if later_keep is not None:
        running = later_keep * running
    torch.mul(grad_update[:, :1], state.unsqueeze(1), out=grad_forget[:, :1])
    torch.mul(grad_update[:, 1:], cells[:, :-1], out=grad_forget[:, 1:])
    if reset is not None:
        grad_forget.masked_fill_(reset.unsqueeze(-1), 0.0)
    return grad_forget, grad_update, running.clone(memory_format=torch.contiguous_format)


@_backward.register_fake
def _(
    grad_cells: Tensor, grad_last: Tensor, forget: Tensor, state: Tensor, reset: Tensor | None, cells: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return cells.new_empty(cells.shape), cells.new_empty(cells.shape), state.new_empty(state.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    forget, _, state, reset = inputs
    ctx.save_for_backward(forget, state, reset, output[0])


def _autograd(ctx: Any, grad_cells: Tensor, grad_last: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    forget, state, reset, cells = ctx.saved_tensors
    grads = torch.ops.weft.linear_recurrence_backward(grad_cells, grad_last, forget, state, reset, cells)
    return grads[0].to(forget.dtype), grads[1].to(forget.dtype), grads[2], None


_forward.register_autograd(_autograd, setup_context=_setup_context)
