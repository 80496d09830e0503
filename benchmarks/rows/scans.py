"""The recurrence forward and backward, against other packages' scans, each in the layout that it asks for.

Forward and the gradients of both inputs, from zeros and without resets, as that is what all can do. HGRN takes the
logarithm of the forget gate, which is made beforehand. Who gives other values is left out.

Shapes: B batch, T time, C cell width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness import Bar, Race, Sheet, Unit, figure
from benchmarks.rows.recurrence import _name, inputs

SHAPES = {"cpu": [(8, 512, 320), (1, 4096, 512)], "gpu": [(32, 512, 2048), (2, 16384, 1024)]}
QUICK = [(2, 32, 16)]
ASKED = {"cpu": Bar("at least", 3.0), "gpu": Bar("at least", 1.2)}
OURS = "weft"
Scan = Callable[[Tensor, Tensor], Tensor]


def measure(sheet: Sheet) -> None:
    options = sheet.options
    dtypes = [torch.float32, torch.bfloat16] if options.gpu else [torch.float32]
    for shape in QUICK if options.quick else SHAPES[options.kind]:
        for dtype in dtypes:
            _measure(sheet, shape, dtype)


def _measure(sheet: Sheet, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    title = f"scan {_name(shape, dtype)}"
    race, data = sheet.race(title), _Data(shape, dtype, sheet.options.device)
    race.enter(OURS, lambda: data.unit(_ours))
    peers = _on_gpu(race, data) if sheet.options.gpu else _on_cpu(race, data)
    peers += _anywhere(race, data, sheet)
    times = race.run()
    fastest = times.fastest(peers)
    sheet.line(
        f"{title}, over the fastest other",
        measured=""
        if fastest is None or OURS not in times
        else f"{_ms(times.median(OURS))} against {fastest}'s {_ms(times.median(fastest))}",
        ratio=times.ratio(fastest, OURS),
        bar=ASKED[sheet.options.kind],
    )
    for peer in peers:
        if peer in times and peer != fastest:
            sheet.line(f"{title}, over {peer}", measured=_ms(times.median(peer)), ratio=times.ratio(peer, OURS))


class _Data:
    """Inputs and output gradient (B, T, C), what must come out, and units that were seen to give it."""

    def __init__(self, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> None:
        from weft.ops import linear_recurrence_reference

        self.forget, self.update, _, _ = inputs(shape, dtype, device)
        self.grad = torch.randn(shape, device=device, dtype=dtype)
        cells = linear_recurrence_reference(self.forget, self.update)[0]
        grads = torch.autograd.grad(cells, [self.forget, self.update], self.grad.float())
        self.expected = [cells.detach(), *grads]
        self.tolerance = 3e-2 if dtype == torch.bfloat16 else 1e-3

    def unit(self, scan: Scan, *, last_is_time: bool = False, logarithm: bool = False) -> Unit:
        """Return ``scan`` of the inputs in its layout, forward and backward."""

        def laid_out(x: Tensor) -> Tensor:
            return (x.transpose(1, 2) if last_is_time else x).detach().contiguous()

        forget, update, grad = (laid_out(x) for x in (self.forget, self.update, self.grad))
        given = forget.float().log().to(forget.dtype) if logarithm else forget
        given.requires_grad_()
        update.requires_grad_()

        def unit() -> tuple[Tensor, ...]:
            cells = scan(given, update)
            return cells, *torch.autograd.grad(cells, [given, update], grad.to(cells.dtype))

        cells, grad_forget, grad_update = unit()
        if logarithm:
            grad_forget = grad_forget / forget  # of the gate, from that of its logarithm
        self._check([laid_out(x) if last_is_time else x for x in (cells, grad_forget, grad_update)])
        return unit

    def _check(self, found: list[Tensor]) -> None:
        for name, got, wanted in zip(("cells", "forget's", "update's"), found, self.expected, strict=True):
            off = float((got.detach().float() - wanted).abs().max() / wanted.abs().max())
            if not off <= self.tolerance:
                raise ValueError(f"other values: {name} differ by {off:.2g} of the largest")


def _ours(forget: Tensor, update: Tensor) -> Tensor:
    from weft.ops import linear_recurrence

    return linear_recurrence(forget, update)[0]


def _anywhere(race: Race, data: _Data, sheet: Sheet) -> list[str]:
    """Enter torch's own scan and the loop that autograd sees."""
    mode = "pointwise" if sheet.options.gpu else "generic"

    def scan(forget: Tensor, update: Tensor) -> Tensor:
        from torch._higher_order_ops.associative_scan import associative_scan

        return associative_scan(_combine, (forget, update), dim=1, combine_mode=mode)[1]

    names = ["unbind loop"]
    race.enter(names[0], lambda: data.unit(_loop))
    if not sheet.options.gpu:
        names.append("associative_scan")
        race.enter(names[-1], lambda: data.unit(scan))
    if sheet.options.compiled:
        names.append("associative_scan compiled")
        race.enter(names[-1], lambda: data.unit(torch.compile(scan, dynamic=False)))
    return names


def _combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return left[0] * right[0], right[0] * left[1] + right[1]


def _loop(forget: Tensor, update: Tensor) -> Tensor:
    cell, cells = torch.zeros_like(update[:, 0]), []
    for f, u in zip(forget.unbind(1), update.unbind(1), strict=True):
        cell = f * cell + u
        cells.append(cell)
    return torch.stack(cells, dim=1)


def _on_cpu(race: Race, data: _Data) -> list[str]:
    def reference() -> Unit:
        from accelerated_scan.ref import scan

        return data.unit(scan, last_is_time=True)

    race.enter("accelerated_scan.ref", reference)
    return ["accelerated_scan.ref"]


def _on_gpu(race: Race, data: _Data) -> list[str]:
    def warp() -> Unit:
        from accelerated_scan.warp import scan  # compiles with nvcc on its first import

        return data.unit(scan, last_is_time=True)

    def scalar() -> Unit:
        from accelerated_scan.scalar import scan

        return data.unit(scan, last_is_time=True)

    def fused() -> Unit:
        from fla.ops.hgrn import fused_recurrent_hgrn

        return data.unit(lambda log_forget, update: fused_recurrent_hgrn(update, log_forget)[0], logarithm=True)

    def chunked() -> Unit:
        from fla.ops.hgrn import chunk_hgrn

        return data.unit(lambda log_forget, update: chunk_hgrn(update, log_forget)[0], logarithm=True)

    entries = {
        "accelerated_scan.warp": warp,
        "accelerated_scan.scalar": scalar,
        "HGRN fused": fused,
        "HGRN chunked": chunked,
    }
    for name, make in entries.items():
        race.enter(name, make)
    return list(entries)


def _ms(seconds: float) -> str:
    return f"{figure(1000 * seconds)} ms"
