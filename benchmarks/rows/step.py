"""The step that ``weft train`` takes by default: 8 x 128 tokens, NorMuon, clipping, carried state and resets.

It is measured in the precision that ``weft train`` takes on this machine, and in float32: against peers of as many
parameters at the same shape with AdamW, each as it is and compiled; against the matrix products that it cannot do
without; and with ``--against REVISION`` against itself at that revision, which takes its turns in a process of its own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import models
from benchmarks.default_step import step_of_today
from benchmarks.harness import Bar, Race, Sheet, Times, Unit, figure
from benchmarks.models import Scale
from benchmarks.products import DTYPES, step_products
from benchmarks.rows.training import PEERS, form, forms

OURS, PRODUCTS = "default step", "products"
SIZES = ("500k", "2M", "10M")
SCALES = [Scale(size=size, vocab_size=4096, batch=8, context=128) for size in SIZES]
PEERS_ASKED = {"bf16": Bar("at least", 1.8), "fp32": Bar("at least", 1.3)}
AGAINST_ASKED = {"bf16": Bar("at least", 2.5), "fp32": Bar("at least", 1.2)}
PRODUCTS_ASKED = {"bf16": Bar("at most", 1.8), "fp32": Bar("at most", 1.3)}


def measure(sheet: Sheet) -> None:
    for precision in models.precisions(sheet.options):
        for scale in models.QUICK if sheet.options.quick else SCALES:
            _measure(sheet, scale, precision)
    sheet.notes.append(
        "Ours clips, carries its state and takes resets; peers have fused AdamW without clipping, and see each row as "
        "one document. Products: three of each linear map and of the softmax, into tensors that are there, and Muon's "
        "orthogonalisation in the precision that it chooses; attention's are not among them."
    )
    if not sheet.options.against:
        sheet.notes.append("The step over its own at another revision was not asked for (--against REVISION).")


def _measure(sheet: Sheet, scale: Scale, precision: str) -> None:
    options = sheet.options
    race = sheet.race(f"step {scale.size}, {precision}")
    race.enter(OURS, lambda: _ours(sheet, scale, precision), warmups=4)
    peers = {"Llama": models.llama_step, "x-transformers": models.x_transformers_step}
    for name in PEERS:
        for compiled in (False, True) if options.compiled else (False,):
            make = partial(peers[name], scale, options, compiled=compiled, bf16=precision == "bf16")
            race.enter(forms(name)[compiled], lambda make=make: make()[0], warmups=4)
    race.enter(PRODUCTS, lambda: _products(scale, sheet, precision))
    other = _enter_other(race, scale, precision)
    try:
        times = race.run()
    finally:
        for process in other:
            process.close()
        models.forget_compiled(options)
    _lines(sheet, times, scale, precision)


def _lines(sheet: Sheet, times: Times, scale: Scale, precision: str) -> None:
    against = sheet.options.against
    what = f"{OURS} {scale.size}, {precision}"
    for peer in PEERS:
        fastest = times.fastest(forms(peer))
        sheet.line(
            f"{what}, over {peer}",
            measured=_milliseconds(times, OURS, fastest),
            ratio=times.ratio(fastest, OURS),
            bar=PEERS_ASKED[precision],
            note=form(fastest) if fastest else "",
        )
    if against:
        sheet.line(
            f"{what}, over its own at {against}",
            measured=_milliseconds(times, OURS, against),
            ratio=times.ratio(against, OURS),
            bar=AGAINST_ASKED[precision],
        )
    sheet.line(
        f"{what}, over its products",
        measured=_milliseconds(times, OURS, PRODUCTS),
        ratio=times.ratio(OURS, PRODUCTS),
        bar=PRODUCTS_ASKED[precision],
    )


def _milliseconds(times: Times, *names: str | None) -> str:
    there = [name for name in names if name is not None and name in times]
    told = " against ".join(figure(1000 * times.median(name)) for name in there)
    return f"{told} ms" if len(there) == len(names) else ""


def _settings(scale: Scale, precision: str) -> dict[str, Any]:
    return {"size": scale.size, "vocab_size": scale.vocab_size, "precision": precision}


def _ours(sheet: Sheet, scale: Scale, precision: str) -> Unit:
    step, model = step_of_today([models.text(scale, sheet.options)], **_settings(scale, precision))
    sheet.facts[f"{OURS} {scale.size}"] = models.sizes(model, scale)
    return step


def _products(scale: Scale, sheet: Sheet, precision: str) -> Unit:
    options = sheet.options
    model = models.weft_model("hybrid", scale, options)
    return step_products(model, scale.tokens, DTYPES[precision], options.device)


def _enter_other(race: Race, scale: Scale, precision: str) -> list[Any]:
    """Enter the step at another revision, if one is asked for; return its process, which somebody must close."""
    from benchmarks.revisions import StepProcess

    options = race.options
    started: list[StepProcess] = []

    def start() -> Unit:
        batches = [models.text(scale, options)]
        settings = _settings(scale, precision)
        started.append(StepProcess(Path(options.tree), batches, settings, threads=options.threads))
        return started[0]

    if options.against:
        race.enter(options.against, start, warmups=4)
    return started
