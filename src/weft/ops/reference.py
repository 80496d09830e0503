"""The recurrence as a plain loop: slow, obvious, differentiable by autograd alone. It is the truth.

Shapes: B batch, T time, C cell width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def linear_recurrence_reference(
    forget_BTC: Tensor, update_BTC: Tensor, state_BC: Tensor | None = None, reset_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ``(cells_BTC, last_BC)`` with ``c_t = f_t * c_{t-1} + u_t``.

    ``state_BC`` is c before the first step (zeros when None); where ``reset_BT`` is True, c_{t-1} counts as
    zero. Cells are float32 (float64 for float64 inputs), whatever the inputs are.
    """
    dtype = torch.promote_types(update_BTC.dtype, torch.float32)
    batch, _, width = update_BTC.shape
    cell_BC = update_BTC.new_zeros(batch, width, dtype=dtype) if state_BC is None else state_BC.to(dtype)
    cells = []
    for step, (forget_BC, update_BC) in enumerate(zip(forget_BTC.unbind(1), update_BTC.unbind(1), strict=True)):
        if reset_BT is not None:
            cell_BC = cell_BC.masked_fill(reset_BT[:, step, None], 0.0)
        cell_BC = forget_BC.to(dtype) * cell_BC + update_BC.to(dtype)
        cells.append(cell_BC)
    cells_BTC = torch.stack(cells, dim=1) if cells else update_BTC.new_zeros(batch, 0, width, dtype=dtype)
    return cells_BTC, cell_BC.clone()
