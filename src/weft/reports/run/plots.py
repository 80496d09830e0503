"""The plots of a run's report: the loss, and what was measured beside it, against training tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from weft.records import Event, RunRecords, finite
from weft.reports.svg import (
    INK,
    MUTED,
    TRAIN,
    VALIDATION,
    Floats,
    count_tokens,
    new_axes,
    new_figure,
    series,
    thinned,
    to_svg,
    undress,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def loss_plot(run: RunRecords, width: int, height: int = 330) -> str:
    """Return the loss curves against training tokens, minutes along the top; '' where nothing was measured.

    ``width`` and ``height`` are in SVG units; text has 10.
    """
    tokens, train = series(run.train, "tokens", "bits_per_byte")
    validated_at, validation = series(run.validation, "tokens", "bits_per_byte")
    if len(tokens) + len(validated_at) == 0:
        return ""
    figure = new_figure(width, height)
    axes = new_axes(figure, "bits per byte", "training tokens")
    smoothed = train
    if len(tokens):
        smoothed = _draw_training(axes, tokens, train)
    if len(validated_at):
        axes.plot(validated_at, validation, color=VALIDATION, lw=1, marker="o", ms=3.5, label="validation")
    _limit_loss(axes, train, smoothed, validation)
    _mark_best(axes, run.best)
    count_tokens(axes)
    _add_minutes(axes, run.train + run.validation)
    axes.legend(loc="upper right", frameon=False, labelcolor=INK)
    return to_svg(figure, f"loss{width}", "Bits per byte during training")


def series_plot(run: RunRecords, key: str, label: str, width: int = 300, height: int = 170) -> str:
    """Return one measurement of the training events against training tokens; '' where it was never taken."""
    tokens, values = series(run.train, "tokens", key)
    if len(tokens) == 0:
        return ""
    from matplotlib.ticker import EngFormatter

    figure = new_figure(width, height)
    axes = new_axes(figure, label, "training tokens")
    axes.plot(*thinned(tokens, values), color=TRAIN, lw=1.2)
    # The quantile, since one wild step must not flatten the rest; 1 where all is zero.
    axes.set_ylim(bottom=0, top=1.15 * float(np.quantile(values, 0.99)) or 1.0)
    if values.max() >= 1000:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    count_tokens(axes)
    return to_svg(figure, key, f"{label} during training")


def smooth(values: Floats) -> Floats:
    """Return a centred running mean over about a fortieth of the points (a decaying mean would lag)."""
    reach = len(values) // 80  # to each side
    total = np.concatenate([[0.0], np.cumsum(values)])  # so that a window's sum is one difference
    at = np.arange(len(values))
    # Near the ends the window has fewer points on one side.
    after = np.minimum(np.minimum(at, reach), len(values) - 1 - at)
    before = np.minimum(at, reach)
    smoothed: Floats = (total[at + after + 1] - total[at - before]) / (before + after + 1)
    return smoothed


def _draw_training(axes: Axes, tokens: Floats, values: Floats) -> Floats:
    smoothed = smooth(values)
    marker = "o" if len(tokens) == 1 else ""
    axes.plot(*thinned(tokens, values), color=TRAIN, lw=0.7, alpha=0.4)
    axes.plot(*thinned(tokens, smoothed), color=TRAIN, lw=1.8, marker=marker, ms=3.5, label="training (smoothed)")
    return smoothed


def _limit_loss(axes: Axes, raw: Floats, smoothed: Floats, validation: Floats) -> None:
    """Let the first plunge run out of the picture, so that the rest can be told apart."""
    settled = smoothed[len(smoothed) // 25 :]
    shown = np.concatenate([settled, validation])
    low = shown.min()
    if len(raw):
        low = min(low, np.quantile(raw, 0.01))  # the raw curve swings below the smoothed one
    high = shown.max()
    margin = max(0.06 * (high - low), 0.02)
    axes.set_ylim(max(0.0, low - margin), high + margin)


def _mark_best(axes: Axes, best: Event | None) -> None:
    """Put a ring around the best validation, with words that stay within the picture."""
    if best is None:
        return
    tokens = finite(best.get("tokens"))
    if tokens is None:
        return
    bits = float(best["bits_per_byte"])
    right = tokens > 0.5 * axes.get_xlim()[1]
    axes.plot([tokens], [bits], "o", ms=10, mfc="none", mec=VALIDATION, mew=1.6)
    axes.annotate(
        f"best {bits:.3f}, step {best['step']:,}",
        (tokens, bits),
        xytext=(0, 14),
        textcoords="offset points",
        ha="right" if right else "left",
        color=INK,
    )


def _add_minutes(axes: Axes, events: Sequence[Event]) -> None:
    """Put the wall time along the top, where events say it: a tick stands at the tokens reached by then."""
    from matplotlib.ticker import MaxNLocator

    in_order = sorted(events, key=lambda event: float(event["step"]))
    tokens, seconds = series(in_order, "tokens", "seconds")
    if len(tokens) < 2 or seconds.max() <= 0:
        return
    name = "seconds"
    unit = 1.0
    if seconds.max() >= 120:
        name = "minutes"
        unit = 60.0
    elapsed = np.maximum.accumulate(seconds) / unit  # never falling, as interpolation needs it

    places = []
    words = []
    for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, elapsed[-1]):
        if elapsed[0] <= tick <= elapsed[-1]:
            places.append(float(np.interp(tick, elapsed, tokens)))
            words.append(f"{tick:g}")
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    top.set_xticks(places, words)
    top.set_xlabel(name, color=MUTED)
    undress(top)
