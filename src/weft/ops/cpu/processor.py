"""What this computer's processor can do, as far as kernels and precisions depend on it; nothing here imports Numba."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

WIDTH = "WEFT_VECTOR"  # in the environment: 8 or 16, in place of what the processor says


@cache
def flags() -> frozenset[str]:
    """Return the features that Linux names, such as ``avx512f``; empty on other systems."""
    if platform.system() != "Linux":
        return frozenset()
    try:
        return frozenset(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return frozenset()


def has_bf16() -> bool:
    """Return whether there are bfloat16 matrix instructions (known on Linux; False elsewhere)."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & flags())


def converts_bf16() -> bool:
    """Return whether one instruction rounds a vector of float32 to bfloat16."""
    return {"avx512_bf16", "avx512vl"} <= flags()


def widens_bf16() -> bool:
    """Return whether bfloat16 becomes float32 in vector registers, so that reading it is cheap (assumed off Linux)."""
    return not flags() or bool({"avx2", "asimd"} & flags())


def vector() -> int:
    """Return how many float32 numbers kernels work on at once: a register of AVX-512, or eight.

    Elsewhere than on AVX-512 the compiler splits or joins them as it needs.
    """
    told = os.environ.get(WIDTH, "")
    if told in ("8", "16"):
        return int(told)
    return 16 if "avx512f" in flags() else 8
