"""Time one token: an exported step in onnxruntime against the model in torch, one thread each, taking turns.

    weft export runs/mine && python benchmarks/onnx_step.py runs/mine

Prints both medians and their ratio. The machine's noise falls on both alike, as they alternate; compare the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch

from weft.export.programs import input_names
from weft.export.states import StateLayout
from weft.pretrained import load_model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--tokens", type=int, default=300, help="timed tokens, after a memory's length of others")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.run)
    layout = StateLayout(model)
    torch_step, onnx_step = _torch_step(model), _onnx_step(arguments.run / "onnx" / "step.onnx", layout)
    seconds: dict[str, list[float]] = {"torch": [], "onnxruntime": []}
    for _ in range(model.window + 3):  # until the state has its full size
        torch_step()
    for _ in range(arguments.tokens):
        for name, step in (("torch", torch_step), ("onnxruntime", onnx_step)):
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: 1000 * statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:12} {median:8.3f} ms a token")
    print(f"ratio        {medians['torch'] / medians['onnxruntime']:8.2f}")


def _torch_step(model) -> Callable[[], None]:
    tokens, state = torch.zeros(1, 1, dtype=torch.long), [None]

    @torch.no_grad()
    def step() -> None:
        _, state[0] = model(tokens, state[0])

    return step


def _onnx_step(path: Path, layout: StateLayout) -> Callable[[], None]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    names = input_names("step", layout)
    values = [torch.zeros(1, 1, dtype=torch.long).numpy(), *(tensor.numpy() for tensor in layout.start(1))]
    feed = dict(zip(names, values, strict=True))

    def step() -> None:
        _, *after = session.run(None, feed)
        feed.update(zip(names[1:], after, strict=True))

    return step


if __name__ == "__main__":
    main()
