"""Peak memory of a training step: parameters, optimizer state, and the most that a step holds beyond them.

On a GPU it is what torch's allocator had given out at most. On a CPU it is the process's: after a few steps the free
memory is given back to the system, the high-water mark is reset, and further steps raise it again; so what compiling
took does not count, and what other libraries hold during a step does. To count what is held and not what lies free
between, as on a GPU, the C library is told to give every large block back at once; without that the holes count, too,
which the line of resident memory has (one size and one process each, for information). Each contender is a process of
its own.

    python -m benchmarks.rows.memory '{"contender": "Llama", "size": "2M"}'      # one of them: prints JSON
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Bar, Options, Ratio, Sheet, Times
from benchmarks.machine import ROOT

ASKED = Bar("at most", 1.0)
OURS, PEERS = "hybrid", ("Llama", "x-transformers")
HELD, RESIDENT = "held", "resident"
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc: from this size on, a block is given back when it is freed
REPEATS = 2  # processes of each
WARMUPS, STEPS = 2, 3


def measure(sheet: Sheet) -> None:
    from benchmarks.models import scales

    options, sizes = sheet.options, [scale.size for scale in scales(sheet.options)]
    for size in sizes:
        _line(sheet, f"peak memory, hybrid {size}", _peaks(sheet, size, HELD), ASKED)
    if not options.gpu:
        _line(sheet, f"resident memory, hybrid {sizes[0]}", _peaks(sheet, sizes[0], RESIDENT), None)
    sheet.notes.append(
        "Parameters, optimizer state and the most that a step holds beyond them; compiled and eager forms of each take "
        "part, the smaller counts. The interval is from the least to the most of the repeats. Resident memory: with "
        "what lies free between, as the C library leaves it."
    )


def _peaks(sheet: Sheet, size: str, kind: str) -> dict[str, list[int]]:
    """Return the peaks of every contender and form, in bytes."""
    found = {}
    for compiled in (False, True) if sheet.options.compiled else (False,):
        for name in (OURS, *PEERS):
            told = f"{name} compiled" if compiled else name
            repeats = 1 if compiled or kind == RESIDENT or sheet.options.quick else REPEATS  # compiling takes long
            found[told] = _repeated(sheet, name, size, kind, repeats, compiled=compiled)
    peaks = {name: peaks for name, peaks in found.items() if peaks}
    sheet.facts[f"bytes {kind}, {size}"] = peaks
    return peaks


def _line(sheet: Sheet, what: str, peaks: dict[str, list[int]], bar: Bar | None) -> None:
    ours = _smallest(peaks, (OURS, f"{OURS} compiled"))
    peer = _smallest(peaks, tuple(form for name in PEERS for form in (name, f"{name} compiled")))
    if ours is None or peer is None:
        sheet.line(f"{what} over the smallest peer", bar=bar)
        return
    above, below = sorted(peaks[ours]), sorted(peaks[peer])
    sheet.line(
        f"{what} over the smallest peer",
        measured=f"{median(above) / 2**20:,.0f} against {median(below) / 2**20:,.0f} MiB ({peer})",
        ratio=Ratio(median(above) / median(below), above[0] / below[-1], above[-1] / below[0]),
        bar=bar,
        note="compiled" if ours.endswith("compiled") else "eager",
    )


def _smallest(peaks: dict[str, list[int]], names: tuple[str, ...]) -> str | None:
    return min((name for name in names if name in peaks), key=lambda name: median(peaks[name]), default=None)


def _repeated(sheet: Sheet, name: str, size: str, kind: str, repeats: int, *, compiled: bool) -> list[int]:
    """Return the peaks of some processes; empty where one failed, which is written down."""
    title = f"memory {kind}, {size}"
    times = sheet.races.setdefault(title, Times())
    told = f"{name} compiled" if compiled else name
    peaks = []
    environment = os.environ | (AT_ONCE if kind == HELD else {})
    for repeat in range(repeats):
        sheet.show(f"{title}: {told}, {repeat + 1}")
        asked = {"contender": name, "size": size, "compiled": compiled, "options": asdict(sheet.options)}
        command = [sys.executable, "-m", "benchmarks.rows.memory", json.dumps(asked)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            times.failures[told] = " ".join(done.stderr.strip().splitlines()[-1:]) or f"exit code {done.returncode}"
            return []
        peaks.append(json.loads(done.stdout.splitlines()[-1])["peak"])
    return peaks


def main() -> None:
    asked = json.loads(sys.argv[1])
    options = Options(**asked.get("options", {}))
    print(json.dumps(measure_here(asked["contender"], asked["size"], options, compiled=asked.get("compiled", False))))


def measure_here(contender: str, size: str, options: Options, *, compiled: bool) -> dict[str, int]:
    """Return bytes: the peak, and what stands all the time (parameters and optimizer state)."""
    import torch

    from benchmarks import models

    torch.set_num_threads(options.threads)
    scale = next(scale for scale in (*models.QUICK, *models.SCALES["cpu"], *models.SCALES["gpu"]) if scale.size == size)
    makes: dict[str, Callable[[], Any]] = {
        OURS: partial(models.weft_step, "hybrid", scale, options),
        "Llama": partial(models.llama_step, scale, options),
        "x-transformers": partial(models.x_transformers_step, scale, options),
    }
    step, model = makes[contender](compiled=compiled, bf16=options.gpu)
    for _ in range(WARMUPS):
        step()
    standing = 3 * sum(p.numel() * p.element_size() for p in model.parameters())  # each, and AdamW's two averages
    if options.gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(STEPS):
            step()
        torch.cuda.synchronize()
        return {"peak": torch.cuda.max_memory_allocated(), "standing": standing}
    return {"peak": standing + _rise(step), "standing": standing}


def _rise(step: Callable[[], object]) -> int:
    """Return how far steps raise the process's resident memory above what it holds between them."""
    _trim()
    before = _status("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts from here
    except OSError as error:
        raise RuntimeError(f"this system cannot reset a process's peak memory ({error})") from None
    for _ in range(STEPS):
        step()
    return _status("VmHWM") - before


def _trim() -> None:
    """Give free memory back, where the C library can, so that it is not there before it is needed."""
    import gc

    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def _status(key: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status does not tell {key}")


if __name__ == "__main__":
    main()
