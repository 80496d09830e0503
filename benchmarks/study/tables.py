"""The study's tables and pictures, from the folders that ``weft compare`` left.

python -m benchmarks.study.tables runs/study
python -m benchmarks.study.tables                       # those of benchmarks/results/study anew

A run of ``weft compare`` stands in ``runs/study/QUESTION/CORPUS``, CORPUS one of sewiki, slv and hy. For each question
this writes QUESTION.json (every trial), QUESTION.md (the table) and QUESTION.png, beside the runs or into ``--out``.
The first contender of a question is the one that the others are held against. All comparisons are of the validation
text, at each contender's best learning rate; the test text is shown.

How much chance there is, the question ``noise`` says: one setting with several seeds. A difference within the largest
that two of its seeds have on a corpus is none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

NOISE = "noise"
CORPORA = {"sewiki": "Northern Sami", "slv": "Slovene", "hy": "Armenian"}
COLORS = {"sewiki": "#2a7f9e", "slv": "#d1622b", "hy": "#6a4c93"}
KEPT = ("weft_version", "git_revision", "machine", "settings", "trials")


@dataclass(frozen=True)
class Figure:
    """What a contender reached on a corpus: means over its seeds, at its best learning rate."""

    validation: float
    test: float
    speed: float  # training tokens a second
    learning_rate: float
    seeds: int


def main() -> None:
    """Write everything anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", help="none: the tables and pictures of what --out holds")
    parser.add_argument("--out", type=Path, help="where else than beside the runs")
    given = parser.parse_args()
    out: Path = given.out or given.runs or Path(__file__).parents[1] / "results" / "study"
    out.mkdir(parents=True, exist_ok=True)
    for question in sorted(given.runs.iterdir()) if given.runs else ():
        if found := read_runs(question):
            (out / f"{question.name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    studies = {path.stem: json.loads(path.read_text()) for path in sorted(out.glob("*.json"))}
    if not studies:
        parser.error(f"'{given.runs}' holds no QUESTION/CORPUS/results.json: give the folder of the questions.")
    studies = {name: study for name, study in studies.items() if study.keys() <= CORPORA.keys()}  # law.py has another
    spread = spreads(studies.get(NOISE, {}))
    for name, study in studies.items():
        figures = {corpus: figures_of(results) for corpus, results in study.items()}
        (out / f"{name}.md").write_text(table(name, study, figures, spread))
        if name != NOISE:
            draw(name, figures, spread, out / f"{name}.png")


def read_runs(question: Path) -> dict[str, Any]:
    """Return what the comparisons of a question found, by corpus."""
    found = {}
    for corpus in CORPORA:
        path = question / corpus / "results.json"
        if path.is_file():
            found[corpus] = {key: value for key, value in json.loads(path.read_text()).items() if key in KEPT}
    return found


def figures_of(results: Mapping[str, Any]) -> dict[str, Figure]:
    """Return the figure of each contender that was trained to the end, in the order of the file."""
    done: dict[str, list[dict[str, Any]]] = {}
    for trial in results["trials"]:
        if trial["status"] == "done":
            done.setdefault(trial["architecture"], []).append(trial)
    return {name: _figure(trials) for name, trials in done.items()}


def _figure(trials: Sequence[Mapping[str, Any]]) -> Figure:
    rate = min(trials, key=lambda trial: trial["validation_bits_per_byte"])["learning_rate"]
    chosen = [trial for trial in trials if trial["learning_rate"] == rate]
    return Figure(
        validation=mean(trial["validation_bits_per_byte"] for trial in chosen),
        test=mean(trial["bits_per_byte"] for trial in chosen),
        speed=mean(trial["tokens"] / trial["seconds"] for trial in chosen),
        learning_rate=rate,
        seeds=len(chosen),
    )


def spreads(noise: Mapping[str, Any]) -> dict[str, float]:
    """Return, by corpus, the largest difference between two seeds in percent."""
    found = {}
    for corpus, results in noise.items():
        bits = [trial["validation_bits_per_byte"] for trial in results["trials"] if trial["status"] == "done"]
        found[corpus] = 100 * (max(bits) - min(bits)) / mean(bits)
    return found


def difference(figures: Mapping[str, Figure], name: str) -> float:
    """Return how many percent more bits ``name`` needs on the validation text than the first contender does."""
    first = next(iter(figures.values()))
    return 100 * (figures[name].validation / first.validation - 1)


def verdict(name: str, figures: Mapping[str, Mapping[str, Figure]], spread: Mapping[str, float]) -> str:
    """Say in a word whether ``name`` is better or worse than the first on every corpus."""
    signs = set()
    for corpus, found in figures.items():
        if name in found:
            change = difference(found, name)
            signs.add(0 if abs(change) <= spread.get(corpus, 0.0) else (-1 if change < 0 else 1))
    if signs == {-1}:
        return "**better**"
    if signs == {1}:
        return "worse"
    if signs == {0}:
        return "no difference"
    return "undecided" if 0 in signs and len(signs) == 2 else "disagree"


def table(
    name: str,
    study: Mapping[str, Any],
    figures: Mapping[str, Mapping[str, Figure]],
    spread: Mapping[str, float],
) -> str:
    """Return the Markdown table of a question, with what was held equal."""
    lines = [f"# {name}", ""]
    for corpus, results in study.items():
        settings = results["settings"]
        budget = ", ".join(f"{value:g} {key}" for key, value in settings["budget"].items())
        lines.append(
            f"- {CORPORA[corpus]}: {settings['parameters']:,} parameters, {budget}, {settings['corpus']}; "
            f"{_apart(spread.get(corpus))}"
            f"{results['machine']['cpu']}, {results['machine']['threads']} threads; revision {results['git_revision']}."
        )
    heads = [f"{CORPORA[corpus]}, validation | test | tokens/s" for corpus in figures]
    lines += ["", f"| | {' | '.join(heads)} | |", "|---|" + "---:|" * (3 * len(figures)) + "---|"]
    names = dict.fromkeys(contender for found in figures.values() for contender in found)
    for place, contender in enumerate(names):
        cells = [_cells(found, contender, first=place == 0) for found in figures.values()]
        told = "" if place == 0 else verdict(contender, figures, spread)
        lines.append(f"| {contender} | {' | '.join(cells)} | {told} |")
    return "\n".join(lines) + "\n"


def _apart(spread: float | None) -> str:
    return "" if spread is None else f"two seeds of one setting are up to {spread:.2f} % apart; "


def _cells(figures: Mapping[str, Figure], name: str, *, first: bool) -> str:
    if name not in figures:
        return "| |"
    figure = figures[name]
    change = "" if first else f" ({difference(figures, name):+.2f} %)"
    return f"{figure.validation:.4f}{change} | {figure.test:.4f} | {figure.speed:,.0f}"


def draw(name: str, figures: Mapping[str, Mapping[str, Figure]], spread: Mapping[str, float], path: Path) -> None:
    """Write the picture of a question: the difference to the first contender, a dot for each corpus."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(contender for found in figures.values() for contender in found))
    canvas, ax = plt.subplots(figsize=(9, 0.27 * len(names) + 1.1), layout="constrained")
    widest = max(spread.values(), default=0.0)
    ax.axvspan(-widest, widest, color="#eeeeee", zorder=0)
    ax.axvline(0, color="#999999", lw=0.8, zorder=1)
    for corpus, found in figures.items():
        points = [(difference(found, contender), names.index(contender)) for contender in found]
        ax.scatter(*zip(*points, strict=True), color=COLORS[corpus], s=28, label=CORPORA[corpus], zorder=2)
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel(f"validation bits per byte against '{names[0]}' in percent; left is better", fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.tick_params(axis="x", labelsize=8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.grid(axis="y", color="#eeeeee", lw=0.6, zorder=0)
    ax.legend(fontsize=8, frameon=False, ncols=len(figures), loc="lower left", bbox_to_anchor=(0, 1))
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


if __name__ == "__main__":
    main()
