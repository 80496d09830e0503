"""The recurrence and fused QRNN pooling as Triton kernels, for tensors on a GPU.

Time is worked through in chunks, whose reads are under way together and whose values stay in registers; few
long sequences are cut into parts that run side by side (``division``). Triton is imported when one of these
functions is first called, never before, and nothing is compiled until then.

    f:   c_t = f_t c_{t-1} + (1 - f_t) z_t        h_t = c_t
    fo:  the same cell                            h_t = o_t c_t
    ifo: c_t = f_t c_{t-1} + i_t z_t              h_t = o_t c_t

with z = tanh, f, o, i = sigmoid (Bradbury et al. 2017, arXiv 1611.01576). Where ``reset`` is True, the past
counts as zero. Cells are float32, or float64 for float64 inputs. What is returned owns its storage.

Shapes: B batch, T time, N = ceil(T / CHUNK) chunks, C cell width, A gates (2, 3 or 4).
"""

from __future__ import annotations

import functools
import importlib.util
import warnings

import torch
from torch import Tensor

from weft.ops.triton.division import CHUNK

__all__ = ["CHUNK", "available", "pooling_backward", "pooling_forward", "recurrence_backward", "recurrence_forward"]


_FOUND = importlib.util.find_spec("triton") is not None  # a compiler that traces cannot look for modules


def available() -> bool:
    """Say whether Triton is installed and runs here; say so once where it is and does not."""
    return _FOUND and (torch.compiler.is_compiling() or _runs())


@functools.cache
def _runs() -> bool:
    """Try a kernel: Triton asks for a C compiler when it first starts one, and has to fit torch and the driver."""
    try:
        from weft.ops.triton import recurrence

        if torch.cuda.is_available():
            one = torch.ones(1, 1, 1, device="cuda")
            recurrence.forward(one, one, one[:, 0], None)
    except Exception as error:
        first = str(error).strip().splitlines()[:1]
        what = f"Triton does not run here ({type(error).__name__}: {' '.join(first)})"
        warnings.warn(f"{what}, so Weft runs in plain torch, which is slower.", stacklevel=2)
        return False
    return True


def recurrence_forward(forget: Tensor, update: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ``(cells, last)``, (B, T, C) and (B, C), of c_t = f_t * c_{t-1} + u_t.

    ``forget`` and ``update`` are (B, T, C), ``state`` (B, C), ``reset`` boolean (B, T) or None.
    """
    from weft.ops.triton import recurrence

    return recurrence.forward(forget, update, state, reset)


def recurrence_backward(
    grad_cells: Tensor, grad_last: Tensor, forget: Tensor, state: Tensor, reset: Tensor | None, cells: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``forget``, ``update`` (B, T, C) and ``state`` (B, C), in the type of the cells."""
    from weft.ops.triton import recurrence

    return recurrence.backward(grad_cells, grad_last, forget, state, reset, cells)


def pooling_forward(
    gates: Tensor, bias: Tensor | None, cell: Tensor, reset: Tensor | None, pooling: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(hidden, last, starts)`` from pre-activations (B, T, A * C) in the order z, f, o, i.

    ``bias`` (A * C) is added to them; ``cell`` (B, C) is the cell before the first step. ``hidden`` (B, T, C)
    has the type of the gates; ``last`` (B, C) is the cell after the last step; ``starts`` (B, N, C), the
    cells before each chunk, is for the backward pass.
    """
    from weft.ops.triton import pooling as fused

    return fused.forward(gates, bias, cell, reset, pooling)


def pooling_backward(
    grad_hidden: Tensor,
    grad_last: Tensor,
    gates: Tensor,
    bias: Tensor | None,
    starts: Tensor,
    reset: Tensor | None,
    pooling: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the gates (B, T, A * C) in their own type, of the bias and of the first cell (B, C)."""
    from weft.ops.triton import pooling as fused

    return fused.backward(grad_hidden, grad_last, gates, bias, starts, reset, pooling)
