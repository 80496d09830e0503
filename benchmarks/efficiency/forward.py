"""How fast are structured feed-forwards? Their forward pass against the dense one, in turns, as ratios of medians.

python -m benchmarks.efficiency.forward                                  # a CPU: width 1024, 2048 tokens
python -m benchmarks.efficiency.forward --device cuda --width 5120 --tokens 30000
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.machine import describe, revision
from weft.blocks import FeedForwardBlock
from weft.config import merge
from weft.model import build
from weft.sizing import configure

RESULTS = Path(__file__).parents[1] / "results" / "efficiency"
RANKS = (("63 %", 1 / 2, 3 / 4), ("32 %", 1 / 4, 3 / 8))  # of the width, for low_rank and block_dense of 4 blocks
DENSE = "dense"


def main() -> None:
    """Time them; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bf16", action="store_true")
    given = parser.parse_args()
    forms = contenders(given.width, torch.device(given.device))
    x_BTD = torch.randn(1, given.tokens, given.width, device=given.device)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(given.rounds + 2):
        names = list(forms)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken = timed(forms[name], x_BTD, bf16=given.bf16)
            if turn >= 2:  # warm
                seconds[name].append(taken)
    medians = {name: median(each) for name, each in seconds.items()}
    told = {
        "command": " ".join(["python -m benchmarks.efficiency.forward", *sys.argv[1:]]),
        "machine": describe(given.device) | {"threads": torch.get_num_threads()},
        "revision": revision(),
        "seconds": seconds,
        "faster": {name: medians[DENSE] / each for name, each in medians.items()},
        "parameters": {name: sum(p.numel() for p in block.parameters()) for name, block in forms.items()},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    name = f"forward-{given.device}-{given.width}{'-bf16' if given.bf16 else ''}.json"
    (RESULTS / name).write_text(json.dumps(told, indent=1) + "\n")
    print("| feed-forward | parameters | milliseconds | times as fast |\n|---|---:|---:|---:|")
    for form, each in medians.items():
        print(f"| {form} | {told['parameters'][form]:,} | {1e3 * each:.2f} | {told['faster'][form]:.2f} |")


def contenders(width: int, device: torch.device) -> dict[str, FeedForwardBlock]:
    """Return the feed-forward blocks by what their maps are made of: the published ranks and blocks."""
    kinds: dict[str, dict[str, object]] = {}
    for share, low_rank, block_dense in RANKS:
        kinds[f"low_rank, {share}"] = {"kind": "low_rank", "rank": round(low_rank * width)}
        kinds[f"block_dense, {share}"] = {"kind": "block_dense", "rank": round(block_dense * width), "blocks": 4}
    kinds |= {f"block_shuffle, {blocks} blocks": {"kind": "block_shuffle", "blocks": blocks} for blocks in (2, 4)}
    forms = {DENSE: feed_forward(width, {}, device)}
    return forms | {name: feed_forward(width, maps | {"dense_first": 0}, device) for name, maps in kinds.items()}


def feed_forward(width: int, maps: dict[str, object], device: torch.device) -> FeedForwardBlock:
    """Return one block of ``width`` features and four times as many inside."""
    settings = merge({"hidden_size": width}, {"maps": {"feed_forward": maps}} if maps else {})
    block = build(configure("f", 8, settings), seed=0).blocks[0].eval().to(device)
    assert isinstance(block, FeedForwardBlock)
    return block


@torch.no_grad()
def timed(block: FeedForwardBlock, x_BTD: torch.Tensor, *, bf16: bool) -> float:
    """Return the seconds of the two maps and what is between them."""
    with torch.autocast(x_BTD.device.type, torch.bfloat16, enabled=bf16):
        if x_BTD.device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        block.mix(x_BTD, None, None)
        if x_BTD.device.type == "cuda":
            torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
