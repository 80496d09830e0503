"""What every plot of a report shares: figures and axes in one style, and SVG that takes colours and font from the page.

Colours are drawn as stand-ins and replaced by CSS variables, so that one picture serves light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from weft.records import Event, finite
from weft.reports.page import text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

# Stand-ins for colours, which nothing else in a picture has: matplotlib knows no CSS variables.
INK, MUTED, GRID, TRAIN, VALIDATION, PAPER = (f"#0a0b{n:02x}" for n in range(1, 7))
SERIES = tuple(f"#0a0c{n:02x}" for n in range(9))  # one colour for each thing that is compared
WORDS = tuple(f"#0a0d{n:02x}" for n in range(9))  # the same, closer to ink: for text
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    TRAIN: "train",
    VALIDATION: "validation",
    PAPER: "paper",
    **{color: f"s{place}" for place, color in enumerate(SERIES)},
    **{color: f"t{place}" for place, color in enumerate(WORDS)},
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.unicode_minus": False,
}
MOST_POINTS = 600
_DOTS = 72  # one SVG unit is a point


def new_figure(width: int, height: int) -> Figure:
    """Return an empty figure; ``width`` and ``height`` are in SVG units, text has 10."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _DOTS, height / _DOTS), layout="constrained", facecolor="none")


def new_axes(figure: Figure, title: str, xlabel: str = "", grid: str = "y") -> Axes:
    """Return the only axes of ``figure``, with the title where a y label would have to be turned."""
    axes = figure.add_subplot(facecolor="none")
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(xlabel, color=MUTED)
    axes.grid(axis=grid, color=GRID, lw=0.8)  # type: ignore[arg-type]
    undress(axes)
    return axes


def undress(axes: Axes) -> None:
    """Leave of the frame only what carries information."""
    axes.tick_params(colors=MUTED, length=3, color=GRID)
    axes.yaxis.get_offset_text().set_color(MUTED)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    axes.set_axisbelow(True)


def series(events: Sequence[Event], x: str, y: str) -> tuple[Floats, Floats]:
    """Return what ``events`` hold under ``x`` and ``y``, where both are finite numbers."""
    pairs = [(finite(event.get(x)), finite(event.get(y))) for event in events]
    whole = [pair for pair in pairs if None not in pair]
    table = np.array(whole, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Leave out points that nobody could tell apart, keeping the first and the last."""
    if len(x) <= MOST_POINTS:
        return x, y
    chosen = np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(int)
    return x[chosen], y[chosen]


def count_tokens(axes: Axes) -> None:
    """Let the x axis count tokens from zero."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def to_svg(figure: Figure, salt: str, title: str) -> str:
    """Return ``figure`` as inline SVG; ``salt`` is a name no other plot of the page has, ``title`` is read aloud."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    metadata: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)  # type: ignore[no-untyped-call]
    return _inline(buffer.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Make an SVG file fit to stand in a page: no prologue, no clashing names, the page's colours, font."""
    # What a file needs and an element of a page does not.
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", svg)
    # Without a size it takes the width of its place, and scales.
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    # Groups have the same names in every plot; what is referred to has names with a salt of its own.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace("xlink:href", "href")
    # The style sheet of the page decides on joints and fonts.
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r"(font: [\d.]+px )[^;\"]*", r"\1sans-serif", svg)  # as older versions of matplotlib write it
    svg = re.sub(r"<[^>]*>", lambda tag: _rounded(tag[0]), svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{text(title)}"', 1).strip()


def _rounded(tag: str) -> str:
    """Write the coordinates of a tag with two digits: the rest is not seen, and half of the file."""
    return re.sub(r"\d+\.\d{3,}", lambda digits: f"{float(digits[0]):.2f}", tag)
