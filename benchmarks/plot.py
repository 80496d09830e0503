"""The picture of the table: every ratio as a bar, the ratio asked as a mark, what is more and what is less apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Line, figure
from benchmarks.tables import lines_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MET, MISSED, ASKED, INK = "#2a7f9e", "#d1622b", "#222222", "#333333"
LINE_INCHES = 0.27
TITLES = {"at least": "at least: more is better", "at most": "at most: less is better"}


def draw(results: dict[str, Any], kind: str, path: Path) -> bool:
    """Write the picture; return False where there is nothing to draw."""
    lines = [line for row in results["rows"].values() for line in lines_of(row) if line.bar and line.ratio]
    panels = {sense: [line for line in lines if line.bar and line.bar.sense == sense] for sense in TITLES}
    panels = {sense: found for sense, found in panels.items() if found}
    if not panels:
        return False
    heights = [LINE_INCHES * (len(found) + 1.5) for found in panels.values()]
    canvas, axes = stacked(heights, width=11, title=1.2)
    for ax, (sense, found) in zip(axes, panels.items(), strict=True):
        _panel(ax, TITLES[sense], found)
    title = f"Measured ratios, {kind.upper()}: thick marks are the bars asked, thin lines 95 % intervals"
    canvas.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    save(canvas, path)
    return True


def stacked(heights: Sequence[float], *, width: float, title: float) -> tuple[Figure, list[Axes]]:
    """Return a picture of panels one below the other, their ``heights`` and that of a title above in inches."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    size = (width, sum(heights) + title)
    canvas, axes = plt.subplots(
        len(heights), 1, figsize=size, height_ratios=heights, layout="constrained", squeeze=False
    )
    return canvas, list(axes[:, 0])


def save(canvas: Figure, path: Path) -> None:
    """Write a picture and let it go."""
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


def _panel(ax: Axes, title: str, lines: list[Line]) -> None:
    """Draw one bar a line on a logarithmic axis, from 1: a bar's length is how far the ratio is from equal."""
    values = [end for line in lines if line.ratio for end in (line.ratio.value, line.ratio.low)]
    asked = [line.bar.value for line in lines if line.bar]
    low, high = min(*values, *asked, 1.0), max(*values, *asked, 1.0)
    ax.set_xscale("log")
    ax.set_xlim(low / 1.25, high * (high / low) ** 0.25 * 1.3)
    for place, line in enumerate(lines):
        _bar(ax, place, line)
    ax.axvline(1.0, color="#999999", lw=0.8, zorder=0)
    ax.set_yticks(range(len(lines)), [line.what for line in lines], fontsize=8, color=INK)
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.set_title(title, fontsize=10, loc="left", color=INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    _plain_ticks(ax)


def _bar(ax: Axes, place: int, line: Line) -> None:
    assert line.ratio
    assert line.bar
    value, color = line.ratio.value, MET if line.met else MISSED
    ax.barh(place, value - 1.0, left=1.0, height=0.62, color=color, alpha=0.85)
    ax.plot([line.ratio.low, line.ratio.high], [place, place], color=ASKED, lw=1.0)
    ax.plot([line.bar.value] * 2, [place - 0.42, place + 0.42], color=ASKED, lw=2.0)
    right = max(value, line.ratio.high, line.bar.value, 1.0)
    told = f"{figure(value)}, asked {line.bar.value:g}" + _verdict(line)
    ax.annotate(told, (right, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=7.5, color=color)


def _verdict(line: Line) -> str:
    """Return what the colour does not say."""
    assert line.ratio
    assert line.bar
    if line.met and not line.bar.holds(line.ratio.value):
        return ": another line's bar is met instead"
    return "" if line.met else ": not met"


def _plain_ticks(ax: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = ax.get_xlim()
    steps = (
        (1, 2, 5)
        if high / low > 8
        else (1, 1.5, 2, 3, 5, 7)
        if high / low > 3
        else tuple(n / 10 for n in range(7, 100))
    )
    ax.xaxis.set_major_locator(LogLocator(subs=steps, numticks=30))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", labelsize=8)
