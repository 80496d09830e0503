"""The QRNN block (norm, gates, recurrence, output gate, projection, residual) over its matrix products alone.

The products are the same ``torch.mm`` calls, two forward and four backward, into tensors that are there, in the same
precision; the block's time is that of its forward and backward pass with a carried cell and resets.

Shapes: N positions, D model width, C cell width, G gates of a cell.
"""

from __future__ import annotations

import torch

from benchmarks.harness import Bar, Sheet, Unit, figure
from benchmarks.models import Scale, scales, text

ASKED = {
    ("cpu", torch.float32): Bar("at most", 1.10),
    ("cpu", torch.bfloat16): Bar("at most", 1.15),
    ("gpu", torch.bfloat16): Bar("at most", 1.3),
}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def measure(sheet: Sheet) -> None:
    for scale in scales(sheet.options):
        for kind, dtype in ASKED:
            if kind == sheet.options.kind:
                _measure(sheet, scale, dtype)


def _measure(sheet: Sheet, scale: Scale, dtype: torch.dtype) -> None:
    title = f"block of hybrid {scale.size}, {NAMES[dtype]}"
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
        bar=ASKED[sheet.options.kind, dtype],
        note="compiled" if ours == "block compiled" else "",
    )


def _config(scale: Scale):
    import weft

    return weft.sized("hybrid", parameters=scale.size, vocab_size=scale.vocab_size)


def _block(sheet: Sheet, scale: Scale, dtype: torch.dtype, *, compiled: bool) -> Unit:
    from weft.blocks import QRNNBlock
    from weft.layers.state import detach

    config, device = _config(scale), sheet.options.device
    block = QRNNBlock(config).to(device).train()
    called = torch.compile(block, dynamic=False) if compiled else block
    x = torch.randn(scale.batch, scale.context, config.hidden_size, device=device, requires_grad=True)
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
    from weft.blocks import QRNNBlock

    with torch.device("meta"):
        block = QRNNBlock(_config(scale))
    maps = [block.gates] + ([block.output] if block.output is not None else [])
    parts = [_map_products(scale.tokens, m.in_features, m.out_features, dtype, sheet.options.device) for m in maps]

    def unit() -> None:
        for part in parts:
            part()

    return unit


def _map_products(tokens: int, wide: int, narrow: int, dtype: torch.dtype, device: str) -> Unit:
    """Return the three products of one linear map from ``wide`` to ``narrow`` features."""

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    x, weight, grad = new(tokens, wide), new(narrow, wide), new(tokens, narrow)
    y, grad_x, grad_weight = new(tokens, narrow), new(tokens, wide), new(narrow, wide)

    def unit() -> None:
        torch.mm(x, weight.t(), out=y)
        torch.mm(grad, weight, out=grad_x)
        torch.mm(grad.t(), x, out=grad_weight)

    return unit
