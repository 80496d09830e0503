"""What does a bit cost? Bits per byte of test text against minutes of training on one core.

    export OMP_NUM_THREADS=1
    python -m benchmarks.study.cost plan TEXT --name sewiki            # on a quiet machine: it measures paces
    python -m benchmarks.study.cost train TEXT --name sewiki           # on any: what is read no longer depends on time
    python -m benchmarks.study.cost train TEXT --name sewiki --who transformer --minutes 1 2 --rates 0.5 1 2
    python -m benchmarks.study.cost paq8px TEXT --name sewiki --program build/paq8px    # minutes a megabyte
    python -m benchmarks.study.cost draw

``plan`` lets ``weft train TEXT --minutes M`` choose everything, and keeps what it chose with the tokens that it counts
on in that time. ``train`` trains each plan on so many tokens, and scores the first PART tokens of the test text: with
frozen weights, with the memory of the training text, and with ``--adapt`` by dynamic evaluation. ``--rates`` tunes the
learning rate, by factors; the validation text chooses. What the result file holds is not run again. ``paq8px`` asks
that compressor (https://github.com/hxim/paq8px), which has read the training text. ``draw`` writes table and picture.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import commands, describe, revision
from benchmarks.plot import save
from benchmarks.study.tables import CORPORA
from weft.api import train
from weft.config import merge
from weft.data import TokenizedSplit, Tokenizer, prepare
from weft.evaluation.adaptation import LEARNERS
from weft.evaluation.compressors import pack
from weft.evaluation.evaluate import bits_per_byte, score_split
from weft.evaluation.scoring import first_part
from weft.mixing import tree_of
from weft.reading import read_split
from weft.run import Run
from weft.training.recipe import make_recipe
from weft.training.resolve import resolve_recipe

RESULTS = Path(__file__).parents[1] / "results" / "research"
MODULE = "benchmarks.study.cost"
MINUTES = (0.5, 1.0, 2.0, 5.0, 10.0)
WHO = ("hybrid", "transformer")
PART = 40_000  # tokens of the test text
TURNED = (  # what weft train chooses, but for methods
    "model.parameters",
    "model.dropout",
    "training.batch.batch_size",
    "training.batch.sequence_length",
    "training.optimizer.learning_rate",
    "training.optimizer.weight_decay",
)
RATE = "training.optimizer.learning_rate"
INK, MUTED = "#333333", "#8a8a8a"
LINES = {  # what is drawn: of whom, which figure, colour, style
    "Transformer, frozen weights": ("transformer", "frozen", "#6a4c93", "--"),
    "hybrid, frozen weights": ("hybrid", "frozen", "#2a7f9e", "-"),
    "hybrid and memory": ("hybrid", "memory", "#d1622b", "-"),
    "hybrid, dynamic evaluation": ("hybrid", "adaptive", "#3b7d3f", "-"),
}


def main() -> None:
    """Plan, train or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plan", "train", "paq8px", "draw"))
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--name", choices=tuple(CORPORA))
    parser.add_argument("--who", nargs="+", choices=WHO, default=list(WHO))
    parser.add_argument("--minutes", nargs="+", type=float, default=list(MINUTES))
    parser.add_argument("--rates", nargs="+", type=float, default=[1.0], help="factors of the learning rate")
    parser.add_argument("--adapt", action="store_true", help="dynamic evaluation as well")
    parser.add_argument("--program", type=Path, help="paq8px")
    parser.add_argument("--work", type=Path, default=Path("runs/cost"))
    given = parser.parse_args()
    if given.what == "draw":
        draw()
        return
    if given.text is None or given.name is None:
        parser.error("Name the text and --name.")
    torch.set_num_threads(1)
    if given.what == "plan":
        plan(given)
    elif given.what == "paq8px":
        ask_paq8px(given)
    else:
        train_planned(given)


def plan(given: argparse.Namespace) -> None:
    """Let the automatic settings choose for each time, and keep what they chose."""
    told = read(given.name)
    for who in given.who:
        for minutes in given.minutes:
            if key(who, minutes) in told["plans"]:
                continue
            values = {
                "data": {"sources": [str(given.text)]},
                "model": {"architecture": who},
                "training": {"minutes": minutes},
            }
            recipe = make_recipe(values)
            resolved = resolve_recipe(recipe, prepare(recipe.data))
            assert resolved.tokens_per_second
            flat = {name: value_of(resolved.recipe, name) for name in TURNED}
            methods = {name: method.model_dump() for name, method in resolved.recipe.training.methods.items()}
            told["plans"][key(who, minutes)] = {
                "tokens": round(60 * minutes * resolved.tokens_per_second),
                "settings": flat,
                "methods": methods,
            }
            write(given.name, told)
            print(key(who, minutes), told["plans"][key(who, minutes)], flush=True)


def train_planned(given: argparse.Namespace) -> None:
    """Train what was planned, and score it."""
    for minutes in given.minutes:
        for who in given.who:
            for rate in given.rates:
                name = f"{key(who, minutes)} x{rate:g}"
                done = read(given.name)["trials"].get(name, {})
                if done and ("adaptive" in done or not given.adapt):
                    continue
                made = _trained(given, read(given.name)["plans"][key(who, minutes)], name, rate)
                figures = score(made, adapt=given.adapt)
                told = read(given.name)  # another process may have written meanwhile
                told["trials"][name] = figures
                write(given.name, told)
                print(name, figures, flush=True)
    told = read(given.name)
    if "compressors" not in told:
        compressors = _packed(Run(next(given.work.glob(f"{given.name}-*"))))
        told = read(given.name)
        told["compressors"] = compressors
        write(given.name, told)


def _trained(given: argparse.Namespace, planned: Mapping[str, Any], name: str, rate: float) -> Run:
    """Return the run of a plan, which may have been trained before."""
    folder = given.work / f"{given.name}-{name.replace(' ', '-')}"
    if (folder / "results.json").exists():
        return Run(folder)
    settings: dict[str, Any] = {
        "model": {"architecture": name.split()[0]},
        "training": {
            "tokens": planned["tokens"],
            "methods": planned["methods"],
            "logging": {"samples": 0, "validations": 4},
        },
    }
    for dotted, value in planned["settings"].items():
        if dotted == RATE:
            value = value * rate
        nested: Any = value
        for part in reversed(dotted.split(".")):
            nested = {part: nested}
        settings = merge(settings, nested)
    resume = (folder / "recipe.yaml").exists()
    return train(() if resume else [str(given.text)], out=folder, settings={} if resume else settings, resume=resume)


def score(run: Run, *, adapt: bool) -> dict[str, Any]:
    """Return the bits per byte of the test text's first part, and of the validation text by the weights."""
    tokenizer = run.tokenizer
    text = part_of(run)
    tree = tree_of(tokenizer) if adapt else None
    scores = score_split(
        run.model,
        text,
        boundary_id=tokenizer.boundary_id,
        memory=run.memory,
        adapt=LEARNERS if adapt else None,
        tree=tree,
        warm_up=read_split(run.folder, tokenizer, (), "validation") if adapt else None,
    )
    results = run.results
    told: dict[str, Any] = {
        "parameters": results.parameters,
        "body_parameters": results.body_parameters,
        "tokens": results.tokens,
        "bytes": text.bytes,
        "validation": results.validation.bits_per_byte_of_weights,
        "frozen": bits_per_byte(scores.frozen_N, text),
    }
    if scores.memory_N is not None:
        told["memory"] = bits_per_byte(scores.memory_N, text)
    if scores.adaptive_N is not None:
        told["adaptive"] = bits_per_byte(scores.adaptive_N, text)
    return told


def part_of(run: Run) -> TokenizedSplit:
    """Return the first part of the test split of the run's text."""
    return first_part(read_split(run.folder, run.tokenizer, (), "test"), PART, run.tokenizer)


def _packed(run: Run) -> dict[str, Any]:
    """Return what compressors that have read the training text need for the same part."""
    training = read_split(run.folder, run.tokenizer, (), "train")
    return pack(training, part_of(run), run.tokenizer).to_json()


def ask_paq8px(given: argparse.Namespace) -> None:
    """Let paq8px -8 compress the training text, alone and with the part behind it: the difference is the part's."""
    run = Run(next(given.work.glob(f"{given.name}-*")))
    tokenizer = run.tokenizer
    training = read_split(run.folder, tokenizer, (), "train")
    part = part_of(run)
    texts = [_joined(training, tokenizer)]
    texts.append(texts[0] + _joined(part, tokenizer))
    started = time.perf_counter()
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for text in texts:
            plain, packed = Path(folder) / "text", Path(folder) / "packed"
            plain.write_bytes(text)
            subprocess.run([given.program, "-8", plain, packed], check=True, stdout=subprocess.DEVNULL)
            sizes.append(packed.stat().st_size)
            packed.unlink()
    told = read(given.name)
    told["paq8px"] = {
        "bits_per_byte": 8 * (sizes[1] - sizes[0]) / part.bytes,
        "training_bytes": len(texts[0]),
        "bytes": part.bytes,
        "seconds": time.perf_counter() - started,
    }
    write(given.name, told)
    print(told["paq8px"])


def _joined(text: TokenizedSplit, tokenizer: Tokenizer) -> bytes:
    """Return a text's documents, each behind a separator."""
    documents = []
    for start, stop in pairwise(text.offsets):
        documents.append(b"\n\n\n" + tokenizer.decode_bytes(text.tokens[start + 1 : stop]))
    return b"".join(documents)


def best(told: Mapping[str, Any], who: str, minutes: float) -> dict[str, Any] | None:
    """Return the trial with the fewest bits on the validation text; None where there is none."""
    trials = [trial for name, trial in told["trials"].items() if name.startswith(f"{key(who, minutes)} x")]
    return min(trials, key=lambda trial: trial["validation"], default=None)


def draw() -> None:
    """Write the table and the picture of all texts that there are."""
    texts = {name: read(name) for name in CORPORA if path_of(name).exists()}
    (RESULTS / "cost.md").write_text("\n".join(table(texts)) + "\n")
    for ink, face, suffix in ((INK, "white", ""), ("#d0d0d0", "#1b1b1b", "-dark")):
        picture(texts, RESULTS / f"cost{suffix}.png", ink, face)


def table(texts: Mapping[str, Any]) -> Iterable[str]:
    """Yield the lines of the table."""
    yield "| text | minutes | model | parameters, without embeddings | tokens | frozen | with memory | adaptive |"
    yield "|---|---:|---|---:|---:|---:|---:|---:|"
    for name, told in texts.items():
        for minutes in MINUTES:
            for who in WHO:
                trial = best(told, who, minutes)
                if trial is None:
                    continue
                figures = []
                for figure in ("frozen", "memory", "adaptive"):
                    figures.append(f"{trial[figure]:.4f}" if figure in trial else "")
                sizes = f"{trial['parameters']:,}, {trial['body_parameters']:,}"
                cells = [CORPORA[name], f"{minutes:g}", who, sizes, f"{trial['tokens'] / 1e6:.2f}M", *figures]
                yield f"| {' | '.join(cells)} |"
        for compressor, bits in told.get("compressors", {}).get("baselines", {}).items():
            yield f"| {CORPORA[name]} | | {compressor}, which has read the training text | | | | | {bits:.4f} |"
        if "paq8px" in told:
            bits = told["paq8px"]["bits_per_byte"]
            yield f"| {CORPORA[name]} | | paq8px -8, which has read the training text | | | | | {bits:.4f} |"


def picture(texts: Mapping[str, Any], path: Path, ink: str, face: str) -> None:
    """Draw a panel for each text: bits per byte against minutes, compressors as lines across."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    canvas, axes = plt.subplots(1, len(texts), figsize=(4 * len(texts), 4.4), layout="constrained", squeeze=False)
    canvas.set_facecolor(face)
    for axis, (name, told) in zip(axes[0], texts.items(), strict=True):
        axis.set_facecolor(face)
        for label, (who, figure, color, style) in LINES.items():
            trials = {minutes: best(told, who, minutes) for minutes in MINUTES}
            points = [(minutes, trial[figure]) for minutes, trial in trials.items() if trial and figure in trial]
            if points:
                axis.plot(*zip(*points, strict=True), style, color=color, marker="o", markersize=4, label=label)
        across = dict(told.get("compressors", {}).get("baselines", {}))
        if "paq8px" in told:
            across["paq8px -8"] = told["paq8px"]["bits_per_byte"]
        for compressor, bits in across.items():
            axis.axhline(bits, color=MUTED, lw=1, ls=":")
            axis.annotate(compressor, (MINUTES[-1], bits), fontsize=8, color=MUTED, ha="right", va="bottom")
        axis.set_xscale("log")
        axis.set_xticks(MINUTES, [f"{minutes:g}" for minutes in MINUTES])
        axis.minorticks_off()
        axis.set_title(CORPORA[name], fontsize=11, color=ink, loc="left")
        axis.set_xlabel("minutes of one core", fontsize=9, color=ink)
        axis.tick_params(colors=ink, labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(ink)
    axes[0, 0].set_ylabel("bits per byte of test text", fontsize=9, color=ink)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend = canvas.legend(handles, labels, loc="outside lower center", ncols=len(LINES), fontsize=9, frameon=False)
    for text in legend.get_texts():
        text.set_color(ink)
    save(canvas, path)


def key(who: str, minutes: float) -> str:
    """Return the name of a plan."""
    return f"{who} {minutes:g}"


def value_of(recipe: Any, dotted: str) -> Any:
    """Return a value of a recipe by its dotted key."""
    for part in dotted.split("."):
        recipe = getattr(recipe, part)
    return recipe


def path_of(name: str) -> Path:
    """Return the result file of a text."""
    return RESULTS / f"cost-{name}.json"


def read(name: str) -> dict[str, Any]:
    """Return what is known of a text so far."""
    if not path_of(name).exists():
        return {"commands": [], "plans": {}, "trials": {}}
    told: dict[str, Any] = json.loads(path_of(name).read_text())
    return told


def write(name: str, told: dict[str, Any]) -> None:
    """Write what is known of a text."""
    told["commands"] = commands(told["commands"], MODULE)
    told["revision"] = revision()
    told["machine"] = describe("cpu")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path_of(name).write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
