"""The plots of a report: matplotlib figures as inline SVG that takes its colours and font from the page.

Colours are drawn as stand-ins and replaced by CSS variables, so that one picture serves light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weft.study.records import Event, RunRecords, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

INK, MUTED, GRID, TRAIN, VALIDATION, PAPER = (f"#0a0b{n:02x}" for n in range(1, 7))
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    TRAIN: "train",
    VALIDATION: "validation",
    PAPER: "paper",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.unicode_minus": False,
}
MOST_POINTS = 600
_DOTS = 72  # one SVG unit is a point


def loss_plot(run: RunRecords, width: int, height: int = 330) -> str:
    """Return the loss curves against training tokens, minutes along the top; '' where nothing was measured.

    ``width`` and ``height`` are in SVG units; text has 10.
    """
    train, validation = _series(run.train, "bits_per_byte"), _series(run.validation, "bits_per_byte")
    if len(train[0]) + len(validation[0]) == 0:
        return ""
    figure = _figure(width, height)
    axes = _axes(figure, "bits per byte")
    smoothed = _draw_training(axes, *train) if len(train[0]) else train[1]
    if len(validation[0]):
        axes.plot(*validation, color=VALIDATION, lw=1, marker="o", ms=3.5, label="validation")
    _limit_loss(axes, train[1], smoothed, validation[1])
    _mark_best(axes, run.best)
    _count_tokens(axes)
    _add_minutes(axes, run.train + run.validation)
    axes.legend(loc="upper right", frameon=False, labelcolor=INK)
    return _svg(figure, f"loss{width}", "Bits per byte during training")


def series_plot(run: RunRecords, key: str, label: str, width: int = 300, height: int = 170) -> str:
    """Return one measurement of the training events against training tokens; '' where it was never taken."""
    tokens, values = _series(run.train, key)
    if len(tokens) == 0:
        return ""
    from matplotlib.ticker import EngFormatter

    figure = _figure(width, height)
    axes = _axes(figure, label)
    axes.plot(*_thinned(tokens, values), color=TRAIN, lw=1.2)
    axes.set_ylim(bottom=0, top=1.15 * float(np.quantile(values, 0.99)) or 1.0)
    if values.max() >= 1000:
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    _count_tokens(axes)
    return _svg(figure, key, f"{label} during training")


def smooth(values: Floats) -> Floats:
    """Return a centred running mean over about a fortieth of the points (a decaying mean would lag)."""
    reach = len(values) // 80
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    after = np.minimum(np.minimum(at, reach), len(values) - 1 - at)
    before = np.minimum(at, reach)
    smoothed: Floats = (total[at + after + 1] - total[at - before]) / (before + after + 1)
    return smoothed


def _series(events: Sequence[Event], key: str) -> tuple[Floats, Floats]:
    """Return training tokens and values where both are finite numbers."""
    pairs = [(number(event.get("tokens")), number(event.get(key))) for event in events]
    whole = [pair for pair in pairs if None not in pair]
    table = np.array(whole, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _thinned(tokens: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Leave out points that nobody could tell apart, keeping the first and the last."""
    if len(tokens) <= MOST_POINTS:
        return tokens, values
    chosen = np.linspace(0, len(tokens) - 1, MOST_POINTS).round().astype(int)
    return tokens[chosen], values[chosen]


def _figure(width: int, height: int) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _DOTS, height / _DOTS), layout="constrained", facecolor="none")


def _axes(figure: Figure, label: str) -> Axes:
    axes = figure.add_subplot(facecolor="none")
    axes.set_title(label, loc="left", fontsize=10, color=INK)
    axes.set_xlabel("training tokens", color=MUTED)
    axes.grid(axis="y", color=GRID, lw=0.8)
    _undress(axes)
    return axes


def _undress(axes: Axes) -> None:
    """Leave of the frame only what carries information."""
    axes.tick_params(colors=MUTED, length=3, color=GRID)
    axes.yaxis.get_offset_text().set_color(MUTED)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    axes.set_axisbelow(True)


def _draw_training(axes: Axes, tokens: Floats, values: Floats) -> Floats:
    smoothed = smooth(values)
    marker = "o" if len(tokens) == 1 else ""
    axes.plot(*_thinned(tokens, values), color=TRAIN, lw=0.7, alpha=0.4)
    axes.plot(*_thinned(tokens, smoothed), color=TRAIN, lw=1.8, marker=marker, ms=3.5, label="training (smoothed)")
    return smoothed


def _limit_loss(axes: Axes, raw: Floats, smoothed: Floats, validation: Floats) -> None:
    """Let the first plunge run out of the picture, so that the rest can be told apart."""
    settled = smoothed[len(smoothed) // 25 :]
    shown = np.concatenate([settled, validation])
    low = min(shown.min(), np.quantile(raw, 0.01) if len(raw) else np.inf)
    high = shown.max()
    margin = max(0.06 * (high - low), 0.02)
    axes.set_ylim(max(0.0, low - margin), high + margin)


def _mark_best(axes: Axes, best: Event | None) -> None:
    tokens = number(best.get("tokens")) if best else None
    if best is None or tokens is None:
        return
    bits = float(best["bits_per_byte"])
    axes.plot([tokens], [bits], "o", ms=10, mfc="none", mec=VALIDATION, mew=1.6)
    axes.annotate(
        f"best {bits:.3f}, step {best['step']:,}",
        (tokens, bits),
        xytext=(0, 14),
        textcoords="offset points",
        ha="right" if tokens > 0.5 * axes.get_xlim()[1] else "left",
        color=INK,
    )


def _count_tokens(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _add_minutes(axes: Axes, events: Sequence[Event]) -> None:
    """Put the wall time along the top, where events say it: a tick stands at the tokens reached by then."""
    from matplotlib.ticker import MaxNLocator

    tokens, seconds = _series(sorted(events, key=lambda event: float(event["step"])), "seconds")
    if len(tokens) < 2 or seconds.max() <= 0:
        return
    unit, name = (60.0, "minutes") if seconds.max() >= 120 else (1.0, "seconds")
    elapsed = np.maximum.accumulate(seconds) / unit
    ticks = [
        tick
        for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(0, elapsed[-1])
        if elapsed[0] <= tick <= elapsed[-1]
    ]
    top = axes.twiny()
    top.set_xlim(axes.get_xlim())
    top.set_xticks([float(np.interp(tick, elapsed, tokens)) for tick in ticks], [f"{tick:g}" for tick in ticks])
    top.set_xlabel(name, color=MUTED)
    _undress(top)


def _svg(figure: Figure, salt: str, title: str) -> str:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    metadata: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)  # type: ignore[no-untyped-call]
    return _inline(buffer.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Make an SVG file fit to stand in a page: no prologue, no clashing names, the page's colours, font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r"(font: [\d.]+px )[^;\"]*", r"\1sans-serif", svg)  # as older versions of matplotlib write it
    svg = re.sub(r"<[^>]*>", lambda tag: _rounded(tag[0]), svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1).strip()


def _rounded(tag: str) -> str:
    """Write the coordinates of a tag with two digits: the rest is not seen, and half of the file."""
    return re.sub(r"\d+\.\d{3,}", lambda digits: f"{float(digits[0]):.2f}", tag)
