"""From the QRNN's gate pre-activations to its outputs: f, fo and ifo pooling with zoneout.

    f:   c_t = f_t c_{t-1} + (1 - f_t) z_t        h_t = c_t
    fo:  the same cell                            h_t = o_t c_t
    ifo: c_t = f_t c_{t-1} + i_t z_t              h_t = o_t c_t

with z = tanh, f, o, i = sigmoid (Bradbury et al. 2017, arXiv 1611.01576; f is the paper's forget gate).
Shapes: B batch, T time, C cell width, A gates (2, 3 or 4).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from weft.layers.dense import Dense, product
from weft.layers.sites import CELL, FORGET, OUTPUT, UPDATE, VALUE, At
from weft.ops import GATES, Pooling, can_fuse, fused_pooling, linear_recurrence


class GateMap(Dense):
    """A linear map to gates, without its bias: :func:`pool` adds it in the pass that reads the gates anyway."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` W^T."""
        return product(x, self.weight)


def pool(
    gates_BTAC: Tensor,
    bias_AC: Tensor | None,
    cell_BC: Tensor | None,
    reset_BT: Tensor | None,
    pooling: Pooling,
    zoneout: float,
    training: bool,
    at: At | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``(hidden_BTC, cell_BC)`` from pre-activations laid side by side as (B, T, A * C), and their bias.

    Gates and cells are float32 at least. ``zoneout`` is the probability with which a channel keeps its old
    value in training; outside training every update is scaled by ``1 - zoneout``. Where ``at`` wants what the one
    operator never writes down, gates and cells are made one by one.
    """
    looked_at = at is not None and at.wants(FORGET, UPDATE, VALUE, OUTPUT, CELL)
    if zoneout == 0 and not looked_at and can_fuse(gates_BTAC, pooling):
        return fused_pooling(gates_BTAC, cell_BC, reset_BT, pooling, bias_AC)
    gates_BTAC = gates_BTAC.to(torch.promote_types(gates_BTAC.dtype, torch.float32))
    if bias_AC is not None:
        gates_BTAC = gates_BTAC + bias_AC
    z, f, *rest = gates_BTAC.chunk(GATES[pooling], dim=-1)
    forget = f.sigmoid()
    value = z.tanh()
    update_gate = rest[1].sigmoid() if pooling == "ifo" else 1 - forget
    # Zoneout: where ``updated`` is 0 the cell stays as it was, f = 1 and i = 0;
    # outside training, by its mean.
    if zoneout > 0:
        updated = torch.rand_like(forget) >= zoneout if training else torch.full_like(forget, 1 - zoneout)
        forget = 1 - updated * (1 - forget)
        update_gate = updated * update_gate
    cells_BTC, last_BC = linear_recurrence(forget, update_gate * value, cell_BC, reset_BT)
    seen = {FORGET: forget, UPDATE: update_gate, VALUE: value, CELL: cells_BTC}
    hidden_BTC = cells_BTC
    if pooling != "f":
        seen[OUTPUT] = rest[0].sigmoid()
        hidden_BTC = seen[OUTPUT] * cells_BTC
    if at is not None:
        for name, tensor in seen.items():
            at.see(name, tensor)
    return hidden_BTC, last_BC


@torch.no_grad()
def init_forget_bias_(bias_AC: Tensor, pooling: Pooling, longest: float) -> None:
    """Set the gate biases so that channels start with time constants spread from 1 to ``longest`` steps.

    A channel whose gate rests at f forgets with time constant tau = -1 / log f; tau is spaced evenly on a log
    scale. The idea is that of chrono initialisation (Tallec and Ollivier 2018, arXiv 1804.11188). In ifo
    pooling the input gate starts at 1 - f, so that cells keep the scale of their inputs.
    """
    bias_AC.zero_()
    parts = bias_AC.chunk(GATES[pooling])
    tau = torch.logspace(0, math.log10(max(longest, 1.0)), parts[1].shape[0], dtype=torch.float64)
    logits = torch.logit(torch.exp(-1 / tau)).to(bias_AC.dtype)
    # the parts are the biases of z, f, o and i
    parts[1].copy_(logits)
    if pooling == "ifo":
        parts[3].copy_(-logits)
