"""Training steps (loss, gradients, AdamW), in tokens per second: hybrid against peers of as many parameters.

Every contender takes part as it is and compiled, where there is a compiler; its faster form counts. On a CPU they are
measured in float32 and, where it is native, in bfloat16 (by autocast).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks import models
from benchmarks.harness import Bar, Ratio, Sheet, Times, Unit, figure
from benchmarks.models import Scale
from benchmarks.products import DTYPES

Make = Callable[[], tuple[Unit, nn.Module]]
ASKED = {  # by precision and size
    ("bf16", "2M"): Bar("at least", 2.0),
    ("bf16", "10M"): Bar("at least", 2.0),
    ("fp32", "2M"): Bar("at least", 1.5),
    ("fp32", "10M"): Bar("at least", 1.35),
    ("bf16", "41M"): Bar("at least", 1.3),
    ("bf16", "150M"): Bar("at least", 1.3),
}
ASKED_OF_PEAK = Bar("at least", 0.35)
OURS, PEERS = "hybrid", ("Llama", "x-transformers")
OTHERS = {"transformer": ("transformer", False), "hybrid with Muon": ("hybrid", True)}  # and: its own optimizer?
PEAK = "matrix products"
PEAK_WIDTH = {"cpu": 2048, "gpu": 8192}


def measure(sheet: Sheet) -> None:
    for precision in models.precisions(sheet.options):
        for scale in models.scales(sheet.options):
            _measure(sheet, scale, precision)
    sheet.notes.append(
        "Ours carries its state and takes resets; peers see each row as one document, without a mask. All have AdamW "
        "(fused), the same tokens and the same precision; peers' losses are over all logits."
    )


def _measure(sheet: Sheet, scale: Scale, precision: str) -> None:
    race = sheet.race(f"training {scale.size}, {precision}")
    for name, make in _contenders(sheet, scale, precision).items():
        race.enter(name, partial(_enter, make, name, scale, sheet), warmups=3)
    race.enter(PEAK, lambda: _products(sheet, precision))
    times = race.run()
    models.forget_compiled(sheet.options)
    size = f"{scale.size}, {precision}"
    ours = times.fastest(forms(OURS))
    for peer in PEERS:
        fastest = times.fastest(forms(peer))
        sheet.line(
            f"training hybrid {size}, over {peer}",
            measured=_rates(times, scale, ours, fastest),
            ratio=times.ratio(fastest, ours),
            bar=ASKED.get((precision, scale.size)),
            note="" if ours is None else form(ours),
        )
    _peak_line(sheet, times, scale, precision)
    for other in OTHERS:
        fastest = times.fastest(forms(other))
        sheet.line(
            f"{other} {size}, over hybrid with AdamW",
            measured=_rates(times, scale, fastest, ours),
            ratio=times.ratio(ours, fastest),
        )


def forms(name: str) -> tuple[str, str]:
    return name, f"{name} compiled"


def form(name: str) -> str:
    return "compiled" if name.endswith(" compiled") else "eager"


def _contenders(sheet: Sheet, scale: Scale, precision: str) -> dict[str, Make]:
    options = sheet.options
    bf16 = precision == "bf16"
    made: dict[str, Make] = {}
    for compiled in (False, True) if options.compiled else (False,):
        ours = partial(models.weft_step, scale=scale, options=options, compiled=compiled, bf16=bf16)
        makes: dict[str, Make] = {
            OURS: partial(ours, "hybrid"),
            "Llama": partial(models.llama_step, scale, options, compiled=compiled, bf16=bf16),
            "x-transformers": partial(models.x_transformers_step, scale, options, compiled=compiled, bf16=bf16),
        }
        if options.gpu or not compiled:  # on a CPU compiling takes long, and these are for information
            makes |= {
                other: partial(ours, architecture, own_optimizer=own) for other, (architecture, own) in OTHERS.items()
            }
        made |= {forms(name)[compiled]: make for name, make in makes.items()}
    return made


def _enter(make: Make, name: str, scale: Scale, sheet: Sheet) -> Unit:
    step, model = make()
    sheet.facts[f"{name} {scale.size}"] = models.sizes(model, scale)
    return step


def _rates(times: Times, scale: Scale, first: str | None, second: str | None) -> str:
    """Return tokens per second of two contenders, and in which form the second was fastest."""
    if first is None or second is None:
        return ""
    one, other = (scale.tokens / times.median(name) for name in (first, second))
    return f"{one:,.0f} against {other:,.0f} ({form(second)}) tokens/s"


def _products(sheet: Sheet, precision: str) -> Unit:
    """Return one large product in the training's precision: the rate that this machine's matrix units reach."""
    options = sheet.options
    width = 64 if options.quick else PEAK_WIDTH[options.kind]
    x, y = (torch.randn(width, width, device=options.device, dtype=DTYPES[precision]) for _ in range(2))
    into = torch.empty_like(x)
    return lambda: torch.mm(x, y, out=into)


def _peak_line(sheet: Sheet, times: Times, scale: Scale, precision: str) -> None:
    """Compare the operations of a step over its time with the rate of the large product."""
    options = sheet.options
    ours = times.fastest(forms(OURS))
    ratio = times.ratio(PEAK, ours)
    if ratio is None or ours is None:
        return
    width = 64 if options.quick else PEAK_WIDTH[options.kind]
    step = scale.tokens * training_operations(scale)
    fraction: Ratio = ratio.scaled(step / (2 * width**3))
    rates = (step / times.median(ours), 2 * width**3 / times.median(PEAK))
    sheet.line(
        f"hybrid {scale.size}, {precision}, operations over the matrix rate measured here",
        measured=f"{' of '.join(figure(rate / 1e9) for rate in rates)} GFLOP/s",
        ratio=fraction,
        bar=ASKED_OF_PEAK if options.gpu and scale.size == "150M" else None,
    )


def training_operations(scale: Scale) -> float:
    """Return a hybrid's operations per token: six for each weight, and attention's, three times those forward."""
    import weft
    from weft.blocks import AttentionBlock
    from weft.model import WeftModel

    with torch.device("meta"):
        model = WeftModel(weft.sized(OURS, parameters=scale.size, vocab_size=scale.vocab_size))
    used = [model.blocks[block] for block in model.schedule]
    maps = sum(m.weight.numel() for block in used for m in block.modules() if isinstance(m, nn.Linear))
    window = model.window + 1
    attention = sum(block.mixing_flops(window) for block in used if isinstance(block, AttentionBlock))
    return 6 * maps + 3 * (model.embedding.flops() + attention)
