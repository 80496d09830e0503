"""Where the time of a step of ``weft train`` goes, by kind of work; run it before and after a change, with two labels.

    python -m benchmarks.profile_step --size 2M --label before
    python -m benchmarks.profile_step --size 2M --label after       # prints both, side by side

The step is the default one (hybrid, 8 x 128 tokens, NorMuon, the precision of this machine), unless options say
otherwise. For each kind of work there are milliseconds, those inside operators without those that they call, of the CPU
or of the GPU's kernels; how many operators were called, nested ones, too; and an estimate of the bytes that they moved
(:mod:`benchmarks.moved`), from a profile of its own, since that takes time. Our kernels are called past torch's
operators: here each call of one has a name for the profiler, and each Function that of its module, so they have their
times; a kernel's bytes are those of the operator or Function around it.

Kept in ``benchmarks/results/profile-KIND.json``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.harness import Options
from weft.waiting import wait_briefly

RESULTS = Path(__file__).parent / "results"
WARMUPS, STEPS = 3, 3
KERNEL = "kernel "  # before the name of one of ours
REST = "the rest"

# What an operator counts as: the first kind whose words are in its name or, for the kinds of OUTERMOST_FIRST, in that
# of one that called it, so that a product inside the loss is the loss's. Casts and copies are that wherever they are.
_PLAIN = "mul|add|sub|div|neg|rsub|lerp|addcmul|where|masked_fill|fill|zero|sum|exp|log|eq"
KINDS = {
    "casts and copies": r"^aten::(to|_to_copy|copy_|clone|contiguous|cat|stack)$",
    "products of the optimizer": r"^Optimizer\.step",  # and a product
    "optimizer": r"^Optimizer\.step",
    "softmax and loss": r"CrossEntropy|cross_entropy|softmax_loss|log_softmax|nll_loss|logsumexp",
    "recurrence and pooling": r"(weft::|weft_|kernel _?|\.)(linear_recurrence|recurrence|pooling)",
    "attention": r"\.\w*attention\.|scaled_dot_product|(flash|flex|efficient)_attention|_softmax(_backward_data)?$",
    "embedding": r"embedding|index_select",
    "clipping": r"aten::_foreach_|vector_norm",
    "norms, gates and activations": r"norm|relu|gelu|silu|sigmoid|tanh|threshold|square|pow|shell|shift|gate",
    "matrix products": r"aten::(mm|addmm|bmm|baddbmm|matmul|linear)$|mkldnn|mm(Backward|$)|\.dense\.",
    "other element-wise": rf"aten::({_PLAIN})_?$",
    "compiled kernels": r"triton_|graph_\d|CompiledFunction|Torch-Compiled",
}
PRODUCT = r"^aten::(mm|addmm|bmm|baddbmm|matmul)$"
OUTERMOST_FIRST = (
    "casts and copies",
    "products of the optimizer",
    "optimizer",
    "softmax and loss",
    "recurrence and pooling",
    "attention",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--architecture", default="hybrid")
    parser.add_argument("--size", default="2M", help="parameters")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--tokens", default="8x128", help="batch size x sequence length")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--optimizer", choices=("normuon", "muon", "adamw"), default="normuon")
    parser.add_argument("--compile", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--label", default="now", help="what to keep this profile as")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    wait_briefly()  # as in `weft train`, before torch is imported
    batch, _, context = given.tokens.partition("x")
    if not (batch.isdecimal() and context.isdecimal()):
        parser.error("--tokens is a batch size and a sequence length, such as 8x128")
    options = Options(device=given.device, threads=given.threads)
    profile = measure(
        options,
        architecture=given.architecture,
        size=given.size,
        vocab_size=given.vocabulary,
        shape=(int(batch), int(context)),
        precision=given.precision,
        optimizer=given.optimizer,
        compiled=given.compile,
    )
    path = given.out / f"profile-{options.kind}.json"
    profiles = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    profiles[given.label] = profile
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(profiles, indent=1) + "\n", encoding="utf-8")
    _print(profiles)


def measure(
    options: Options,
    *,
    architecture: str,
    size: str,
    vocab_size: int,
    shape: tuple[int, int],
    precision: str = "auto",
    optimizer: str = "normuon",
    compiled: str = "auto",
) -> dict[str, Any]:
    """Return milliseconds, megabytes and calls of a step by kind of work, and on what."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from benchmarks.default_step import step_of_today
    from benchmarks.models import Scale, text
    from benchmarks.moved import moved
    from weft.training.allocation import keep_memory
    from weft.training.precision import use_bf16

    if not options.gpu:
        keep_memory()  # as `weft train` does
    torch.set_num_threads(options.threads)
    batch, context = shape
    scale = Scale(size=size, vocab_size=vocab_size, batch=batch, context=context)
    step, _ = step_of_today(
        [text(scale, options)],
        size=size,
        vocab_size=vocab_size,
        precision=precision,
        architecture=architecture,
        training={"optimizer": {"name": optimizer}, "compile": compiled},
    )
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * options.gpu
    with ours_named():
        for _ in range(WARMUPS):
            step()
        with profile(activities=activities) as timed:
            for _ in range(STEPS):
                step()
        with profile(activities=activities, record_shapes=True, profile_memory=True) as sized:
            step()
    milliseconds, calls = grouped(timed.events(), gpu=options.gpu)
    megabytes = moved(sized.profiler.kineto_results.experimental_event_tree(), kind_of)
    if precision == "auto":
        precision = "bf16" if use_bf16("auto", torch.device(options.device)) else "fp32"
    return {
        "what": f"{architecture} {size}, {batch} x {context} tokens, {precision}, {optimizer}"
        + (", compiled" if compiled == "on" else ""),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine.describe(options.device),
        "milliseconds": {kind: round(milliseconds[kind], 3) for kind in (*KINDS, REST) if milliseconds[kind]},
        "megabytes": {kind: round(megabytes[kind] / 1e6, 2) for kind in (*KINDS, REST) if megabytes[kind]},
        "calls": {kind: calls[kind] for kind in (*KINDS, REST) if calls[kind]},
    }


@contextmanager
def ours_named() -> Iterator[None]:
    """Give every call of one of our kernels a name for the profiler, and our Functions names with their modules."""
    from torch.autograd import Function
    from torch.profiler import record_function

    from weft.ops import cpu

    if not cpu.available():
        yield
        return
    from weft.ops.cpu.launch import Kernel

    names = {}
    for function in Function.__subclasses__():
        if function.__module__.startswith("weft."):
            for part in (function, function._backward_cls):
                names[part] = part.__name__
                part.__name__ = f"{function.__module__}.{part.__name__}"

    plain = Kernel.__call__

    def named(self: Any, *arguments: Any, **told: Any) -> None:
        with record_function(KERNEL + self._function._entry.__name__):
            plain(self, *arguments, **told)

    Kernel.__call__ = named  # type: ignore[method-assign]
    try:
        yield
    finally:
        Kernel.__call__ = plain  # type: ignore[method-assign]
        for part, name in names.items():
            part.__name__ = name


def grouped(events: Any, *, gpu: bool) -> tuple[Counter[str], Counter[str]]:
    """Return milliseconds and calls of operators a step, by kind of work."""
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for event in events:
        if "CPU" not in str(event.device_type):  # a kernel: its operator has its time, too
            continue
        microseconds = event.self_device_time_total if gpu else event.self_cpu_time_total
        kind = kind_of(_names(event))
        spent[kind] += microseconds / 1000 / STEPS
        if not event.name.startswith(KERNEL):
            calls[kind] += 1
    return spent, Counter({kind: round(count / STEPS) for kind, count in calls.items()})


def _names(event: Any) -> list[str]:
    """Return the operator's name, and those of its callers, outwards."""
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names


def kind_of(names: list[str]) -> str:
    """Return the kind of work of an operator by its name and its callers', which come after it."""
    product = any(re.search(PRODUCT, name) for name in names)
    for kind in OUTERMOST_FIRST:
        found = any(re.search(KINDS[kind], name, re.IGNORECASE) for name in names)
        if found and (product or kind != "products of the optimizer"):
            return kind
    for name in names:
        for kind, words in KINDS.items():
            if kind not in OUTERMOST_FIRST and re.search(words, name, re.IGNORECASE):
                return kind
    return REST


def _print(profiles: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("a step: ms (share), MB moved (estimated), calls", *_titles(profiles))
    for kind in (*KINDS, REST):
        if any(kind in profile["milliseconds"] for profile in profiles.values()):
            table.add_row(kind, *(_cell(profile, kind) for profile in profiles.values()))
    table.add_row("all", *(_total(profile) for profile in profiles.values()))
    Console().print(table)


def _titles(profiles: dict[str, Any]) -> list[str]:
    return [f"{label}: {profile['what']}" for label, profile in profiles.items()]


def _cell(profile: dict[str, Any], kind: str) -> str:
    """Return what a profile has of a kind of work; older ones have only milliseconds."""
    share = profile["milliseconds"]
    told = f"{share.get(kind, 0):.1f} ({100 * share.get(kind, 0) / sum(share.values()):.0f} %)"
    if "calls" in profile:
        told += f", {profile['megabytes'].get(kind, 0):.1f} MB, {profile['calls'].get(kind, 0):,}"
    return told


def _total(profile: dict[str, Any]) -> str:
    told = f"{sum(profile['milliseconds'].values()):.1f}"
    if "calls" in profile:
        told += f", {sum(profile['megabytes'].values()):.1f} MB, {sum(profile['calls'].values()):,}"
    return told


if __name__ == "__main__":
    main()
