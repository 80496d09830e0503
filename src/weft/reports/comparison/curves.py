"""The curves of a comparison: validation while training, and what the learning rate does to each architecture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weft.pattern import ARCHITECTURES
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
    free = iter(range(len(named), len(named) + len(study.contenders)))
    styles: dict[str, Style] = {}
    order = {name: place for place, name in enumerate(study.planned)}
    for one in sorted(study.contenders, key=lambda one: (order.get(one.name, len(order)), one.name)):
        if one.is_baseline:
            known = sum(style.color == INK for style in styles.values())
            styles[one.name] = Style(INK, INK, _BASELINE_MARKERS[known % len(_BASELINE_MARKERS)])
        else:
            slot = named.index(one.name) if one.name in named else next(free)
            color = slot % len(SERIES)
            styles[one.name] = Style(SERIES[color], WORDS[color], _MARKERS[slot % len(_MARKERS)])
    return styles


class _Line(NamedTuple):
    contender: Contender
    x: Floats
    y: Floats
    role: str  # "first" seed at the best learning rate, "seed" for the others, "rate" for other learning rates


def curve_plot(study: StudyRecords, by: str, width: int, height: int = 350) -> str:
    """Return validation bits per byte against ``by`` ("tokens" or "seconds"); '' where there are no curves."""
    lines = _lines(study, by)
    if not lines:
        return ""
    minutes = by == "seconds" and max(line.x.max() for line in lines) >= 120
    name = "training tokens" if by == "tokens" else f"{'minutes' if minutes else 'seconds'} of training"
    figure = new_figure(width, height)
    axes = new_axes(figure, "validation bits per byte", name)
    drawn = styles(study)
    ends = [_draw(axes, line, drawn[line.contender.name], 60.0 if minutes else 1.0) for line in lines]
    _limit(axes, lines)
    if by == "tokens":
        count_tokens(axes)
    axes.set_xlim(left=0)
    label_ends(axes, [end for end, line in zip(ends, lines, strict=True) if line.role == "first"])
    return to_svg(figure, f"{by}{width}", f"Validation bits per byte against {name}, {_final(lines)}")


def _final(lines: Sequence[_Line]) -> str:
    """Say in words where the lines end, for those who cannot see them."""
    ends = sorted((float(line.y[-1]), line.contender.label) for line in lines if line.role == "first")
    return "at the end " + ", ".join(f"{name} {bits:.3f}" for bits, name in ends)


def _lines(study: StudyRecords, by: str) -> list[_Line]:
    """Return the curves to draw, faint ones first."""
    lines = []
    for contender in study.contenders:
        own = [curve for curve in study.curves if curve["architecture"] == contender.name]
        known = [(curve, *_points(curve, by)) for curve in own]
        known = [(curve, x, y) for curve, x, y in known if len(x)]
        if known and not any(curve.get("chosen") is True for curve, _, _ in known):
            best = min(range(len(known)), key=lambda place: float(known[place][2][-1]))
            known[best] = ({**known[best][0], "chosen": True}, *known[best][1:])
        chosen = [finite(curve.get("seed")) or 0.0 for curve, _, _ in known if curve.get("chosen") is True]
        for curve, x, y in known:
            first = (finite(curve.get("seed")) or 0.0) == min(chosen)
            role = "rate" if curve.get("chosen") is not True else "first" if first else "seed"
            lines.append(_Line(contender, x, y, role))
    return sorted(lines, key=lambda line: ("rate", "seed", "first").index(line.role))


def _points(curve: Event, by: str) -> tuple[Floats, Floats]:
    given = curve.get("validation")
    events = [event for event in given if isinstance(event, Mapping)] if isinstance(given, list) else []
    x, y = series(events, by, BITS)
    order = np.argsort(x, kind="stable")
    return thinned(x[order], y[order])


def _draw(axes: Axes, line: _Line, style: Style, unit: float) -> Label:
    x = line.x / unit
    dashes = "--" if line.contender.is_baseline else "-"
    width, alpha = {"first": (1.8, 1.0), "seed": (0.9, 0.75), "rate": (0.8, 0.28)}[line.role]
    axes.plot(x, line.y, color=style.color, ls=dashes, lw=width, alpha=alpha)
    if line.role == "first":
        axes.plot(x[-1:], line.y[-1:], color=style.color, marker=style.marker, ms=style.marker_size(5.5))
    return Label(float(x[-1]), float(line.y[-1]), plain(line.contender.label), style.words)


def _limit(axes: Axes, lines: Sequence[_Line]) -> None:
    """Let the first plunge, and learning rates that were not chosen, run out of the picture."""
    best = [line for line in lines if line.role != "rate"]
    settled = np.concatenate([line.y[(line.x >= _SETTLED * line.x[-1])] for line in best])
    low = min(float(line.y.min()) for line in best)
    margin = max(0.05 * (float(settled.max()) - low), 0.01)
    axes.set_ylim(low - margin, float(settled.max()) + margin)


def rate_plot(study: StudyRecords, width: int, columns: int) -> str:
    """Return a small panel for each architecture: validation bits per byte against the learning rate.

    '' where no architecture was tried at two rates.
    """
    shown = [one for one in study.contenders if len(one.rates) > 1 and _by_rate(one)]
    if not shown:
        return ""
    columns = min(columns, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure, panels = _panels(width, rows, columns)
    for panel, one in zip(panels.flat, shown, strict=False):
        style = styles(study)[one.name]
        for other in shown:
            _draw_rates(panel, other, Style(GRID, GRID, ""), 1.0)
        _draw_rates(panel, one, style, 1.8)
        _mark_failed(panel, one)
        panel.set_title(plain(one.label), loc="left", fontsize=10, color=style.words)
        panel.grid(axis="y", color=GRID, lw=0.6)
        undress(panel)
    _frame_panels(list(panels.flat), shown, columns)
    said = "; ".join(f"{one.label} best at {rate_words(one.rate)}" for one in shown if one.rate)
    return to_svg(figure, f"rates{width}", f"Validation bits per byte against the learning rate. {said}")


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
        rate, bits = finite(trial.get("learning_rate")), finite(trial.get(VALIDATION))
        if rate and rate > 0 and bits is not None:
            found.setdefault(rate, []).append(bits)
    return found


def _draw_rates(panel: Axes, contender: Contender, style: Style, lw: float) -> None:
    """Draw the first seed as a line, and where there is a colour the other seeds as dots and the best as a ring."""
    found = _by_rate(contender)
    rates = sorted(found)
    first = [found[rate][0] for rate in rates]
    panel.plot(rates, first, color=style.color, lw=lw, marker=style.marker, ms=style.marker_size(4))
    if not style.marker:
        return
    others = [(rate, bits) for rate in rates for bits in found[rate][1:]]
    panel.plot([rate for rate, _ in others], [bits for _, bits in others], ".", color=style.color, ms=4, alpha=0.7)
    chosen = contender.rate
    best = chosen if chosen in found and chosen else min(rates, key=lambda rate: found[rate][0])
    panel.plot([best], [found[best][0]], "o", ms=10, mfc="none", mec=style.color, mew=1.2)


def _mark_failed(panel: Axes, contender: Contender) -> None:
    """Put a cross at the top where a training run failed."""
    failed = {finite(trial.get("learning_rate")) for trial in contender.trials if trial.get("status") == "failed"}
    for rate in failed:
        if rate is None:
            continue
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
    ticks = rates if len(rates) <= _MOST_RATE_TICKS else [rates[0], rates[len(rates) // 2], rates[-1]]
    for place, panel in enumerate(panels):
        panel.set_visible(place < len(shown))
        panel.set_xscale("log")
        panel.set_xlim(rates[0] / 1.6, rates[-1] * 1.6)
        panel.xaxis.set_major_locator(FixedLocator(ticks))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: rate_words(rate)))
        panel.tick_params(labelbottom=place + columns >= len(shown))
    best = [min(found[0] for found in _by_rate(one).values()) for one in shown]
    everything = [bits for one in shown for found in _by_rate(one).values() for bits in found]
    ceiling = max(best) + max(_CEILING * (max(best) - min(best)), 0.2)
    high = min(ceiling, max(everything))
    margin = 0.12 * max(high - min(everything), 0.02)
    panels[0].set_ylim(min(everything) - margin, high + margin)
