"""The recurrence alone: bytes moved over time, against a plain copy that moves as many.

The bytes are those that must move, each input read once and each output written once: forward reads f and u and writes
c; backward reads the gradient of c, f and c and writes the gradients of f and u. The copy is ``Tensor.copy_`` into a
tensor that is there. Ours makes its outputs anew each time, and autograd's bookkeeping is within its time.

Shapes: B batch, T time, C cell width, G gates of a cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Bar, Sheet, Times, Unit, figure

SHAPES = {
    "cpu": [(16, 512, 512), (1, 8192, 512), (64, 256, 384)],
    "gpu": [(32, 512, 2048), (1, 65536, 1024), (256, 512, 512)],
}
QUICK = [(2, 16, 32)]
ASKED = Bar("at least", 0.7)
GATES = {"fo": 3, "ifo": 4}
RESET_EVERY = 256  # steps, on average


def measure(sheet: Sheet) -> None:
    options = sheet.options
    dtypes = [torch.float32, torch.bfloat16] if options.gpu else [torch.float32]
    for shape in QUICK if options.quick else SHAPES[options.kind]:
        for dtype in dtypes:
            _measure_recurrence(sheet, shape, dtype)
            for pooling in GATES:
                _measure_pooling(sheet, shape, dtype, pooling)
    sheet.notes.append(
        "Bytes that must move over the median time; our operators allocate their outputs in that time, the copy writes "
        "to a tensor that is there."
    )


def _measure_recurrence(sheet: Sheet, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    batch, time, width = shape
    cells, item = batch * time * width, dtype.itemsize
    moved = {"forward": cells * (2 * item + 4), "backward": cells * (4 + item + 4 + 2 * item)}

    def make(way: str) -> Callable[[], Unit]:
        return lambda: _recurrence_unit(sheet, shape, dtype, way)

    _measure_ways(sheet, f"recurrence {_name(shape, dtype)}", moved, make, bar=ASKED)


def _measure_pooling(sheet: Sheet, shape: tuple[int, int, int], dtype: torch.dtype, pooling: str) -> None:
    """Like the recurrence: forward reads the gates, writes h; backward reads both's like and writes the gates'."""
    try:
        from weft.ops import fused_pooling  # noqa: F401
    except ImportError:
        sheet.notes.append("This version has no fused pooling: its lines are left out.")
        return
    batch, time, width = shape
    row, gates = batch * time * width * dtype.itemsize, GATES[pooling]
    moved = {"forward": row * (gates + 1), "backward": row * (2 * gates + 1)}

    def make(way: str) -> Callable[[], Unit]:
        return lambda: _pooling_unit(sheet, shape, dtype, pooling, way)

    _measure_ways(sheet, f"{pooling} pooling {_name(shape, dtype)}", moved, make)


def _measure_ways(
    sheet: Sheet,
    title: str,
    moved: dict[str, int],
    make: Callable[[str], Callable[[], Unit]],
    bar: Bar | None = None,
) -> None:
    race = sheet.race(title)
    for way, size in moved.items():
        race.enter(way, make(way))
        race.enter(f"copy {way}", lambda size=size: _copy(sheet, size))
    times = race.run()
    for way, size in moved.items():
        sheet.line(
            f"{title}, {way}",
            measured=_bandwidths(times, way, size),
            ratio=times.ratio(f"copy {way}", way),
            bar=bar,
        )


def _bandwidths(times: Times, way: str, size: int) -> str:
    rates = [figure(size / times.median(name) / 1e9) for name in (way, f"copy {way}") if name in times]
    return f"{' against '.join(rates)} GB/s" if len(rates) == 2 else ""


def _copy(sheet: Sheet, size: int) -> Unit:
    """Copy half of ``size`` bytes: they are read and written."""
    source = torch.randn(size // 8, device=sheet.options.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _recurrence_unit(sheet: Sheet, shape: tuple[int, int, int], dtype: torch.dtype, way: str) -> Unit:
    from weft.ops import linear_recurrence

    forget, update, state, reset = inputs(shape, dtype, sheet.options.device)
    return _either_way(way, [forget, update], lambda: linear_recurrence(forget, update, state, reset)[0])


def _pooling_unit(sheet: Sheet, shape: tuple[int, int, int], dtype: torch.dtype, pooling: Any, way: str) -> Unit:
    from weft.ops import fused_pooling

    batch, time, width = shape
    _, _, state, reset = inputs(shape, dtype, sheet.options.device)
    gates = torch.randn(batch, time, GATES[pooling] * width, device=sheet.options.device, dtype=dtype)
    gates.requires_grad_()
    return _either_way(way, [gates], lambda: fused_pooling(gates, state, reset, pooling)[0])


def _either_way(way: str, wanted: list[Tensor], forward: Callable[[], Tensor]) -> Unit:
    """Return the forward pass as it is in training, or the backward pass of one made before."""
    if way == "forward":
        return forward
    output = forward()
    grad = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, wanted, grad, retain_graph=True)


def inputs(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return forget gates and updates (which ask for gradients), an initial state and resets."""
    batch, time, width = shape
    forget = torch.randn(shape, device=device).add_(1.0).sigmoid_().to(dtype).requires_grad_()
    update = torch.randn(shape, device=device, dtype=dtype).requires_grad_()
    return (
        forget,
        update,
        torch.randn(batch, width, device=device),
        torch.rand(batch, time, device=device) < 1 / RESET_EVERY,
    )


def _name(shape: tuple[int, int, int], dtype: torch.dtype) -> str:
    return f"{'x'.join(map(str, shape))} {'bf16' if dtype == torch.bfloat16 else 'fp32'}"
