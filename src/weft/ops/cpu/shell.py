"""A block's shell on a CPU: norm, token shift and cast in one pass, block gate and residual in another.

The equations are those of :mod:`weft.ops.cpu.shell_kernels`. Tensors are contiguous and on the CPU; who calls
makes sure that :func:`weft.ops.cpu.usable` holds. Shapes: B batch, T time, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from weft.ops.cpu import DTYPES, address, bits, by_rows, floats, shares


class Entered(NamedTuple):
    """What a mixer reads (B, T, D), the last norm of each sequence (B, D), and 1 / rms of each row (B T)."""

    h_BTD: Tensor
    last_BD: Tensor
    scales: Tensor


def enter_forward(
    x_BTD: Tensor,
    weight: Tensor,
    share: Tensor | None,
    before_BD: Tensor | None,
    reset_BT: Tensor | None,
    eps: float,
    dtype: torch.dtype,
) -> Entered:
    """Norm rows, and shift them where there is a ``share`` (D); ``before_BD`` is float32, the result ``dtype``."""
    from weft.ops.cpu import shell_entries

    batch, time, width = x_BTD.shape
    h_BTD = torch.empty(x_BTD.shape, dtype=dtype)
    last_BD = torch.empty(batch if share is not None else 0, width, dtype=dtype)
    scales = floats(batch * time)
    kernel = shell_entries.enter_forward[DTYPES.index(dtype)]
    tensors = [x_BTD, weight, share, before_BD, reset_BT, h_BTD, scales, last_BD]
    by_rows(kernel, [*map(address, tensors), time, width, bits(eps)], batch * time, width)
    return Entered(h_BTD, last_BD, scales)


def enter_backward(
    grad_h: Tensor,
    grad_x_after: Tensor | None,
    grad_last: Tensor | None,
    x_BTD: Tensor,
    weight: Tensor,
    share: Tensor | None,
    scales: Tensor,
    before_BD: Tensor | None,
    reset_BT: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight, share and before, all float32; the last two where there is a shift.

    ``grad_x_after`` (B, T, D) is added to that of x; ``grad_last`` (B, D) and it are float32.
    """
    from weft.ops.cpu import shell_entries

    batch, time, width = x_BTD.shape
    rows = batch * time
    parts = shares(rows, width)[0]
    grad_x = torch.empty_like(x_BTD)
    grad_weight = floats(parts, width)
    grad_share = None
    grad_before = None
    if share is not None:
        grad_share = floats(parts, width)
        grad_before = floats(batch, width)
    kernel = shell_entries.enter_backward[DTYPES.index(grad_h.dtype)]
    given = [grad_h, grad_x_after, grad_last, x_BTD, weight, share, scales, before_BD, reset_BT]
    arguments = [*map(address, given), *map(address, [grad_x, grad_weight, grad_share, grad_before]), time, width]
    by_rows(kernel, arguments, rows, width)
    if grad_share is not None:
        grad_share = grad_share.sum(0)
    return grad_x, grad_weight.sum(0), grad_share, grad_before


def leave_forward(x_BTD: Tensor, u_BTD: Tensor, h_BTD: Tensor, weight: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Return what leaves the block, float32, and the sigmoid of each row; ``u_BTD`` and ``h_BTD`` share a dtype."""
    from weft.ops.cpu import shell_entries

    width = x_BTD.shape[-1]
    rows = x_BTD.numel() // width
    y_BTD = torch.empty_like(x_BTD)
    gates = floats(rows)
    kernel = shell_entries.leave_forward[DTYPES.index(u_BTD.dtype)]
    arguments = [*map(address, [x_BTD, u_BTD, h_BTD, weight, gain, y_BTD, gates]), width]
    by_rows(kernel, arguments, rows, width)
    return y_BTD, gates


def leave_backward(
    grad_y: Tensor, u_BTD: Tensor, h_BTD: Tensor, weight: Tensor, gain: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of u and h, in their dtype, and of weight and gain."""
    from weft.ops.cpu import shell_entries

    width = u_BTD.shape[-1]
    rows = u_BTD.numel() // width
    parts = shares(rows, width)[0]
    grad_u = torch.empty_like(u_BTD)
    grad_h = torch.empty_like(h_BTD)
    grad_weight = floats(parts, width)
    grad_gain = floats(parts)
    kernel = shell_entries.leave_backward[DTYPES.index(u_BTD.dtype)]
    tensors = [grad_y, u_BTD, h_BTD, weight, gain, gates, grad_u, grad_h, grad_weight, grad_gain]
    by_rows(kernel, [*map(address, tensors), width], rows, width)
    return grad_u, grad_h, grad_weight.sum(0), grad_gain.sum().reshape(gain.shape)
