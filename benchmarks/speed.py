"""Measure Weft's speed beside its peers, print the table and write it: ``make bench``, ``make bench-gpu``.

    python -m benchmarks.speed                            # all rows, on the CPU
    python -m benchmarks.speed --only train,decode        # some; the others' results stay
    python -m benchmarks.speed --quick                    # tiny sizes, nothing written: does it run at all?
    python -m benchmarks.speed --only step --against REVISION      # our step beside its own at another revision

Each row runs in a process of its own, so that none is slowed down, or brought down, by what another left behind.
Contenders of a row share its process and take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine, results
from benchmarks.harness import Options, Sheet
from benchmarks.rows import ROWS, measure, rows_of

RESULTS = Path(__file__).parent / "results"
LIMIT_SECONDS = 1800  # for a row: a contender may hang
MARK = "progress: "


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    options = Options(
        device=given.device,
        threads=given.threads,
        quick=given.quick,
        compiled=_compiles(given),
        seed=given.seed,
        rounds=2 if given.quick else given.rounds,
        least=2 if given.quick else min(given.rounds, Options.least),
        seconds=given.seconds,
        against=given.against,
        tree=given.tree,
    )
    if given.row:
        Path(given.result).write_text(json.dumps(run_row(given.row, options, _say)), encoding="utf-8")
        return 0
    names = given.only.split(",") if given.only else rows_of(options.device)
    if unknown := [name for name in names if name not in rows_of(options.device)]:
        print(
            f"There is no row '{unknown[0]}' here: choose from {', '.join(rows_of(options.device))}.", file=sys.stderr
        )
        return 2
    out = given.out or (None if given.quick else RESULTS)
    if given.redraw:
        _draw(out or RESULTS, options.kind)
        return 0
    if options.against and "step" not in names:
        print("--against measures the row 'step': name it in --only, too.", file=sys.stderr)
        return 2
    return _with_the_other(names, options, out)


def _with_the_other(names: list[str], options: Options, out: Path | None) -> int:
    """Measure while the sources of the revision to measure against are there, if there is one."""
    if not options.against:
        return _run(names, options, out)
    from benchmarks.revisions import NoRevisionError, checked_out

    try:
        with checked_out(options.against) as tree:
            return _run(names, replace(options, tree=str(tree)), out)
    except NoRevisionError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU, for all contenders")
    parser.add_argument("--only", help=f"rows, with commas between: {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and two rounds: the figures mean nothing")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="torch.compile, too (where it works, unless quick)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=Options.rounds, help="at most, for each measurement")
    parser.add_argument("--seconds", type=float, default=Options.seconds, help="after which no further round begins")
    parser.add_argument("--redraw", action="store_true", help="measure nothing: table and picture from the JSON")
    parser.add_argument("--out", type=Path, help="folder for the JSON, the table and the picture")
    parser.add_argument("--against", default="", help="a revision: the row 'step' measures its step, too")
    parser.add_argument("--tree", default="", help=argparse.SUPPRESS)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    return parser


def _compiles(given: argparse.Namespace) -> bool:
    if given.compile is not None:
        return bool(given.compile)
    return not given.quick and machine.compiler_here(given.device)


def run_row(name: str, options: Options, show: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure one row in this process and return its record."""
    import torch

    from weft.training.allocation import keep_memory

    if not options.gpu:
        keep_memory()  # as `weft train` does; for all contenders alike
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    sheet = Sheet(options, show)
    measure(name, sheet)
    return results.row_record(sheet, title=ROWS[name].title, machine=machine.describe(options.device))


def _say(text: str) -> None:
    print(MARK + text, flush=True)


def _run(names: list[str], options: Options, out: Path | None) -> int:
    from rich.console import Console

    from benchmarks.tables import print_table

    console, measured = Console(), {}
    if not console.is_terminal:
        console.width = 130
    try:
        for name in names:
            record = _in_own_process(name, options, console)
            if record is not None:
                measured[name] = record
                if out:
                    results.merge(out / f"speed-{options.kind}.json", {name: record}, list(ROWS))
    finally:  # what was measured until somebody interrupts
        print_table({"rows": measured}, console)
        if out and measured:
            _draw(out, options.kind)
            console.print(f"Written to {out}: speed-{options.kind}.json, .md and .png")
    return 1 if len(measured) < len(names) else 0


def _draw(out: Path, kind: str) -> None:
    """Write the table and the picture of all results that are there."""
    from benchmarks.plot import draw
    from benchmarks.tables import markdown

    everything = results.read(out / f"speed-{kind}.json")
    picture = draw(everything, kind, out / f"speed-{kind}.png")
    (out / f"speed-{kind}.md").write_text(markdown(everything, kind, picture), encoding="utf-8")


def _in_own_process(name: str, options: Options, console: Any) -> dict[str, Any] | None:
    """Measure a row in a new process; return its record, or None where it failed, having said why."""
    before, started = machine.cpu_ticks(), time.perf_counter()
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder, "row.json"), Path(folder, "log")
        code = _watch(_child_command(name, options, path), _environment(options), log, name, console)
        if code != 0:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            console.print(f"[red]{name} failed[/red] (exit code {code}):\n{tail}", markup=True, highlight=False)
            return None
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    took = time.perf_counter() - started
    console.print(f"{name}: {took:.0f} s", highlight=False)
    return record | {
        "date": date,
        "command": machine.command(),
        "seed": options.seed,
        "quick": options.quick,
        "took_seconds": round(took, 1),
        "steal_percent": machine.steal_percent(before, machine.cpu_ticks()),
    }


def _child_command(name: str, options: Options, path: Path) -> list[str]:
    told = {
        "--row": name,
        "--result": path,
        "--device": options.device,
        "--threads": options.threads,
        "--seed": options.seed,
        "--rounds": options.rounds,
        "--seconds": options.seconds,
        "--against": options.against,
        "--tree": options.tree,
    }
    flags = ["--compile" if options.compiled else "--no-compile", *["--quick"] * options.quick]
    return [sys.executable, "-m", "benchmarks.speed", *(str(part) for pair in told.items() for part in pair), *flags]


def _environment(options: Options) -> dict[str, str]:
    """Give every library the same number of threads, which wait as in ``weft train``, before it is loaded."""
    from weft.waiting import wait_briefly

    wait_briefly()
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    quiet |= {"PYTHONDONTWRITEBYTECODE": ""}  # or imports would be timed that nobody else has
    return os.environ | quiet | dict.fromkeys(names, str(options.threads))


def _watch(command: list[str], environment: dict[str, str], log: Path, name: str, console: Any) -> int:
    """Run a process and show what it says of its progress (drawn only then: a spinner would take its time)."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.fields[row]}[/bold]"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(
            command, cwd=machine.ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
        Progress(*columns, console=console, transient=True, auto_refresh=False) as progress,
    ):
        timer = threading.Timer(LIMIT_SECONDS, process.kill)
        timer.start()
        task = progress.add_task("starting", row=name)
        assert process.stdout
        for line in process.stdout:
            if line.startswith(MARK):
                progress.update(task, description=line.removeprefix(MARK).strip(), refresh=True)
        code = process.wait()
        timer.cancel()
    return code


if __name__ == "__main__":
    sys.exit(main())
