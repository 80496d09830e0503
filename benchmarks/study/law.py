"""The law of :mod:`weft.training.dial`, fitted to runs of many sizes and lengths, and its picture.

python -m benchmarks.study.law [runs/study/size] --out benchmarks/results/study

``runs/study/size/CORPUS/ANYTHING`` are folders of ``weft compare`` with one contender each. Needs scipy.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks.study.tables import COLORS, CORPORA

SHORTEST = 1_000_000  # tokens: shorter runs are still warming up
STARTS = 40
NAMES = ("SIZE_SHARE", "SIZE_POWER", "TEXT_POWER", "REPEATS")
Floats = NDArray[np.float64]


def main() -> None:
    """Collect the runs, fit the law, print its constants and what it misses, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="?", help="none: those that --out holds")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/study"))
    given = parser.parse_args()
    path = given.out / "size.json"
    if given.runs:
        path.write_text(json.dumps(collect(given.runs), indent=1) + "\n")
    told = json.loads(path.read_text())
    different = told["training_bytes"]
    runs = [run | {"different": different[run["corpus"]]} for run in told["runs"] if run["tokens"] >= SHORTEST]
    corpora = list(dict.fromkeys(run["corpus"] for run in runs))
    found = fit(runs, corpora)
    misses = residuals(found, runs, corpora)
    for name, value in zip(NAMES, found, strict=False):
        print(f"{name} = {value:.3g}")
    print(f"{len(runs)} runs, root mean square of what it misses {100 * np.sqrt(np.mean(misses**2)):.2f} %")
    for run, miss in zip(runs, misses, strict=True):
        print(f"{run['corpus']:8}{run['parameters']:>10,}{run['tokens']:>12,}{run['bits']:8.4f}{100 * miss:+7.2f} %")
    draw(found, runs, corpora, given.out / "size.png")


def collect(folder: Path) -> dict[str, Any]:
    """Return every trial with its size, and what it read in bytes."""
    runs: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*/*/results.json")):
        told = json.loads(path.read_text())
        row = told["rows"][0]
        bytes_per_token = float(told["settings"]["corpus"].split(" bytes per token")[0].split("(")[-1])
        for trial in told["trials"]:
            if trial["status"] == "done":
                runs.append(
                    {
                        "corpus": path.parts[-3],
                        "parameters": row["parameters"],
                        "body_parameters": row["body_parameters"],
                        "pattern": row["pattern"],
                        "tokens": trial["tokens"],
                        "bytes": round(trial["tokens"] * bytes_per_token),
                        "seconds": trial["seconds"],
                        "seed": trial["seed"],
                        "validation": trial["validation_bits_per_byte"],
                        "test": trial["bits_per_byte"],
                        "bits": (trial["validation_bits_per_byte"] + trial["bits_per_byte"]) / 2,
                        "git_revision": told["git_revision"],
                    }
                )
    texts = {"sewiki": 1_929_440, "slv": 9_000_069, "hy": 17_159_902}
    return {"training_bytes": texts, "runs": runs}


def effective(read: Floats, different: Floats, repeats: float) -> Floats:
    """Return the bytes that reading ``read``, ``different`` of them different, is worth."""
    passes = np.maximum(read / different - 1, 0)
    return np.minimum(read, different) * (1 + repeats * (1 - np.exp(-passes / repeats)))


def predict(constants: Floats, runs: list[dict[str, Any]], corpora: list[str]) -> Floats:
    """Return the law's bits per byte; after the shared constants come two for each corpus: a floor and a scale."""
    share, power, text_power, repeats, *own = constants
    place = np.array([corpora.index(run["corpus"]) for run in runs])
    floor, scale = np.array(own[::2])[place], np.array(own[1::2])[place]
    size, read, different = (
        np.array([run[key] for run in runs], dtype=np.float64) for key in ("parameters", "bytes", "different")
    )
    text = (effective(read, different, repeats) / 1e6) ** -text_power
    result: Floats = floor + scale * (share * (size / 1e6) ** -power + text)
    return result


def residuals(constants: Floats, runs: list[dict[str, Any]], corpora: list[str]) -> Floats:
    """Return log(predicted / measured)."""
    return np.asarray(np.log(predict(constants, runs, corpora)) - np.log([run["bits"] for run in runs]))


def fit(runs: list[dict[str, Any]], corpora: list[str]) -> Floats:
    """Return the constants of the best of many robust fits."""
    random, best = np.random.default_rng(0), None
    low = np.array([0.0, 0.05, 0.05, 1.0] + [0.0, 0.0] * len(corpora))
    high = np.array([9.0, 2.0, 2.0, 50.0] + [2.5, 5.0] * len(corpora))
    for _ in range(STARTS):
        start = np.concatenate([random.uniform(0.1, 0.6, 3), [random.uniform(2, 20)], [0.8, 0.4] * len(corpora)])
        tried = least_squares(residuals, start, bounds=(low, high), args=(runs, corpora), loss="soft_l1", f_scale=0.01)
        best = tried if best is None or tried.cost < best.cost else best
    assert best is not None
    return np.asarray(best.x)


def draw(constants: Floats, runs: list[dict[str, Any]], corpora: list[str], path: Path) -> None:
    """Draw measured points and the law's lines, one for each amount of text."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    canvas, axes = plt.subplots(1, len(corpora), figsize=(4.6 * len(corpora), 4), layout="constrained", squeeze=False)
    sizes = np.geomspace(2e5, 8e6, 60)
    for ax, corpus in zip(axes[0], corpora, strict=True):
        mine = [run for run in runs if run["corpus"] == corpus]
        for read in sorted({round(run["bytes"] / 3e6) * 3 for run in mine}):
            line = [{**mine[0], "parameters": size, "bytes": read * 1e6} for size in sizes]
            bits = predict(constants, line, corpora)
            ax.plot(sizes, bits, color=COLORS[corpus], lw=0.8, alpha=0.6)
            ax.annotate(f"{read} MB read", (sizes[-1], bits[-1]), fontsize=7, ha="right", va="bottom")
        ax.scatter([run["parameters"] for run in mine], [run["bits"] for run in mine], color=COLORS[corpus], s=22)
        ax.set_xscale("log")
        ax.set_xticks([250e3, 500e3, 1e6, 2e6, 4e6, 8e6], ["250k", "500k", "1M", "2M", "4M", "8M"])
        ax.minorticks_off()
        ax.set_title(f"{CORPORA[corpus]}, {mine[0]['different'] / 1e6:.3g} MB of text", fontsize=9, loc="left")
        ax.set_xlabel("parameters", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("bits per byte (mean of validation and test)", fontsize=8)
    canvas.savefig(path, dpi=110)
    plt.close(canvas)


if __name__ == "__main__":
    main()
