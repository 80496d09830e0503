"""What people see on a terminal: progress, tables, one-sentence errors. Plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from weft.flags import with_flags
from weft.words import figure

if TYPE_CHECKING:
    from weft.description import Description
    from weft.evaluation.compressors import Packed
    from weft.evaluation.metrics import Metrics
    from weft.evaluation.progress import Progress as Far
    from weft.experiments.compare import StudyListener
    from weft.experiments.jobs import Job
    from weft.inside.inspect import Inspection
    from weft.inside.lens import LensFigures, Row
    from weft.training.listener import Listener, Status

STUDY_SECONDS = 20.0  # between words on where a comparison stands
PLAIN_SECONDS = 10.0  # between progress lines where there is no terminal
# What each figure is called, and what it means.
FIGURES = {
    "bits_per_byte": "bits per byte",
    "bits_per_byte_frozen": "bits per byte, frozen weights",
    "bits_per_byte_memory": "bits per byte, frozen weights and memory",
    "repeated_bytes": "bytes of lines that the training text has too",
    "bits_per_byte_new": "bits per byte of the other lines",
    "bits_per_end": "bits for each end of a document (in no other figure)",
    "bits_per_character": "bits per character",
    "perplexity_per_token": "perplexity per token",
    "perplexity_per_word": "perplexity per word",
    "tokens": "tokens scored",
    "bytes": "bytes scored",
    "seconds": "seconds",
}


def listener(console: Console) -> Listener:
    """Return the listener that fits ``console``."""
    return _Bar(console) if console.is_terminal else _Lines(console)


class _Lines:
    """Plain progress lines every so often, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.last = 0.0

    def message(self, text: str) -> None:
        self.console.print(with_flags(text), markup=False, highlight=False, soft_wrap=True)

    def status(self, status: Status) -> None:
        if time.monotonic() - self.last >= PLAIN_SECONDS:
            self.last = time.monotonic()
            self.message(describe_status(status))

    def scoring(self, text: str, progress: Far) -> None:
        if time.monotonic() - max(self.last, progress.started) >= PLAIN_SECONDS:
            self.last = time.monotonic()
            self.message(describe_scoring(text, progress))

    def event(self, record: dict[str, Any]) -> None:
        if record["event"] == "validation":
            best = " (best so far)" if record["best"] else ""
            self.message(f"step {record['step']}: validation {record['bits_per_byte']:.4f} bits per byte{best}")
        elif record["event"] == "skipped":
            self.message(f"step {record['step']}: skipped, the loss was not finite")

    def finish(self) -> None:
        self.last = 0.0


class _Bar(_Lines):
    """A progress bar with step, speed, time left and bits per byte; while a text is scored, one that then goes."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.progress: Progress | None = None

    def status(self, status: Status) -> None:
        self.show(status.done, describe_status(status))

    def scoring(self, text: str, progress: Far) -> None:
        self.show(progress.share, describe_scoring(text, progress), stays=False)

    def show(self, done: float, description: str, stays: bool = True) -> None:
        """Show a bar of which ``done`` is full; it ``stays`` on the terminal after its end or not."""
        if self.progress is None:
            columns: list[ProgressColumn] = [BarColumn(bar_width=24), TextColumn("{task.description}")]
            self.progress = Progress(*columns, console=self.console, transient=not stays)
            self.task = self.progress.add_task("", total=1.0)
            self.progress.start()
        self.progress.update(self.task, completed=done, description=description)

    def finish(self) -> None:
        if self.progress:
            self.progress.stop()
            self.progress = None


@contextmanager
def scoring(console: Console, text: str = "the text") -> Iterator[Callable[[Far], None]]:
    """Show how far the scoring of a text is; yield what is to be told."""
    shown = _Bar(console) if console.is_terminal else _Lines(console)
    try:
        if isinstance(shown, _Bar):
            shown.show(0.0, "reading the text", stays=False)
        yield lambda progress: shown.scoring(text, progress)
    finally:
        shown.finish()


def study_listener(console: Console) -> StudyListener:
    """Return what tells of a comparison: words, and where each running job stands."""
    from weft.experiments.compare import StudyListener

    last = [0.0]
    lines = _Lines(console)

    def tick(jobs: list[Job], done: int, total: int) -> None:
        if time.monotonic() - last[0] < STUDY_SECONDS:
            return
        last[0] = time.monotonic()
        for job in jobs:
            record = job.progress()
            told = "starting"
            if "step" in record:
                told = f"step {record['step']}, {record.get('seconds', 0):.0f} s"
            bits = record.get("bits_per_byte")
            if isinstance(bits, float):
                told += f", training {bits:.3f} bits per byte"
            lines.message(f"[{done + 1} of {total}] {job.name}: {told}")

    return StudyListener(lines.message, tick)


def describe_status(status: Status) -> str:
    """Return a run's standing in one line."""
    left = status.seconds * (1 - status.done) / max(status.done, 1e-9)
    said = f"step {status.step}, {status.tokens_per_second:,.0f} tokens/s, {clock(left)} left, "
    said += f"bits per byte: training {status.train:.3f}"
    if not math.isnan(status.validation):  # before the first one
        said += f", validation {status.validation:.3f}"
    return said


def describe_scoring(text: str, progress: Far) -> str:
    """Return how far the scoring of ``text`` is in one line."""
    said = f"scoring {text}: {progress.share:.0%}"
    if not math.isnan(progress.seconds_left):
        said += f", {clock(progress.seconds_left)} left"
    return said


def clock(seconds: float) -> str:
    """Return minutes and seconds (and hours where there are any)."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}"


def metrics_table(metrics: Metrics, title: str) -> Table:
    """Return the metrics of an evaluation as a table."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    told = metrics.to_json()
    for key, name in FIGURES.items():
        if key in told:
            value = told[key]
            table.add_row(name, "-" if value is None else metric_text(value))
    return table


def lens_table(figures: LensFigures) -> Table:
    """Return the bits per byte of a text at every depth, by both lenses."""
    table = Table(title="Bits per byte, if the stack ended there", title_justify="left")
    for name in ("depth", "behind", "logit lens", "tuned lens"):
        table.add_column(name, justify="left" if name == "behind" else "right")
    for depth in figures.depths:
        table.add_row(str(depth.depth), depth.block, f"{depth.logit:.4f}", f"{depth.tuned:.4f}")
    table.add_row(str(len(figures.depths)), "the model", f"{figures.model:.4f}", f"{figures.model:.4f}")
    return table


def inspection_tables(found: Inspection) -> Iterator[Table]:
    """Yield what each block is worth, how far back it looks, and what the past is worth, as tables."""
    worth = Table(title="Bits per byte that are lost without what a block adds", title_justify="left")
    for name in ("depth", "block", "0 instead", "its mean instead"):
        worth.add_column(name, justify="left" if name == "block" else "right")
    for row in found.worth:
        worth.add_row(str(row.depth), row.block, f"{row.zero:.4f}", f"{row.mean:.4f}")
    yield worth

    reach = Table(title="How far back a block looks, in tokens", title_justify="left")
    for name in ("depth", "block", "itself", "half within", "90 % within", "farther back", "time constants"):
        reach.add_column(name, justify="left" if name == "block" else "right")
    for each in found.reach:
        constants = ""
        if each.time_constants:
            constants = ", ".join(f"{value:.1f}" for value in each.time_constants)
        reach.add_row(
            str(each.depth),
            each.block,
            f"{each.by_distance[0]:.0%}",
            "-" if each.half is None else str(each.half),
            "-" if each.most is None else str(each.most),
            "" if each.before is None else f"{each.before:.0%}",
            constants,
        )
    yield reach

    past = Table(title="Bits per byte when the state is emptied", title_justify="left")
    for name in ("every ... tokens", "bits per byte"):
        past.add_column(name, justify="right")
    for period in found.past:
        past.add_row("never" if period.tokens is None else f"{period.tokens:,}", f"{period.bits_per_byte:.4f}")
    yield past


def steering_table(figures: Sequence[Mapping[str, Any]]) -> Table:
    """Return what steering does to pairs, by what is steered and how far."""
    table = Table(title="What steering does to other pairs", title_justify="left")
    named = {
        "matching": "p(matching)",
        "outside": "outside both",
        "log_odds": "log odds",
        "spread": "spread",
        "wrong": "moved the wrong way",
    }
    shown = [key for key in named if any(row[key] is not None for row in figures)]
    for heading in ("", "steered", "multiplier", *(named[key] for key in shown)):
        table.add_column(heading, justify="left" if heading in ("", "steered") else "right")
    for row in figures:
        cells = [f"{row[key]:.3f}" for key in shown]
        table.add_row(row["what"], row["sites"], f"{row['multiplier']:g}", *cells)
    return table


def lens_grid(rows: Sequence[Row]) -> Table:
    """Return a text, a token a row: at every depth the likeliest token, and the bits of the true one."""
    table = Table(title="The likeliest token, and the bits of the true one", title_justify="left")
    table.add_column("token")
    for depth in range(len(rows[0].guesses) if rows else 0):
        table.add_column(str(depth))
    for row in rows:
        cells = [Text(f"{guess.likeliest!r} {guess.bits:.1f}") for guess in row.guesses]
        table.add_row(Text(repr(row.token)), *cells)
    return table


@contextmanager
def packing(console: Console) -> Iterator[Callable[[str, float], None]]:
    """Show how far compressors are; yield what is to be told."""
    with console.status("Reading the text ...") as status:
        yield lambda name, done: status.update(f"Compressing with {name}: {done:.0%}")


def print_beside(
    console: Console, packed: Packed, title: str, metrics: Metrics, adaptive: Metrics | None = None
) -> None:
    """Print the model's bits per byte beside those of compressors, worst first, and what to know of them."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("bits per byte", justify="right")
    table.add_column("")
    rows = []
    for name, bits in packed.bits_per_byte.items():
        rows.append((name, bits, "adapts to the text as it codes it"))
    rows.append(("weft, frozen weights", metrics.bits_per_byte_of_weights, "does not adapt"))
    if metrics.bits_per_byte_memory is not None:
        name = "weft, frozen weights and memory of the training text"
        rows.append((name, metrics.bits_per_byte_memory, "does not adapt"))
    if adaptive is not None:
        name = "weft, dynamic evaluation"
        if adaptive.bits_per_byte_memory is not None:
            name += " and memory"
        rows.append((name, adaptive.bits_per_byte, "adapts to the text as it reads it"))
    for name, bits, note in sorted(rows, key=lambda row: -row[1]):
        table.add_row(name, f"{bits:.4f}", note)
    console.print(table)
    for note in packed.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def metric_text(value: float) -> str:
    """Return a count with separators, or a figure with four decimals (or as 8.8e19)."""
    return f"{value:,}" if isinstance(value, int) else figure(value, 4)


def description_table(described: Description) -> Table:
    """Return the blocks of a model as a table."""
    table = Table(title=f"{described.pattern}, width {described.hidden_size}", title_justify="left")
    for heading, justify in (
        ("", "right"),
        ("block", "left"),
        ("shape", "left"),
        ("parameters", "right"),
        ("FLOPs/token", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_row("", "embedding", described.embedding_shape, f"{described.embedding_parameters:,}", "")
    for row in described.blocks:
        parameters = f"{row.parameters:,}"
        if row.shared_with is not None:
            parameters = f"as block {row.shared_with}"
        table.add_row(str(row.position), row.kind, row.shape, parameters, f"{row.flops:,}")
    # The rest of the operations: the softmax, with the maps of an adaptive embedding in and out.
    softmax = described.flops_per_token - sum(row.flops for row in described.blocks)
    table.add_row("", "softmax", "", "", f"{softmax:,}")
    return table


def comparison_table(results: Mapping[str, Any]) -> Table:
    """Return ``results.json`` of a comparison as a table, best first; what is not there yet is left out or a dash."""
    from weft.reports.comparison.records import study_records
    from weft.reports.comparison.table import terminal_columns

    compared = study_records("", results)
    table = Table(title="test bits per byte, lower is better", title_justify="left")
    table.add_column("architecture", no_wrap=True)
    columns = terminal_columns(compared)
    for column in columns:
        table.add_column(column.heading, justify="left" if column.words else "right")
    for place, one in enumerate(compared.contenders):
        cells = [Text(one.label)]  # not plain strings: rich would take brackets for markup
        cells += [Text(column.cell(one)) for column in columns]
        is_best = place == 0 and one.bits
        table.add_row(*cells, style="bold" if is_best else None)
    return table


def error(console: Console, sentence: str) -> None:
    """Print one sentence, in the command line's words."""
    console.print(Text("Error: ", style="bold red") + Text(with_flags(sentence)), soft_wrap=True, highlight=False)
