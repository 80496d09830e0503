"""Labels of a plot that do not stand on each other: beside points, or at the ends of lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from weft.reports.svg import MUTED, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CHARACTERS = 24
LINE = 12.5  # height of a label and the gap to the next, in points
_STRANGE = re.compile(r"[^ -~\u00a1-\u024f]")  # letters that the fonts of matplotlib may lack
_MARKER = 5.0  # half of the side of the square that a marker takes, in points
_SWEEPS = 4


class Label(NamedTuple):
    """A text beside the point ``x``, ``y`` of the data."""

    x: float
    y: float
    text: str
    color: str


class _Box(NamedTuple):
    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: _Box) -> float:
        """Return the area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        return max(wide, 0.0) * max(high, 0.0)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)


def plain(text: str) -> str:
    """Return ``text`` fit for a plot: on one line, not too long, nothing that would be read as mathematics."""
    text = _STRANGE.sub("?", text)
    if len(text) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        text = f"{text[: half - 1]}…{text[-half:]}"
    return text.replace("$", r"\$")


def spread(places: Floats, gap: float, low: float, high: float) -> Floats:
    """Move ascending ``places`` as little as possible (in squares) so that neighbours are ``gap`` apart.

    They stay between ``low`` and ``high`` where there is room; where there is none, they share it evenly.
    """
    count = len(places)
    if count == 0:
        return places
    gap = min(gap, (high - low) / max(count - 1, 1))
    steps = gap * np.arange(count)
    # Less the steps, places that are far enough apart are places that do not fall.
    level = _ascending(places - steps)
    moved: Floats = np.clip(level, low, max(low, high - steps[-1])) + steps
    return moved


def _ascending(values: Floats) -> Floats:
    """Return the closest values that never fall (isotonic regression by pooling neighbours)."""
    pools: list[tuple[float, int]] = []  # mean and size of each
    for value in values:
        mean = float(value)
        size = 1
        while pools and pools[-1][0] > mean:
            before, more = pools.pop()
            mean = (mean * size + before * more) / (size + more)
            size += more
        pools.append((mean, size))
    means = [mean for mean, _ in pools]
    return np.repeat(means, [size for _, size in pools])


def label_ends(axes: Axes, labels: Sequence[Label]) -> None:
    """Write ``labels`` one below the other at the right of the axes, each tied to its point."""
    height = _settle(axes)
    to_axes = axes.transData + axes.transAxes.inverted()
    heights = np.array([to_axes.transform((label.x, label.y))[1] for label in labels]).reshape(-1)
    order = np.argsort(heights, kind="stable")
    for place, index in zip(spread(heights[order], LINE / height, 0.0, 1.0), order, strict=True):
        label = labels[index]
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(1.04, float(place)),
            textcoords="axes fraction",
            va="center",
            color=label.color,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": label.color,
                "lw": 0.7,
                "ls": ":",
                "relpos": (0, 0.5),
                "shrinkA": 1,
                "shrinkB": 3,
            },
        )


def label_points(
    axes: Axes, labels: Sequence[Label], line: Sequence[tuple[float, float]] = ()
) -> list[tuple[float, float, float, float]]:
    """Write each label beside its point, away from the other labels, the points and ``line``, and fix the layout.

    ``line`` is a staircase, as the corners that it goes through in the data.
    Returns the boxes (left, bottom, right, top, in points) that the texts take.
    """
    _settle(axes)
    cast("Figure", axes.figure).set_layout_engine("none")
    scale = 72 / axes.figure.dpi  # from pixels to points
    points = [tuple(scale * axes.transData.transform((label.x, label.y))) for label in labels]
    sizes = [_size(axes, label.text) for label in labels]
    frame = _Box(*(scale * value for value in axes.bbox.extents))
    corners = [tuple(scale * axes.transData.transform(corner)) for corner in line]
    boxes = _arrange(points, sizes, frame, corners)
    for label, (x, y), box in zip(labels, points, boxes, strict=True):
        # A label that had to go far is tied to its point by a line.
        line_to_point = None
        if max(box.left - x, x - box.right, box.bottom - y, y - box.top) > 2 * _MARKER:
            line_to_point = {"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 0, "shrinkB": 4}
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(box.left - x, (box.bottom + box.top) / 2 - y),
            textcoords="offset points",
            va="center",
            color=label.color,
            annotation_clip=False,
            arrowprops=line_to_point,
        )
    return [(box.left, box.bottom, box.right, box.top) for box in boxes]


def _settle(axes: Axes) -> float:
    """Run the layout, so that places are known; return the height of the axes in points."""
    figure = cast("Figure", axes.figure)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    return max(float(axes.bbox.height) * 72 / figure.dpi, 1.0)


def _size(axes: Axes, text: str) -> tuple[float, float]:
    probe = axes.text(0, 0, text)
    width = probe.get_window_extent().width * 72 / axes.figure.dpi
    probe.remove()
    return width, LINE


def _arrange(
    points: Sequence[tuple[float, ...]],
    sizes: Sequence[tuple[float, float]],
    frame: _Box,
    corners: Sequence[tuple[float, ...]],
) -> list[_Box]:
    """Choose a box for each point, going over all of them until none gains by moving."""
    # What no label should lie on: the points themselves, and the line between each two corners.
    taken = [_Box(x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER) for x, y in points]
    for (x, y), (to_x, to_y) in pairwise(corners):
        taken.append(_Box(min(x, to_x) - 1, min(y, to_y) - 1, max(x, to_x) + 1, max(y, to_y) + 1))
    choices = [_candidates(point, size) for point, size in zip(points, sizes, strict=True)]
    chosen = [boxes[0] for boxes in choices]
    for _ in range(_SWEEPS):
        for index, boxes in enumerate(choices):
            others = chosen[:index] + chosen[index + 1 :] + taken
            costs = []
            for rank, box in enumerate(boxes):
                covered = sum(box.overlap(other) for other in others)
                outside = box.area - box.overlap(frame)
                # In squares of points: a label that is cut off is worse than one that lies on another.
                costs.append(10 * covered + 30 * outside + rank)
            chosen[index] = boxes[int(np.argmin(costs))]
    return chosen


def _candidates(point: tuple[float, ...], size: tuple[float, float]) -> list[_Box]:
    """Return boxes of ``size`` around ``point``, the most natural first."""
    x, y = point
    width, height = size
    sides = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
    boxes = []
    for distance, (right, up) in product((8.0, 13.0, 20.0, 30.0, 42.0, 56.0), sides):
        left = x + right * distance - (1 - right) * width / 2
        bottom = y + up * (distance + height / 2) - height / 2
        boxes.append(_Box(left, bottom, left + width, bottom + height))
    return boxes
