"""The report of a comparison: one page that needs nothing else, and the table to quote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from weft.files import write_atomic
from weft.records import REPORT, TABLE
from weft.reports.comparison.records import StudyRecords, read_study
from weft.reports.comparison.table import (
    EDGE_NOTE,
    KEY,
    TRIAL_HEADINGS,
    TRIAL_WORDS,
    Column,
    all_trials,
    any_edge,
    cost_columns,
    is_chosen,
    markdown,
    quality_columns,
    trial_cells,
)
from weft.reports.comparison.words import budget, command, facts, finding, notes
from weft.reports.page import page, text

# Widths of plots in SVG units, in which text has 10.
_WIDE = 700
_NARROW = 400
_HALF = 345
_MOST_IN_HALF = 10  # architectures, whose names find room in half the width
_TRAINING = "training_tokens_per_second"
_GENERATION = "generation_tokens_per_second"


def write_comparison(folder: Path) -> Path:
    """Write ``table.md`` and ``report.html`` into the folder of a comparison and return the report's path.

    Whatever the study has not made yet is left out. Raises UserError where there is no such folder.
    """
    study = read_study(folder)
    write_atomic(folder / TABLE, markdown(study))
    write_atomic(folder / REPORT, render_comparison(study))
    return folder / REPORT


def render_comparison(study: StudyRecords) -> str:
    """Return the page."""
    sections = (
        ("", _headline(study)),
        ("Result", _result(study)),
        ("Training", _training(study)),
        ("Learning rate", _rates(study)),
        ("Quality against speed", _pareto(study)),
        ("Size, speed and memory", _cost(study)),
        ("Every training run", _trials(study)),
        ("How it was done", _method(study)),
    )
    return page(study.name, _subtitle(study), sections)


def _subtitle(study: StudyRecords) -> str:
    known = facts(study)
    parts = ["Comparison of architectures", known.get("corpus"), budget(study), known.get("versions")]
    said = " · ".join(text(part) for part in parts if part)
    return f"<p>{said}</p>"


def _headline(study: StudyRecords) -> str:
    said = f'<p class="finding">{text(finding(study))}</p>'
    items = "".join(f"<li>{text(note)}</li>" for note in notes(study))
    if items:
        said += f"<ul class=notes>{items}</ul>"
    return said


def _result(study: StudyRecords) -> str:
    from weft.reports.comparison.plots import result_plot

    if not study.contenders:
        return ""
    plot = _responsive(result_plot(study, _WIDE), result_plot(study, _NARROW))
    note = "Each marker is a seed, the upright stroke their mean; lower (further left) is better."
    edges = f'<p class="note">{EDGE_NOTE}</p>' if any_edge(study) else ""
    return f"{_noted(plot, note)}{_table(study, quality_columns(study))}{edges}"


def _training(study: StudyRecords) -> str:
    from weft.reports.comparison.curves import curve_plot

    plots = ""
    for by in ("tokens", "seconds"):
        plots += _responsive(curve_plot(study, by, _WIDE), curve_plot(study, by, _NARROW, 320))
    note = (
        "Thick: the first seed at the best learning rate, up to the marker; thin: its other seeds; "
        "faint: other learning rates; dashed: baselines. The steep beginning is cut off."
    )
    return _noted(plots, note)


def _rates(study: StudyRecords) -> str:
    from weft.reports.comparison.curves import rate_plot

    plot = _responsive(rate_plot(study, _WIDE, 4), rate_plot(study, _NARROW, 2))
    note = (
        "Validation bits per byte by learning rate (logarithmic), the others in grey. A ring: the rate that was "
        "chosen, on validation with the first seed; dots: other seeds. Where the ring is at an end, a rate beyond it "
        "may be better. What is far worse runs out of the picture."
    )
    return _noted(plot, note)


def _pareto(study: StudyRecords) -> str:
    from weft.reports.comparison.plots import pareto_plot

    speeds = ((_GENERATION, "generation"), (_TRAINING, "training"))
    if len(study.measured) > _MOST_IN_HALF:
        shown = ""
        for key, name in speeds:
            wide = pareto_plot(study, key, name, _WIDE, 360)
            shown += _responsive(wide, pareto_plot(study, key, name, _NARROW))
    else:
        shown = _pairs([pareto_plot(study, key, name, _HALF) for key, name in speeds])
    note = "The dashed stairs are the frontier: nothing measured is both faster and better than what stands on it."
    return _noted(shown, note)


def _cost(study: StudyRecords) -> str:
    from weft.reports.comparison.plots import parameter_plot, speed_plot, state_plot

    if not study.contenders:
        return ""
    plots = [
        parameter_plot(study, _HALF),
        state_plot(study, _HALF),
        speed_plot(study, _TRAINING, "training", _HALF),
        speed_plot(study, _GENERATION, "generation", _HALF),
    ]
    note = "In the order of the result. Speeds are means over the seeds; the line at the end of a bar spans them."
    return f"{_noted(_pairs(plots), note)}{_table(study, cost_columns(study))}"


def _trials(study: StudyRecords) -> str:
    rows = []
    for one, trial in all_trials(study):
        kind = "chosen" if is_chosen(trial, one) else ""
        rows.append((kind, (one.label, *trial_cells(trial, one))))
    if not rows:
        return ""
    note = '<p class="note">Those in bold count in the result.</p>'
    return note + _grid(("architecture", *TRIAL_HEADINGS), TRIAL_WORDS, rows)


def _method(study: StudyRecords) -> str:
    said = ""
    rows = ""
    for name, value in facts(study).items():
        rows += f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
    if rows:
        said += f"<dl class=facts>{rows}</dl>"
    again = command(study)
    if again:
        said += f"<p>Again, with the same texts:</p><pre>{text(again)}</pre>"
    return said


def _table(study: StudyRecords, columns: Sequence[Column]) -> str:
    rows = []
    for one in study.contenders:
        kind = "best" if one in study.measured[:1] else ""
        rows.append((kind, [one.label, *(column.cell(one) for column in columns)]))
    headings = ["architecture", *(column.heading for column in columns)]
    return _grid(headings, [True, *(column.words for column in columns)], rows)


def _grid(headings: Sequence[str], words: Sequence[bool], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a table; ``words`` says which columns hold words, ``rows`` are CSS classes and cells.

    A narrow page shows each row as a paragraph (see ``.stacked`` in the style sheet), so each cell says its heading.
    """
    heads = ""
    attributes = []  # of the cells of each column
    for name, left in zip(headings, words, strict=True):
        side = _side(name, left)
        heads += f'<th scope="col"{side}>{text(name)}</th>'
        attributes.append(f'{side} data-label="{text(name)}"')
    body = "".join(f'<tr class="{kind}">{_cells(cells, attributes)}</tr>' for kind, cells in rows)
    table = f'<table class="study stacked"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _side(heading: str, words: bool) -> str:
    """Return the class of a column's cells."""
    if heading == KEY:
        return ' class="key"'
    return ' class="words"' if words else ""


def _cells(cells: Sequence[str], attributes: Sequence[str]) -> str:
    """Return the cells of a row; the first one is its heading."""
    row = f'<th scope="row">{text(cells[0])}</th>'
    for cell, own in zip(cells[1:], attributes[1:], strict=True):
        row += f"<td{own}>{text(cell)}</td>"
    return row


def _responsive(wide: str, narrow: str) -> str:
    """Return a plot in two widths, of which the style sheet shows the one that fits."""
    if not wide:
        return ""
    return f'<figure class="wide">{wide}</figure><figure class="narrow">{narrow}</figure>'


def _pairs(plots: Sequence[str]) -> str:
    figures = "".join(f"<figure>{plot}</figure>" for plot in plots if plot)
    return f'<div class="pairs">{figures}</div>' if figures else ""


def _noted(plot: str, note: str) -> str:
    return f'{plot}<p class="note">{note}</p>' if plot else ""
