"""The picture of what every question found, from the result files.

python -m benchmarks.efficiency.picture

A panel for each question: a line for each contender, a dot for each text, as the difference to the control in percent
of the validation bits per byte, each at its best rate, means over seeds. The grey band is how far two seeds of one
setting of the study's are apart at most.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.efficiency.questions import QUESTIONS
from benchmarks.efficiency.rates import at_best_rate
from benchmarks.plot import save, stacked
from benchmarks.study.tables import COLORS, CORPORA, NOISE, spreads
from weft.pattern import parse_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS = Path(__file__).parents[1] / "results"
CONTROLS = {"stacking": "shared, from scratch"}  # of the others the first contender
TITLES = {
    "structured": "Structured feed-forwards, equal width and tokens",
    "guided": "Self-guided training of low-rank feed-forwards, equal tokens",
    "wide": "Low rank and wider, equal size",
    "sharing-depth": "Sharing, equal depth, width and tokens",
    "sharing-size": "Sharing, equal size and tokens",
    "ngrams": "Latent bigrams, equal size and time",
    "stacking": "Recurrent stacking, equal width; 500k tokens but where more is said",
}
INK, GRID, LINE_INCHES = "#333333", "#eeeeee", 0.23
LEAST_WIDTH = 1.2  # percent to each side: a smaller difference shall not look large


class Found(NamedTuple):
    """A contender's figure on one text with one budget."""

    text: str
    bytes: bool  # read as bytes, not as subwords
    budget: str  # such as 2M-tokens
    percent: float  # more bits than the control needs
    size: float  # parameters over the control's


def main() -> None:
    """Draw benchmarks/results/efficiency/differences.png."""
    found = {question: lines(question) for question in QUESTIONS}
    draw({question: each for question, each in found.items() if each}, RESULTS / "efficiency" / "differences.png")


def lines(question: str) -> dict[str, list[Found]]:
    """Return what was found for each contender of a question, by its label."""
    by_contender: dict[str, list[Found]] = defaultdict(list)
    paths = (RESULTS / "efficiency").glob(f"{question}-*.json")
    for path in sorted(paths, key=lambda path: parse_count(path.stem.split("-")[-2])):
        *name, tokens, equal = path.stem.removeprefix(f"{question}-").split("-")
        best = at_best_rate(json.loads(path.read_text())["runs"].values())
        bits = {contender: mean(run["validation"] for run in runs) for contender, runs in best.items()}
        if (control := control_of(question)) not in best:
            continue
        for contender, runs in best.items():
            percent = 100 * (bits[contender] / bits[control] - 1)
            size = runs[0]["parameters"] / best[control][0]["parameters"]
            by_contender[contender].append(Found(name[0], "bytes" in name, f"{tokens}-{equal}", percent, size))
    ordered = {name: by_contender[name] for name in QUESTIONS[question] if name in by_contender}
    return _by_budget(question, ordered)


def control_of(question: str) -> str:
    """Return the contender that a question's others are held against."""
    return CONTROLS.get(question, next(iter(QUESTIONS[question])))


def _by_budget(question: str, found: dict[str, list[Found]]) -> dict[str, list[Found]]:
    """Label the lines: with the budget where a question has several, with the size where it is not the control's."""
    told: dict[str, list[Found]] = defaultdict(list)
    for name, points in found.items():
        size = max((point.size for point in points), key=lambda size: abs(size - 1))
        label = _words(name) + (f" ({100 * size:.0f} % of its size)" if abs(size - 1) > 0.02 else "")
        for point in points:
            tokens, equal = point.budget.split("-")
            told[label + {"guided": f", {tokens} tokens", "wide": f", equal {equal}"}.get(question, "")].append(point)
    return dict(told)


def _words(contender: str) -> str:
    return contender.replace("_", "-")


def draw(found: dict[str, dict[str, list[Found]]], path: Path) -> None:
    """Write the picture."""
    from matplotlib.lines import Line2D

    apart = max(spreads(json.loads((RESULTS / "study" / f"{NOISE}.json").read_text())).values())
    heights = [LINE_INCHES * (len(each) + 2.2) for each in found.values()]
    canvas, axes = stacked(heights, width=10, title=0.8)
    for ax, (question, each) in zip(axes, found.items(), strict=True):
        ax.axvspan(-apart, apart, color=GRID, zorder=0)
        _panel(ax, TITLES[question], control_of(question), each)
    marks = [Line2D([], [], marker="o", ls="", color=color, label=CORPORA[text]) for text, color in COLORS.items()]
    marks.append(Line2D([], [], marker="o", ls="", color=INK, fillstyle="none", label="read as bytes"))
    canvas.legend(handles=marks, fontsize=8, frameon=False, ncols=4, loc="outside upper left")
    save(canvas, path)


def _panel(ax: Axes, title: str, control: str, found: dict[str, list[Found]]) -> None:
    ax.axvline(0, color="#999999", lw=0.8, zorder=1)
    for place, points in enumerate(found.values()):
        for point in points:
            color = COLORS[point.text]
            face = "white" if point.bytes else color
            ax.scatter(point.percent, place, s=26, edgecolors=color, facecolors=face, linewidths=1.2, zorder=2)
    percents = [point.percent for points in found.values() for point in points]
    margin = 0.03 * (max(percents) - min(percents))
    ax.set_xlim(min(-LEAST_WIDTH, min(percents) - margin), max(LEAST_WIDTH, max(percents) + margin))
    ax.set_yticks(range(len(found)), list(found), fontsize=8, color=INK)
    ax.set_ylim(len(found) - 0.4, -0.6)
    ax.set_title(title, fontsize=9, loc="left", color=INK)
    told = f"bits per byte against '{_words(control)}' in percent; left is better"
    ax.set_xlabel(told, fontsize=7.5, color=INK)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=7.5)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.grid(axis="y", color=GRID, lw=0.6, zorder=0)


if __name__ == "__main__":
    main()
