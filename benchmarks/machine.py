"""What a measurement was made on: processor, threads, versions, revision, and how quiet the machine was."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "weft-lm",
    "torch",
    "numpy",
    "numba",
    "llvmlite",
    "triton",
    "transformers",
    "x-transformers",
    "accelerated-scan",
    "flash-linear-attention",
)
ROOT = Path(__file__).parents[1]


def versions() -> dict[str, str]:
    """Return the versions of what takes part, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe(device: str) -> dict[str, Any]:
    """Return the machine in figures; torch's threads are those that are set now."""
    import torch

    told: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native_bf16": _native_bf16(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not said",
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "versions": versions(),
        "revision": revision(),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        told |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "gpu_l2_mib": round(getattr(properties, "L2_cache_size", 0) / 2**20, 1),
            "cuda": torch.version.cuda,
            "driver": _told(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]),
        }
    return told


def cpu_model() -> str:
    """Return the processor's name as Linux tells it, else as Python does."""
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def revision() -> str:
    """Return the git revision, marked where what is measured or measures was changed since."""
    head = _told(["git", "rev-parse", "--short=12", "HEAD"])
    changed = _told(["git", "status", "--porcelain", "--", "src", "benchmarks/*.py", "benchmarks/rows"])
    return (head or "unknown") + (" with changes" if changed else "")


def cpu_ticks() -> tuple[int, int]:
    """Return all ticks of all processors so far and those that the host gave to others; zeros where nothing says so."""
    fields = _read("/proc/stat").splitlines()[:1]
    ticks = [int(tick) for tick in fields[0].split()[1:9]] if fields else []
    return (sum(ticks), ticks[7]) if len(ticks) == 8 else (0, 0)


def steal_percent(before: tuple[int, int], after: tuple[int, int]) -> float | None:
    """Return the share of time that the host took away between two readings."""
    total = after[0] - before[0]
    return round(100 * (after[1] - before[1]) / total, 2) if total > 0 else None


def compiler_here(device: str) -> bool:
    """Return whether torch.compile can work: on a CPU it calls a C++ compiler, on a GPU Triton's own."""
    import shutil

    if device == "cuda":
        from importlib.util import find_spec

        return find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++", "cl"))


def command(module: str = "benchmarks.speed") -> str:
    """Return how this process was started, without the paths of this machine."""
    return " ".join(["python", "-m", module, *sys.argv[1:]])


def commands(before: Iterable[str], module: str) -> list[str]:
    """Return the commands that a result file has with that of this process at the end, where it stands once."""
    now = command(module)
    return [*(each for each in before if each != now), now]


def _native_bf16() -> bool:
    from weft.training.precision import cpu_has_bf16

    return cpu_has_bf16()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _told(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, cwd=ROOT, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
