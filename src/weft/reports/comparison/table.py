"""The tables of a comparison: what stands in a row, and ``table.md``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from weft.records import Event, finite
from weft.reports.comparison.records import BITS, VALIDATION, WITH_MEMORY, Contender, StudyRecords
from weft.reports.comparison.words import command, context, edge, facts, finding, notes, percent, rate_words, spread
from weft.words import size

_BREAKS = re.compile(r"[\r\n]+")
DASH = "–"
KEY = "test bits per byte"  # the column that a comparison is about
EDGES = {"largest": " ↑", "smallest": " ↓"}
EDGE_NOTE = "↑ ↓: the largest, the smallest of the learning rates tried."


class Column(NamedTuple):
    """A column: its heading, the text of a cell, and whether it holds words rather than figures."""

    heading: str
    cell: Callable[[Contender], str]
    words: bool = False


def quality_columns(study: StudyRecords) -> list[Column]:
    """Return the columns that say what was compared and how well it did."""
    best = None
    if study.measured:
        best = study.measured[0].mean()

    def behind(one: Contender) -> str:
        mean = one.mean()
        if mean is None or not best:
            return DASH
        return "best" if mean == best else f"+{percent(mean / best - 1)}"

    return [
        Column("pattern", lambda one: one.pattern or DASH, words=True),
        Column("parameters", _counted("parameters")),
        Column("without embeddings", _counted("body_parameters")),
        Column("learning rate", _rate),
        Column("seeds", lambda one: str(len(one.rows))),
        Column(KEY, lambda one: _figure(one.mean(), 4)),
        Column("least–most of the seeds", spread),
        Column("behind the best", behind),
        *_memory_columns(study),
    ]


def _memory_columns(study: StudyRecords) -> list[Column]:
    """Return the column of the figures with a memory of the training text, where there are some."""
    if not any(one.values(WITH_MEMORY) for one in study.contenders):
        return []
    return [Column("with memory", lambda one: _figure(one.mean(WITH_MEMORY), 4))]


def cost_columns(study: StudyRecords) -> list[Column]:
    """Return the columns that say what it took."""
    return [
        Column("tokens read", _counted("tokens")),
        Column("training seconds", _counted("seconds")),
        Column("training tokens/s", _counted("training_tokens_per_second")),
        Column("generation tokens/s", _counted("generation_tokens_per_second")),
        *(Column(f"state at {context(length)}", _state(length)) for length in study.contexts),
    ]


def terminal_columns(study: StudyRecords) -> list[Column]:
    """Return the columns that fit beside each other on a terminal."""
    wanted = {
        KEY: "mean",
        "least–most of the seeds": "least–most",
        "behind the best": "behind",
        "learning rate": "rate",
        "tokens read": "tokens",
    }
    known = {column.heading: column for column in (*quality_columns(study), *cost_columns(study))}
    return [known[heading]._replace(heading=short) for heading, short in wanted.items()]


TRIAL_HEADINGS = ("learning rate", "seed", "validation bits per byte", KEY, "tokens", "seconds", "")
# Which columns hold words: the architecture, which stands before them, and the last, which says how it went.
TRIAL_WORDS = (True, *[False] * (len(TRIAL_HEADINGS) - 1), True)


def trial_cells(trial: Event, contender: Contender) -> tuple[str, ...]:
    """Return the cells of a training run, as ``TRIAL_HEADINGS`` name them."""
    rate = finite(trial.get("learning_rate"))
    return (
        DASH if rate is None else rate_words(rate),
        _figure(finite(trial.get("seed")), 0),
        _figure(finite(trial.get(VALIDATION)), 4),
        _figure(finite(trial.get(BITS)), 4),
        _figure(finite(trial.get("tokens")), 0),
        _figure(finite(trial.get("seconds")), 0),
        _standing(trial, contender),
    )


def is_chosen(trial: Event, contender: Contender) -> bool:
    """Return whether a training run is one of those that the contender is judged by."""
    return any(_rate_and_seed(row) == _rate_and_seed(trial) for row in contender.rows)


def _rate_and_seed(event: Event) -> tuple[float | None, float | None]:
    return finite(event.get("learning_rate")), finite(event.get("seed"))


def _standing(trial: Event, contender: Contender) -> str:
    status = str(trial.get("status") or "")
    if status == "failed":
        return f"failed: {trial['error']}" if trial.get("error") else "failed"
    if status not in ("", "done"):
        return status
    return "counts" if is_chosen(trial, contender) else ""


def _counted(key: str) -> Callable[[Contender], str]:
    return lambda one: _figure(one.mean(key), 0)


def _state(length: int) -> Callable[[Contender], str]:
    return lambda one: size(one.state_bytes[length]) if length in one.state_bytes else DASH


def _rate(contender: Contender) -> str:
    if contender.rate is None:
        return DASH
    return rate_words(contender.rate) + EDGES.get(edge(contender), "")


def _figure(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:,.{digits}f}"


def markdown(study: StudyRecords) -> str:
    """Return ``table.md``: the finding, the results best first, every training run, and what was held equal."""
    parts = [f"# {_line(study.name)}", f"**{_line(finding(study))}**", _bullets(notes(study))]
    if study.contenders:
        columns = [Column("architecture", lambda one: one.label, words=True)]
        columns += [*quality_columns(study), *cost_columns(study)]
        parts.append(_grid(columns, study.contenders))
        if any_edge(study):
            parts.append(EDGE_NOTE)
    if study.trials:
        parts += ["## Every training run", _trials(study)]
    known = [f"{name}: {value}" for name, value in facts(study).items()]
    if known:
        parts += ["## How it was done", _bullets(known)]
    again = command(study)
    if again:
        parts += ["Again, with the same texts:", f"```sh\n{again}\n```"]
    whole = "\n\n".join(part for part in parts if part)
    # A lone surrogate, which JSON may hold, cannot be written as UTF-8.
    return whole.encode("utf-8", "replace").decode() + "\n"


def any_edge(study: StudyRecords) -> bool:
    """Return whether a best learning rate is marked as the largest or the smallest."""
    return any(edge(contender) in EDGES for contender in study.contenders)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_line(line)}" for line in lines)


def _grid(columns: Sequence[Column], contenders: Sequence[Contender]) -> str:
    """Return a Markdown table, patterns as code."""
    rows = []
    for one in contenders:
        cells = []
        for column in columns:
            cell = column.cell(one)
            shown = _line(cell)
            if column.heading == "pattern" and cell != DASH:
                shown = f"`{shown}`"
            cells.append(shown)
        rows.append(cells)
    return _table([column.heading for column in columns], [column.words for column in columns], rows)


def _trials(study: StudyRecords) -> str:
    rows = []
    for one, trial in all_trials(study):
        cells = (one.label, *trial_cells(trial, one))
        rows.append([_line(cell) for cell in cells])
    return _table(("architecture", *TRIAL_HEADINGS), TRIAL_WORDS, rows)


def all_trials(study: StudyRecords) -> Iterator[tuple[Contender, Event]]:
    """Yield every training run with its contender, best contender first."""
    for contender in study.contenders:
        for trial in contender.trials:
            yield contender, trial


def _table(headings: Sequence[str], words: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; ``words`` says which columns hold words and stand at the left."""
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, *rows)]
    rule = "|"
    for left in words:
        rule += "---|" if left else "---:|"
    lines.insert(1, rule)
    return "\n".join(lines)


def _line(text: str) -> str:
    """Return ``text`` on one line that ends no table cell."""
    return _BREAKS.sub(" ", text).replace("|", "\\|")
