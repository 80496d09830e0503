"""The curves of a comparison: validation while training, and what the learning rate does to each architecture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weft.architectures import ARCHITECTURES
from weft.records import Event, finite
from weft.reports.comparison.records import BITS, VALIDATION, Contender, StudyRecords
from weft.reports.comparison.words import rate_words
from weft.reports.labels import Label, label_ends, plain
from weft.reports.svg import (
    GRID,
    INK,
    MUTED,
    SERIES,
    WORDS,
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
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "p", "<", ">", "h")
_BASELINE_MARKERS = ("*", "X", "d")
_SETTLED = 1 / 3  # of a curve: what comes before may run out of the picture
_CEILING = 2.0  # a learning rate this many times worse than all best ones are apart runs out of the picture
_MOST_RATE_TICKS = 3


class Style(NamedTuple):
    """How an architecture is drawn in every plot: its colour, that of its name, its marker."""

    color: str
    words: str
    marker: str

    def marker_size(self, usual: float) -> float:
        """Return the size at which this marker looks as large as a circle of the ``usual`` size."""
        return usual * {"*": 1.6, "D": 0.85, "s": 0.9, "P": 1.15}.get(self.marker, 1.0)


def styles(study: StudyRecords) -> dict[str, Style]:
    """Return the style of each architecture: those with a name have it in every study, baselines are ink and stars."""
    named = list(ARCHITECTURES)
    next_slot = len(named)  # of a pattern or a variant, in the order of the plan
    next_marker = 0  # of a baseline
    places = {name: place for place, name in enumerate(study.planned)}
    found: dict[str, Style] = {}
    for one in sorted(study.contenders, key=lambda one: (places.get(one.name, len(places)), one.name)):
        if one.is_baseline:
            found[one.name] = Style(INK, INK, _BASELINE_MARKERS[next_marker % len(_BASELINE_MARKERS)])
            next_marker += 1
            continue
        # Colour and marker by the same slot: nine colours and ten markers make ninety different pairs.
        if one.name in named:
            slot = named.index(one.name)
        else:
            slot = next_slot
            next_slot += 1
        color = slot % len(SERIES)
        found[one.name] = Style(SERIES[color], WORDS[color], _MARKERS[slot % len(_MARKERS)])
    return found


class _Line(NamedTuple):
    """A curve to draw, with its ``role``: a key of ``_ROLES``."""

    contender: Contender
    x: Floats
    y: Floats
    role: str


class _Pen(NamedTuple):
    width: float
    alpha: float


# How the curves of an architecture are drawn, faint ones first, so that they lie below.
_ROLES = {
    "rate": _Pen(0.8, 0.28),  # another learning rate
    "seed": _Pen(0.9, 0.75),  # another seed at the best learning rate
    "first": _Pen(1.8, 1.0),  # the first seed at the best learning rate
}


def curve_plot(study: StudyRecords, by: str, width: int, height: int = 350) -> str:
    """Return validation bits per byte against ``by`` ("tokens" or "seconds"); '' where there are no curves."""
    lines = _lines(study, by)
    if not lines:
        return ""
    name = "training tokens"
    unit = 1.0
    if by == "seconds":
        name = "seconds of training"
        if max(line.x.max() for line in lines) >= 120:
            name = "minutes of training"
            unit = 60.0
    figure = new_figure(width, height)
    axes = new_axes(figure, "validation bits per byte", name)
    drawn = styles(study)
    ends = []
    for line in lines:
        end = _draw(axes, line, drawn[line.contender.name], unit)
        if line.role == "first":
            ends.append(end)
    _limit(axes, lines)
    if by == "tokens":
        count_tokens(axes)
    axes.set_xlim(left=0)
    label_ends(axes, ends)
    return to_svg(figure, f"{by}{width}", f"Validation bits per byte against {name}, {_final(lines)}")


def _final(lines: Sequence[_Line]) -> str:
    """Say in words where the lines end, for those who cannot see them."""
    ends = []
    for line in lines:
        if line.role == "first":
            ends.append((float(line.y[-1]), line.contender.label))
    return "at the end " + ", ".join(f"{name} {bits:.3f}" for bits, name in sorted(ends))


def _lines(study: StudyRecords, by: str) -> list[_Line]:
    """Return the curves to draw, faint ones first."""
    lines = []
    for contender in study.contenders:
        lines += _lines_of(contender, study.curves, by)
    order = list(_ROLES)
    return sorted(lines, key=lambda line: order.index(line.role))


def _lines_of(contender: Contender, curves: Iterable[Event], by: str) -> list[_Line]:
    known = []
    for curve in curves:
        if curve["architecture"] == contender.name:
            x, y = _points(curve, by)
            if len(x):
                known.append((curve, x, y))
    if not known:
        return []
    # An unfinished study has chosen no curve yet: then the one that ends lowest stands for it.
    chosen = [curve for curve, _, _ in known if curve.get("chosen") is True]
    if not chosen:
        lowest, _, _ = min(known, key=lambda one: float(one[2][-1]))
        chosen = [lowest]
    first = min(_seed(curve) for curve in chosen)
    lines = []
    for curve, x, y in known:
        if curve not in chosen:
            role = "rate"
        elif _seed(curve) == first:
            role = "first"
        else:
            role = "seed"
        lines.append(_Line(contender, x, y, role))
    return lines


def _seed(curve: Event) -> float:
    return finite(curve.get("seed")) or 0.0


def _points(curve: Event, by: str) -> tuple[Floats, Floats]:
    """Return what was measured (y) after how much of ``by`` (x), in order."""
    given = curve.get("validation")
    events = []
    if isinstance(given, list):
        events = [event for event in given if isinstance(event, Mapping)]
    x, y = series(events, by, BITS)
    order = np.argsort(x, kind="stable")
    return thinned(x[order], y[order])


def _draw(axes: Axes, line: _Line, style: Style, unit: float) -> Label:
    """Draw a curve, with a marker at the end of the first seed's; return the label of its end."""
    x = line.x / unit
    dashes = "--" if line.contender.is_baseline else "-"
    pen = _ROLES[line.role]
    axes.plot(x, line.y, color=style.color, ls=dashes, lw=pen.width, alpha=pen.alpha)
    if line.role == "first":
        axes.plot(x[-1:], line.y[-1:], color=style.color, marker=style.marker, ms=style.marker_size(5.5))
    return Label(float(x[-1]), float(line.y[-1]), plain(line.contender.label), style.words)


def _limit(axes: Axes, lines: Sequence[_Line]) -> None:
    """Let the first plunge, and learning rates that were not chosen, run out of the picture."""
    best = [line for line in lines if line.role != "rate"]
    settled = [line.y[line.x >= _SETTLED * line.x[-1]] for line in best]
    low = min(float(line.y.min()) for line in best)
    high = float(np.concatenate(settled).max())
    margin = max(0.05 * (high - low), 0.01)
    axes.set_ylim(low - margin, high + margin)


def rate_plot(study: StudyRecords, width: int, columns: int) -> str:
    """Return a small panel for each architecture: validation bits per byte against the learning rate.

    '' where no architecture was tried at two rates.
    """
    shown = [one for one in study.contenders if len(one.rates) > 1 and _by_rate(one)]
    if not shown:
        return ""
    columns = min(columns, len(shown))
    figure, panels = _panels(width, math.ceil(len(shown) / columns), columns)
    drawn = styles(study)
    for panel, one in zip(panels.flat, shown, strict=False):
        # All architectures in grey, and the panel's own over them.
        for other in shown:
            _draw_rates(panel, other, Style(GRID, GRID, ""), 1.0)
        _draw_rates(panel, one, drawn[one.name], 1.8)
        _mark_failed(panel, one)
        panel.set_title(plain(one.label), loc="left", fontsize=10, color=drawn[one.name].words)
        panel.grid(axis="y", color=GRID, lw=0.6)
        undress(panel)
    _frame_panels(list(panels.flat), shown, columns)
    best = "; ".join(f"{one.label} best at {rate_words(one.rate)}" for one in shown if one.rate)
    return to_svg(figure, f"rates{width}", f"Validation bits per byte against the learning rate. {best}")


def _panels(width: int, rows: int, columns: int) -> tuple[Figure, Any]:
    """Return a figure and its panels; their places are given, for it takes long to find what is known beforehand."""
    height = 80 + 120 * rows
    places = {"left": 36 / width, "right": 1 - 4 / width, "bottom": 44 / height, "top": 1 - 36 / height}
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    figure.text(0, 1 - 2 / height, "validation bits per byte", va="top", color=INK)
    figure.text(0.5, 4 / height, "learning rate", ha="center", va="bottom", color=MUTED)
    panels = figure.subplots(
        rows,
        columns,
        sharex=True,
        sharey=True,
        squeeze=False,
        subplot_kw={"facecolor": "none"},
        gridspec_kw={**places, "wspace": 0.08, "hspace": 0.3},
    )
    return figure, panels


def _by_rate(contender: Contender) -> dict[float, list[float]]:
    """Return the validation figures at each learning rate, the first seed's first."""
    found: dict[float, list[float]] = {}
    for trial in contender.trials:
        rate = finite(trial.get("learning_rate"))
        bits = finite(trial.get(VALIDATION))
        if rate and rate > 0 and bits is not None:
            found.setdefault(rate, []).append(bits)
    return found


def _draw_rates(panel: Axes, contender: Contender, style: Style, lw: float) -> None:
    """Draw the first seed as a line, and where there is a marker the other seeds as dots and the best as a ring."""
    found = _by_rate(contender)
    rates = sorted(found)
    first = [found[rate][0] for rate in rates]
    panel.plot(rates, first, color=style.color, lw=lw, marker=style.marker, ms=style.marker_size(4))
    if not style.marker:
        return
    x = []
    y = []
    for rate in rates:
        others = found[rate][1:]
        x += [rate] * len(others)
        y += others
    panel.plot(x, y, ".", color=style.color, ms=4, alpha=0.7)
    best = contender.rate
    if not best or best not in found:
        best = min(rates, key=lambda rate: found[rate][0])
    panel.plot([best], [found[best][0]], "o", ms=10, mfc="none", mec=style.color, mew=1.2)


def _mark_failed(panel: Axes, contender: Contender) -> None:
    """Put a cross at the top where a training run failed."""
    failed = set()
    for trial in contender.trials:
        rate = finite(trial.get("learning_rate"))
        if trial.get("status") == "failed" and rate is not None:
            failed.add(rate)
    for rate in failed:
        panel.plot([rate], [0.94], "x", color=INK, ms=6, mew=1.4, transform=panel.get_xaxis_transform())
        panel.annotate(
            "failed",
            (rate, 0.94),
            xycoords=panel.get_xaxis_transform(),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=MUTED,
        )


def _frame_panels(panels: Sequence[Axes], shown: Sequence[Contender], columns: int) -> None:
    """Give all panels the same axes: rates as they were tried, and no more height than the best rates ask for."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    rates = sorted({rate for one in shown for rate in _by_rate(one)})
    ticks = rates
    if len(rates) > _MOST_RATE_TICKS:
        ticks = [rates[0], rates[len(rates) // 2], rates[-1]]
    for place, panel in enumerate(panels):
        panel.set_visible(place < len(shown))
        panel.set_xscale("log")
        panel.set_xlim(rates[0] / 1.6, rates[-1] * 1.6)
        panel.xaxis.set_major_locator(FixedLocator(ticks))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: rate_words(rate)))
        panel.tick_params(labelbottom=place + columns >= len(shown))
    best = []  # of each architecture
    everything = []
    for one in shown:
        figures = list(_by_rate(one).values())
        best.append(min(found[0] for found in figures))
        for found in figures:
            everything += found
    # Rates that are far worse than the best ones run out of the picture.
    ceiling = max(best) + max(_CEILING * (max(best) - min(best)), 0.2)
    high = min(ceiling, max(everything))
    low = min(everything)
    margin = 0.12 * max(high - low, 0.02)
    panels[0].set_ylim(low - margin, high + margin)
