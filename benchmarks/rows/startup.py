"""What the first call of the kernels costs: with nothing on disk, and with what an earlier process left there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import Sheet, reason
from benchmarks.machine import ROOT

CACHES = ("NUMBA_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME", "WEFT_CACHE")
# Numba's code lies beside the sources, whatever the environment says: the one place to change is named here.
FIRST_CALLS = """
import json, pathlib, sys, time
started = time.perf_counter()
import torch
torch_loaded = time.perf_counter()
import weft.ops
told = {"import torch": torch_loaded - started, "import weft.ops": time.perf_counter() - torch_loaded}
device = sys.argv[1]
if device == "cpu" and weft.ops.cpu.available():
    started = time.perf_counter()
    from weft.ops.cpu import launch
    told["import numba"] = time.perf_counter() - started
    launch.cache_folder = lambda: pathlib.Path(sys.argv[2])
f = torch.rand(2, 64, 64, device=device, requires_grad=True)
u = torch.randn(2, 64, 64, device=device, requires_grad=True)
gates = torch.randn(2, 64, 192, device=device, requires_grad=True)
state, reset = torch.zeros(2, 64, device=device), torch.zeros(2, 64, dtype=torch.bool, device=device)
calls = {"linear_recurrence": lambda: weft.ops.linear_recurrence(f, u, state, reset)[0]}
if hasattr(weft.ops, "fused_pooling"):
    calls["fused_pooling"] = lambda: weft.ops.fused_pooling(gates, state, reset, "fo")[0]
def clock(name, call):
    started = time.perf_counter()
    result = call()
    if device == "cuda":
        torch.cuda.synchronize()
    told[name] = time.perf_counter() - started
    return result
for name, call in calls.items():
    out = clock(name + " forward", call)
    clock(name + " backward", lambda: out.sum().backward())
print(json.dumps(told))
"""


def measure(sheet: Sheet) -> None:
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for cache in ("cold", "warm"):
            sheet.show(f"startup: {cache} cache")
            try:
                found[cache] = _first_calls(folder, sheet.options.device)
            except (OSError, subprocess.SubprocessError, ValueError) as error:
                sheet.race(f"startup, {cache}").times.failures["weft.ops"] = reason(error)
                return
    for what in found["cold"]:
        told = " / ".join(f"{found[cache][what]:.3g}" for cache in found)
        sheet.line(f"{what}, nothing on disk / cached", measured=f"{told} s")
    sheet.facts["seconds"] = found


def _first_calls(folder: str, device: str) -> dict[str, float]:
    environment = os.environ | {name: str(Path(folder, name.lower())) for name in CACHES}
    command = [sys.executable, "-c", FIRST_CALLS, device, folder]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told
