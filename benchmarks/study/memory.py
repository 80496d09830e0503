"""What does a memory of the training text bring, what does it cost, and how much of it is the text so far?

    python -m benchmarks.study.memory RUN --name sewiki
    python -m benchmarks.study.memory RUN --name sewiki --adapt

RUN is a training run; its memory is made anew. ``--adapt`` scores the test text by dynamic evaluation, too, without
and with the memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, revision
from weft.api import remember
from weft.generation import Sampling, Written, write
from weft.run import Run

RESULTS = Path(__file__).parents[1] / "results" / "research"
ROUNDS = 7  # of writing, without and with the memory in turns
WRITTEN = 200  # tokens in a round


def main() -> None:
    """Measure; print and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True, help="of the text, such as sewiki")
    parser.add_argument("--adapt", action="store_true", help="dynamic evaluation as well")
    given = parser.parse_args()
    made = remember(given.run)
    told: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.study.memory", *sys.argv[1:]]),
        "revision": revision(),
        "machine": describe("cpu"),
        "memory": {"tokens": made.tokens, "bytes": made.bytes, "seconds": made.seconds},
        **bits(Run(given.run), adapt=given.adapt),
        "writing": writing(Run(given.run)),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"memory-{given.name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told, indent=1))


def bits(run: Run, *, adapt: bool) -> dict[str, Any]:
    """Return the bits per byte of validation and test text, by the weights, with the memory, and adaptively."""
    told: dict[str, Any] = {"validation": {}, "test": {}}
    for split in ("validation", "test"):
        figures = run.evaluate(split=split)
        told[split] = {"frozen": figures.bits_per_byte_frozen, "memory": figures.bits_per_byte_memory}
    if adapt:
        told["test"]["adaptive, no memory"] = run.evaluate(adapt=True, memory=False).bits_per_byte
        told["test"]["adaptive"] = run.evaluate(adapt=True).bits_per_byte
    return told


def writing(run: Run) -> dict[str, Any]:
    """Return the milliseconds of a token that is written, without and with the memory, measured in turns."""
    milliseconds: dict[str, list[float]] = {"without": [], "with": []}
    memories = {"without": None, "with": run.memory}
    for number in range(ROUNDS + 1):
        for name, memory in memories.items():
            started = time.perf_counter()
            sampling = Sampling(seed=number)
            tokens = 0
            for event in write(
                run.model, run.tokenizer, [""], max_new_tokens=WRITTEN, sampling=sampling, memory=memory
            ):
                tokens += isinstance(event, Written)
            if number:  # the first round makes the kernels
                milliseconds[name].append(1000 * (time.perf_counter() - started) / max(tokens, 1))
    medians = {name: statistics.median(each) for name, each in milliseconds.items()}
    # Texts end at different lengths, so rounds are not compared one by one.
    return {"milliseconds": medians, "ratio": medians["with"] / medians["without"], "rounds": milliseconds}


if __name__ == "__main__":
    main()
