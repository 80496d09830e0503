"""The operator ``weft::linear_recurrence`` in ONNX: a Scan over time, or plain arithmetic for a single step.

The function bodies are translated by onnxscript, not run. Shapes: B batch, T time, C cell width.
"""

from __future__ import annotations

from typing import Any

from onnxscript import BOOL, FLOAT, graph, opset18, script

op: Any = opset18  # its own types know neither subgraphs nor constants as arguments


@script()
def scan_recurrence(forget: FLOAT, update: FLOAT, state: FLOAT) -> tuple[FLOAT, FLOAT]:
    """Return ``(cells_BTC, last_BC)`` of c_t = f_t * c_{t-1} + u_t; T must not be 0."""

    @graph()
    def step(cell, forget_t, update_t):  # type: ignore[no-untyped-def]
        after = op.Add(op.Mul(forget_t, cell), update_t)
        return after, op.Identity(after)

    last, cells = op.Scan(
        state, forget, update, body=step, num_scan_inputs=2, scan_input_axes=[1, 1], scan_output_axes=[1]
    )
    return cells, last


def linear_recurrence(forget: FLOAT, update: FLOAT, state: FLOAT, reset: BOOL | None = None) -> Any:
    """Translate a call of the operator, as :func:`weft.ops.linear_recurrence` documents it."""
    if reset is not None:
        forget = op.Where(op.Unsqueeze(reset, [-1]), 0.0, forget)
    if update.shape[1] != 1:  # type: ignore[index]
        return scan_recurrence(forget, update, state)
    cells = op.Add(op.Mul(forget, op.Unsqueeze(state, [1])), update)
    return cells, op.Squeeze(cells, [1])
