"""The recurrence as a plain loop, and pooling around it: slow, obvious, differentiable by autograd alone: the truth.

Shapes: B batch, T time, C cell width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from weft.ops.gates import GATES


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


def pooling_reference(
    gates_BTAC: Tensor,
    cell_BC: Tensor | None,
    reset_BT: Tensor | None,
    pooling: str,
    bias_AC: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``(hidden_BTC, cell_BC)`` as :func:`weft.ops.fused_pooling` documents it, in float32 or float64."""
    gates = gates_BTAC.to(torch.promote_types(gates_BTAC.dtype, torch.float32))
    if bias_AC is not None:
        gates = gates + bias_AC
    z, f, *rest = gates.chunk(GATES[pooling], dim=-1)
    forget = f.sigmoid()
    input_gate = rest[1].sigmoid() if pooling == "ifo" else 1 - forget
    update = input_gate * z.tanh()
    cells_BTC, last_BC = linear_recurrence_reference(forget, update, cell_BC, reset_BT)
    if pooling == "f":
        return cells_BTC, last_BC
    return rest[0].sigmoid() * cells_BTC, last_BC
