"""The figures of a comparison, drawn: how good, how large, how fast, how much is remembered, what is bought by what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from weft.reports.comparison.curves import Style, styles
from weft.reports.comparison.records import Contender, StudyRecords
from weft.reports.comparison.words import context
from weft.reports.labels import Label, label_ends, label_points, plain
from weft.reports.svg import INK, MUTED, new_axes, new_figure, to_svg
from weft.words import count, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 21  # height of a row of a chart with names, in SVG units
_WIDE = 4.0  # values further apart than this many times stand on a logarithmic axis


def result_plot(study: StudyRecords, width: int) -> str:
    """Return the test figure of every seed as a marker and their mean as a tick; '' where nothing was measured."""
    shown = study.measured
    if not shown:
        return ""
    axes = _rows(shown, width, "test bits per byte (the axis does not start at zero)", extra=5)
    everything = [bits for one in shown for bits in one.bits]
    for place, one in enumerate(shown):
        _draw_seeds(axes, place, one, styles(study)[one.name])
    reach = max(max(everything) - min(everything), 0.02)
    middle = (max(everything) + min(everything)) / 2
    # The means are written at the right, so there is more room.
    axes.set_xlim(middle - 0.58 * reach, middle + 0.66 * reach)
    _break_axis(axes)
    said = ", ".join(f"{one.label} {one.mean():.3f}" for one in shown)
    return to_svg(axes.figure, f"result{width}", f"Test bits per byte, lower is better: {said}")  # type: ignore[arg-type]


def _draw_seeds(axes: Axes, place: int, one: Contender, style: Style) -> None:
    """Draw a marker for each seed, from the first above to the last below, so that none hides another."""
    bits = one.bits
    mean = one.mean() or 0.0
    axes.plot([min(bits), max(bits)], [place, place], color=style.color, lw=1.2, solid_capstyle="butt")
    aside = np.array([place])
    if len(bits) > 1:
        aside = place + np.linspace(-0.16, 0.16, len(bits))
    axes.plot(bits, aside, ls="", marker=style.marker, ms=style.marker_size(5.5), color=style.color, alpha=0.85)
    if len(bits) > 1:
        axes.plot([mean, mean], [place - 0.4, place + 0.4], color=INK, lw=1.2)
    _beside(axes, max(bits), place, f"{mean:.3f}", gap=8)


def _break_axis(axes: Axes) -> None:
    """Mark with two strokes that the axis begins somewhere else than at zero."""
    axes.annotate(
        "//", (0, 0), xycoords="axes fraction", xytext=(3, 0), textcoords="offset points", va="center", color=MUTED
    )


def parameter_plot(study: StudyRecords, width: int) -> str:
    """Return parameters with and without embeddings as bars; '' where they are not known."""
    shown = [one for one in study.contenders if one.mean("parameters")]
    if not shown:
        return ""
    axes = _rows(shown, width, "parameters: without embeddings (full), with (light)")
    said = []
    for place, one in enumerate(shown):
        color = styles(study)[one.name].color
        whole = one.mean("parameters") or 0.0
        body = one.mean("body_parameters") or 0.0
        # The embedding's share stands behind the rest in the same colour, lighter.
        axes.barh(place, body, color=color, height=0.62)
        axes.barh(place, whole - body, left=body, color=color, height=0.62, alpha=0.35)
        words = f"{count(body)} / {count(whole)}" if body else count(whole)
        _beside(axes, whole, place, words)
        said.append(f"{one.label} {words}")
    axes.set_xlim(0, 1.5 * max(one.mean("parameters") or 0.0 for one in shown))
    _count(axes)
    title = f"Parameters without and with embeddings: {', '.join(said)}"
    return to_svg(axes.figure, f"parameters{width}", title)  # type: ignore[arg-type]


def speed_plot(study: StudyRecords, key: str, name: str, width: int) -> str:
    """Return the speed under ``key`` as bars, the seeds' least and most as a line; '' where it is not known."""
    shown = [one for one in study.contenders if one.mean(key)]
    if not shown:
        return ""
    axes = _rows(shown, width, f"{name} tokens per second")
    for place, one in enumerate(shown):
        values = one.values(key)
        axes.barh(place, one.mean(key) or 0.0, color=styles(study)[one.name].color, height=0.62)
        if len(values) > 1:
            axes.plot([min(values), max(values)], [place, place], color=INK, lw=1.2)
        _beside(axes, max(values), place, count(one.mean(key) or 0.0))
    axes.set_xlim(0, 1.2 * max(max(one.values(key)) for one in shown))
    _count(axes)
    said = ", ".join(f"{one.label} {count(one.mean(key) or 0.0)}" for one in shown)
    return to_svg(axes.figure, f"{key}{width}", f"{name} tokens per second: {said}")  # type: ignore[arg-type]


def state_plot(study: StudyRecords, width: int) -> str:
    """Return bytes of state against the length of the context, both logarithmic; '' where they are not known."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shown = [one for one in study.contenders if one.state_bytes]
    if not shown:
        return ""
    figure = new_figure(width, max(_height(shown), 200))
    axes = new_axes(figure, "bytes of state of one sequence", "tokens of context")
    for one in shown:
        style = styles(study)[one.name]
        lengths, sizes = zip(*one.state_bytes.items(), strict=True)
        dashes = "--" if one.is_baseline else "-"
        axes.plot(lengths, sizes, color=style.color, marker=style.marker, ms=style.marker_size(5), lw=1.5, ls=dashes)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(study.contexts))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda length, _: context(round(length))))
    axes.xaxis.set_minor_locator(NullLocator())
    _size_axis(axes)
    label_ends(axes, [_end(one, styles(study)[one.name]) for one in shown])
    said = "; ".join(f"{one.label} {_states(one)}" for one in shown)
    return to_svg(axes.figure, f"state{width}", f"Bytes of state against the context: {said}")  # type: ignore[arg-type]


def _end(one: Contender, style: Style) -> Label:
    length, last = list(one.state_bytes.items())[-1]
    return Label(length, last, plain(one.label), style.words)


def _states(one: Contender) -> str:
    return ", ".join(f"{size(held)} at {context(length)}" for length, held in one.state_bytes.items())


def _size_axis(axes: Axes) -> None:
    """Write sizes at powers of ten, and between them where there are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    marks = (1, 2, 5) if high / low < 200 else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=marks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda held, _: size(held).replace(".0 ", " ")))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="y", which="minor", left=False)


def pareto_plot(study: StudyRecords, key: str, name: str, width: int, height: int = 300) -> str:
    """Return test bits per byte against the speed under ``key``, with the frontier; '' with fewer than two points."""
    shown = [one for one in study.measured if one.mean(key)]
    if len(shown) < 2:
        return ""
    axes = new_axes(new_figure(width, height), "test bits per byte", f"{name} tokens per second", grid="both")
    points = [(one.mean(key) or 0.0, one.mean() or 0.0) for one in shown]
    best = frontier(points)
    _stretch(axes, points)
    stairs = _draw_frontier(axes, [points[place] for place in best])
    drawn = styles(study)
    labels = []
    for one, (speed, bits) in zip(shown, points, strict=True):
        style = drawn[one.name]
        axes.plot([speed], [bits], ls="", marker=style.marker, ms=style.marker_size(7), color=style.color, zorder=3)
        labels.append(Label(speed, bits, plain(one.label), style.words))
    axes.text(0.99, 0.01, "better ↘", transform=axes.transAxes, ha="right", va="bottom", color=MUTED)
    label_points(axes, labels, stairs)
    said = ", ".join(shown[place].label for place in best)
    title = f"Test bits per byte against {name} tokens per second; no other is better in both than: {said}"
    return to_svg(axes.figure, f"pareto{key}{width}", title)  # type: ignore[arg-type]


def frontier(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the places of the (speed, bits) that no other beats in both, slowest first."""
    order = sorted(range(len(points)), key=lambda place: (-points[place][0], points[place][1]))
    kept: list[int] = []
    for place in order:
        if not kept or points[place][1] < points[kept[-1]][1]:
            kept.append(place)
    return kept[::-1]


def _draw_frontier(axes: Axes, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Draw the border of what was reached as a staircase (at least this fast, at most this many bits); return it."""
    x, y = np.array(points).T
    left = axes.get_xlim()[0]
    top = axes.get_ylim()[1]
    # From point to point to the right and then up: each corner has the speed of one and the bits of the next.
    xs = np.concatenate([[left], np.repeat(x, 2)])
    ys = np.concatenate([np.repeat(y, 2), [top]])
    axes.plot(xs, ys, color=MUTED, lw=1.1, ls="--", zorder=1)
    return list(zip(xs.tolist(), ys.tolist(), strict=True))


def _stretch(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Leave room for labels around the points, and count speeds in powers of ten where they are far apart."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    x, y = np.array(points).T
    margin = 0.14 * max(float(np.ptp(y)), 0.01)  # also where all are equally good
    axes.set_ylim(float(y.min()) - margin, float(y.max()) + margin)
    if x.max() > _WIDE * x.min():
        axes.set_xscale("log")
        axes.set_xlim(float(x.min()) / 1.6, float(x.max()) * 1.6)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", bottom=False)
    else:
        reach = max(float(np.ptp(x)), 0.02 * float(x.max()))
        axes.set_xlim(max(float(x.min()) - 0.18 * reach, 0.0), float(x.max()) + 0.18 * reach)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _height(shown: Sequence[Contender]) -> int:
    return _ROW * len(shown) + 50


def _rows(shown: Sequence[Contender], width: int, title: str, extra: int = 0) -> Axes:
    """Return axes with a row for each contender, best on top."""
    figure = new_figure(width, _height(shown) + extra)
    axes = new_axes(figure, "", grid="x")
    figure.suptitle(title, x=0.0, ha="left", fontsize=10, color=INK)
    axes.set_yticks(range(len(shown)), [plain(one.label) for one in shown], color=INK)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    return axes


def _beside(axes: Axes, x: float, place: int, words: str, gap: int = 5) -> None:
    """Write to the right of ``x`` in the row ``place``."""
    axes.annotate(words, (x, place), xytext=(gap, 0), textcoords="offset points", va="center", color=INK)


def _count(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
