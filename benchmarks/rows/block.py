"""The QRNN block (norm, gates, recurrence, output gate, projection, residual) over its matrix products alone.

The products are the same ``torch.mm`` calls, two forward and four backward, into tensors that are there, in the same
precision; the block's time is that of its forward and backward pass with a carried cell and resets. In bf16 its weights
have copies, as in training, where the optimizer writes them.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.harness import Bar, Options, Sheet, Unit, figure
from benchmarks.models import Scale, keep_bf16_copies, precisions, scales, text, weft_model
from benchmarks.products import DTYPES, map_products, together

ASKED = {  # by device, precision and size
    ("cpu", "fp32", "2M"): Bar("at most", 1.15),
    ("cpu", "fp32", "10M"): Bar("at most", 1.10),
    ("cpu", "bf16", "2M"): Bar("at most", 1.8),
    ("cpu", "bf16", "10M"): Bar("at most", 1.5),
    ("gpu", "bf16", "41M"): Bar("at most", 1.3),
    ("gpu", "bf16", "150M"): Bar("at most", 1.3),
}


def measure(sheet: Sheet) -> None:
    for scale in scales(sheet.options):
        for precision in precisions(sheet.options):
            _measure(sheet, scale, precision)


def _measure(sheet: Sheet, scale: Scale, precision: str) -> None:
    dtype = DTYPES[precision]
    title = f"block of hybrid {scale.size}, {precision}"
    race = sheet.race(title)
    race.enter("block", lambda: _block(sheet, scale, dtype, compiled=False))
    if sheet.options.gpu and sheet.options.compiled:
        race.enter("block compiled", lambda: _block(sheet, scale, dtype, compiled=True))
    race.enter("products", lambda: _products(sheet, scale, dtype))
    times = race.run()
    ours = times.fastest(["block", "block compiled"])
    told = [figure(1000 * times.median(name)) for name in (ours, "products") if name is not None and name in times]
    sheet.line(
        title,
        measured=f"{' over '.join(told)} ms" if len(told) == 2 else "",
        ratio=times.ratio(ours, "products"),
        bar=ASKED.get((sheet.options.kind, precision, scale.size)),
        note="compiled" if ours == "block compiled" else "",
    )


def _qrnn(scale: Scale, options: Options) -> Any:
    """Return the first QRNN block of the hybrid."""
    from weft.blocks.qrnn import QRNNBlock

    model = weft_model("hybrid", scale, options)
    return next(block for block in model.blocks if isinstance(block, QRNNBlock))


def _block(sheet: Sheet, scale: Scale, dtype: torch.dtype, *, compiled: bool) -> Unit:
    from weft.layers.state import detach

    device = sheet.options.device
    block = _qrnn(scale, sheet.options)
    if dtype == torch.bfloat16:
        keep_bf16_copies(block)
    called = torch.compile(block, dynamic=False) if compiled else block
    x = torch.randn(scale.batch, scale.context, block.hidden_size, device=device, requires_grad=True)
    grad, (_, _, reset) = torch.randn_like(x), text(scale, sheet.options)
    wanted = [x, *block.parameters()]
    with torch.no_grad():
        state = detach(block(x, None, reset_BT=reset)[1])

    def unit() -> object:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
            y, _ = called(x, state, reset_BT=reset)
        return torch.autograd.grad(y, wanted, grad)

    return unit


def _products(sheet: Sheet, scale: Scale, dtype: torch.dtype) -> Unit:
    """Return the block's products: of the inputs and of the cells, each with its two of the backward pass."""
    block = _qrnn(scale, sheet.options)
    maps = [block.gates] + ([block.output] if block.output is not None else [])
    device = sheet.options.device
    return together([map_products(scale.tokens, m.in_features, m.out_features, dtype, device) for m in maps])
