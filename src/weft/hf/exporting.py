"""What transformers' ONNX exporter must know of Weft: how the recurrence's operator is written in ONNX."""

from __future__ import annotations

import sys

import torch


def teach_exporter() -> None:
    """Give transformers' ONNX exporter our translation, if a graph is being made and the exporter is there.

    It has no other way to hear of an operator that is not torch's own; the graph is made before it is translated.
    """
    if not torch.compiler.is_exporting() or torch.compiler.is_dynamo_compiling():
        return
    exporter = sys.modules.get("transformers.exporters.exporter_onnx")
    table = getattr(exporter, "_ONNX_TRANSLATION_TABLE", None)
    if table is not None:
        from weft.export.recurrence import linear_recurrence

        table.setdefault(torch.ops.weft.linear_recurrence.default, linear_recurrence)
