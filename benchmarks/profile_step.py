"""Where the time of a training step goes, by kind of work; run it before and after a change, under two names.

    python -m benchmarks.profile_step --size 2M --label before
    python -m benchmarks.profile_step --size 2M --label after       # prints both, side by side

The step is the one of the benchmark (hybrid, AdamW). Times are those inside operators, without those that they call: of
the CPU, or of the GPU's kernels. Kept in ``benchmarks/results/profile-KIND.json``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.harness import Options

RESULTS = Path(__file__).parent / "results"
WARMUPS, STEPS = 3, 3
REST = "the rest"

# What an operator counts as: the first kind whose words are in its name or, for the kinds of OUTERMOST_FIRST, in that
# of one that called it, so that a product inside the loss is the loss's.
_PLAIN = "mul|add|sub|div|neg|rsub|addcmul|where|masked_fill|copy|fill|zero|cat|sum|clone|to|_to_copy|exp|log|eq"
KINDS = {
    "optimizer": r"^Optimizer\.step",
    "softmax and loss": r"CrossEntropy|cross_entropy|log_softmax|nll_loss|logsumexp",
    "recurrence and pooling": r"weft::(linear_recurrence|pooling)|weft_(linear_recurrence|pooling)",
    "attention": r"scaled_dot_product|flash_attention|flex_attention|efficient_attention|_softmax\b",
    "norms and activations": r"norm|relu|gelu|silu|sigmoid|tanh|threshold|square|pow",
    "matrix products": r"aten::(mm|addmm|bmm|baddbmm|matmul|linear)$|mkldnn|mm(Backward|$)",
    "other element-wise": rf"aten::({_PLAIN})_?$",
    "compiled kernels": r"triton_|graph_\d|CompiledFunction|Torch-Compiled",
}
OUTERMOST_FIRST = ("optimizer", "softmax and loss", "recurrence and pooling", "attention")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", default="2M", help="of the benchmark's models: 2M, 10M, 41M or 150M, or 100k")
    parser.add_argument("--architecture", default="hybrid")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--muon", action="store_true", help="with Weft's own choice of optimizers")
    parser.add_argument("--label", default="now", help="what to keep this profile as")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    options = Options(device=given.device, threads=given.threads, compiled=given.compile)
    profile = measure(given.architecture, given.size, options, muon=given.muon)
    path = given.out / f"profile-{options.kind}.json"
    profiles = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    profiles[given.label] = profile
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(profiles, indent=1) + "\n", encoding="utf-8")
    _print(profiles)


def measure(architecture: str, size: str, options: Options, *, muon: bool = False) -> dict[str, Any]:
    """Return milliseconds of a step by kind of work, and on what."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from benchmarks import models
    from weft.training.allocation import keep_memory

    if not options.gpu:
        keep_memory()  # as `weft train` does
    torch.set_num_threads(options.threads)
    scale = next(s for s in (*models.QUICK, *models.SCALES[options.kind]) if s.size == size)
    step, _ = models.weft_step(architecture, scale, options, compiled=options.compiled, own_optimizer=muon)
    for _ in range(WARMUPS):
        step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * options.gpu
    with profile(activities=activities) as profiler:
        for _ in range(STEPS):
            step()
        if options.gpu:
            torch.cuda.synchronize()
    return {
        "what": f"{architecture} {size}, {scale.batch} x {scale.context} tokens"
        + (", Muon" if muon else "")
        + (", compiled" if options.compiled else ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(options.device),
        "milliseconds": grouped(profiler.events(), gpu=options.gpu),
    }


def grouped(events: Any, *, gpu: bool) -> dict[str, float]:
    """Return milliseconds a step of each kind of work."""
    spent: Counter[str] = Counter()
    for event in events:
        if "CPU" not in str(event.device_type):  # a kernel: its operator has its time, too
            continue
        microseconds = event.self_device_time_total if gpu else event.self_cpu_time_total
        spent[kind_of(_names(event))] += microseconds / 1000 / STEPS
    return {kind: round(spent[kind], 3) for kind in (*KINDS, REST) if spent[kind]}


def _names(event: Any) -> list[str]:
    """Return the operator's name, and those of its callers, outwards."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def kind_of(names: list[str]) -> str:
    """Return the kind of work of an operator by its name and its callers', which come after it."""
    for kind in OUTERMOST_FIRST:
        if any(re.search(KINDS[kind], name, re.IGNORECASE) for name in names):
            return kind
    for name in names:
        for kind, words in KINDS.items():
            if kind not in OUTERMOST_FIRST and re.search(words, name, re.IGNORECASE):
                return kind
    return REST


def _print(profiles: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("milliseconds of a step", *(f"{label}: {profile['what']}" for label, profile in profiles.items()))
    shares = [profile["milliseconds"] for profile in profiles.values()]
    for kind in (*KINDS, REST):
        if any(kind in share for share in shares):
            cells = (f"{s.get(kind, 0):.1f} ({100 * s.get(kind, 0) / sum(s.values()):.0f} %)" for s in shares)
            table.add_row(kind, *cells)
    table.add_row("all", *(f"{sum(share.values()):.1f}" for share in shares))
    Console().print(table)


if __name__ == "__main__":
    main()
