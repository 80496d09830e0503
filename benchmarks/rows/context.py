"""Time per token against context, the memory fixed: reading a text in pieces, and the next token after it."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.harness import Bar, Sheet, Times, Unit, figure
from benchmarks.models import Scale, weft_model

ASKED = Bar("at most", 1.15)
CONTEXTS, QUICK_CONTEXTS = (1024, 4096, 16384, 65536), (32, 64)
PIECE = 512  # tokens read at once
SCALE, QUICK = Scale(size="2M", vocab_size=4096, batch=1), Scale(size="100k", vocab_size=300, batch=1)


def measure(sheet: Sheet) -> None:
    options = sheet.options
    scale = QUICK if options.quick else SCALE
    contexts = QUICK_CONTEXTS if options.quick else CONTEXTS
    model = weft_model("hybrid", scale, options).eval()
    generator = torch.Generator().manual_seed(options.seed)
    text = torch.randint(scale.vocab_size - 2, (1, contexts[-1] + 1), generator=generator).to(options.device)
    _measure_reading(sheet, model, text, contexts)
    _measure_next(sheet, model, text, contexts)


def _measure_reading(sheet: Sheet, model: Any, text: torch.Tensor, contexts: tuple[int, ...]) -> None:
    race = sheet.race("reading")
    for context in contexts:
        race.enter(str(context), lambda context=context: lambda: _read(model, text, context), warmups=1)
    times = race.run()
    for name in times.seconds:  # per token from here on
        times.seconds[name] = [seconds / int(name) for seconds in times.seconds[name]]
    _line(sheet, times, f"reading and scoring in pieces of {PIECE}, slowest over fastest context")


@torch.no_grad()
def _read(model: Any, text: torch.Tensor, context: int) -> Any:
    """Score the first ``context`` tokens and return the state after them."""
    state = None
    for start in range(0, context, PIECE):
        stop = min(start + PIECE, context)
        _, state = model.surprisal(text[:, start:stop], text[:, start + 1 : stop + 1], state)
    return state


def _measure_next(sheet: Sheet, model: Any, text: torch.Tensor, contexts: tuple[int, ...]) -> None:
    race = sheet.race("next token")
    for context in contexts:
        race.enter(str(context), lambda context=context: _next(model, text, context), warmups=10)
    _line(sheet, race.run(), "the next token after it, slowest over fastest context")


def _next(model: Any, text: torch.Tensor, context: int) -> Unit:
    state, token = _read(model, text, context), text[:, context : context + 1]

    @torch.no_grad()
    def unit() -> None:
        model(token, state)

    return unit


def _line(sheet: Sheet, times: Times, what: str) -> None:
    names = list(times.seconds)
    slowest, fastest = max(names, key=times.median, default=None), times.fastest(names)
    told = ", ".join(f"{_k(int(name))}: {figure(1e6 * times.median(name))}" for name in names)
    whole = not times.failures
    sheet.line(what, measured=f"{told} µs a token", ratio=times.ratio(slowest, fastest) if whole else None, bar=ASKED)


def _k(context: int) -> str:
    return f"{context // 1024}k" if context >= 1024 else str(context)
