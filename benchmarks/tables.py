"""Results as a table: in the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Line, figure
from benchmarks.results import read_line

if TYPE_CHECKING:
    from rich.console import Console

HEAD = ("what", "measured", "ratio (95 %)", "asked", "met?")


def lines_of(row: dict[str, Any]) -> list[Line]:
    return [read_line(record) for record in row["lines"]]


def ratio_words(line: Line) -> str:
    if line.ratio is None:
        return "not measured" if line.bar else ""
    return f"{figure(line.ratio.value)} ({figure(line.ratio.low)} to {figure(line.ratio.high)})"


def met_words(line: Line) -> str:
    """Return whether the bar is met, and whether the spread says otherwise at one of its ends."""
    if line.bar is None or line.met is None:
        return ""
    close = line.ratio is not None and line.bar.holds(line.ratio.low) != line.bar.holds(line.ratio.high)
    return ("yes" if line.met else "**no**") + (", closely" if close else "")


def cells(line: Line) -> tuple[str, ...]:
    what = f"{line.what} ({line.note})" if line.note else line.what
    return what, line.measured, ratio_words(line), str(line.bar or ""), met_words(line)


def print_table(results: dict[str, Any], console: Console, only: list[str] | None = None) -> None:
    """Print the rows of ``only`` (all, if None), then what was missing."""
    for name, row in results["rows"].items():
        if only is None or name in only:
            _print_row(name, row, console)


def _print_row(name: str, row: dict[str, Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=row["title"], title_justify="left", title_style="bold", expand=True)
    for head, right, share in zip(HEAD, (False, False, True, True, False), (9, 9, 5, 3, 3), strict=True):
        table.add_column(head, justify="right" if right else "left", ratio=share)
    for line in lines_of(row):
        style = None if line.met is None else ("green" if line.met else "red")
        table.add_row(*(escape(cell.replace("**", "")) for cell in cells(line)), style=style)
    console.print(table)
    for told in _remarks(row):
        console.print(f"[dim]{name}:[/dim] {escape(told)}", highlight=False)


def markdown(results: dict[str, Any], kind: str, picture: bool) -> str:
    """Return the whole table with what it was measured on."""
    parts = [f"# Speed on a {kind.upper()}\n", *_about(results), ""]
    if picture:
        parts.append(f"![Every ratio and its bar](speed-{kind}.png)\n")
    parts.append("| " + " | ".join(HEAD) + " |\n|---|---|---|---|---|")
    for row in results["rows"].values():
        parts.append(f"| **{row['title']}** | | | | |")
        parts += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(line)) + " |" for line in lines_of(row)]
    parts.append("")
    for name, row in results["rows"].items():
        if remarks := list(_remarks(row)):
            parts += [f"\n**{name}**\n", *(f"- {told}" for told in remarks)]
    return "\n".join(parts) + "\n"


def _about(results: dict[str, Any]) -> Iterator[str]:
    """Say once what all rows share, and by row what they do not."""
    yield (
        "Every ratio is one of medians over interleaved repeats; in brackets its 95 % interval over resampled rounds. "
        "`closely`: the bar lies inside that interval. A word in brackets after a contender is the form of it that "
        "was fastest and counts.\n"
    )
    seen: dict[str, list[str]] = {}
    for name, row in results["rows"].items():
        seen.setdefault(_machine_words(row), []).append(name)
    for words, names in seen.items():
        yield f"- {words}" + (f" *(rows: {', '.join(names)})*" if len(seen) > 1 else "")
    for name, row in results["rows"].items():
        steal = row["steal_percent"]
        quiet = "" if steal is None else f", {steal:g} % of the time taken by the host"
        yield f"- {name}: {row['date']}, {row['took_seconds']:.0f} s{quiet}, seed {row['seed']}: `{row['command']}`"


def _machine_words(row: dict[str, Any]) -> str:
    machine = row["machine"]
    card = f"{machine['gpu']} ({machine['gpu_memory_gib']} GiB, CUDA {machine['cuda']}), " if "gpu" in machine else ""
    packages = ", ".join(f"{name} {told}" for name, told in machine["versions"].items())
    native = "native bfloat16" if machine["native_bf16"] else "no native bfloat16"
    return (
        f"{card}{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {native}, governor "
        f"{machine['governor']}; {packages}; revision {machine['revision']}"
    )


def _remarks(row: dict[str, Any]) -> Iterator[str]:
    yield from row["notes"]
    for title, failures in row["failures"].items():
        for name, why in failures.items():
            yield f"{title}: {name} did not take part: {why}"
