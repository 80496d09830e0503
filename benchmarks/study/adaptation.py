"""How boldly should dynamic evaluation learn; does it help to mix what learns with the frozen model, and with a cache?

    python -m benchmarks.study.adaptation RUN --name sewiki
    python -m benchmarks.study.adaptation RUN --name slv --tokens 60000

RUN is a training run, whose validation text (or its beginning) is read once at each rate of RATES.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import revision
from weft import api, reading
from weft.data import TokenizedSplit
from weft.evaluation.adaptation import SWITCH, Adaptation, mix, score_adaptively
from weft.evaluation.evaluate import total_nats
from weft.evaluation.scoring import first_part, score
from weft.pretrained import load_tokenizer
from weft.recall import first_guess, look_back, mix_in
from weft.recall.constants import LONGEST

RESULTS = Path(__file__).parents[1] / "results" / "study"
RATES = (6e-5, 1.25e-4, 2.5e-4, 5e-4, 1e-3)
Nats = NDArray[np.float32]


def main() -> None:
    """Read the text at every rate; print and write the bits per byte."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True, help="of the text, such as sewiki")
    parser.add_argument("--tokens", type=int, default=10**9, help="read no more than so many")
    given = parser.parse_args()
    tokenizer, model = load_tokenizer(given.run), api.load(given.run)
    split = first_part(reading.read_split(given.run, tokenizer, (), "validation"), given.tokens, tokenizer)
    boundary = tokenizer.boundary_id
    learned = {rate: score_adaptively(model, split, Adaptation(rate=rate), boundary_id=boundary) for rate in RATES}
    told = bits(score(model, split, boundary_id=boundary), learned, split, boundary)
    command = " ".join(["python -m benchmarks.study.adaptation", *sys.argv[1:]])
    write(given.name, told | {"command": command, "revision": revision()})


def bits(frozen_N: Nats, learned: Mapping[float, Nats], split: TokenizedSplit, boundary: int) -> dict[str, Any]:
    """Return the bits per byte of ``split``: frozen, at each rate alone and mixed with frozen, and all with a cache."""

    def per_byte(nats_N: Nats) -> float:
        return total_nats(nats_N) / math.log(2) / split.bytes

    found = look_back(split.tokens, boundary, LONGEST)
    is_text_N = np.asarray(split.tokens) != boundary

    def cached(nats_N: Nats) -> float:
        counted_N = mix_in(nats_N, is_text_N, found, first_guess(), learn=True)
        return per_byte(mix(np.stack([nats_N, counted_N])))

    mixed = {f"{rate:g}": mix(np.stack([frozen_N, nats_N])) for rate, nats_N in learned.items()}
    return {
        "bytes": split.bytes,
        "switch": SWITCH,
        "frozen": per_byte(frozen_N),
        "frozen, cache": cached(frozen_N),
        "alone": {f"{rate:g}": per_byte(nats_N) for rate, nats_N in learned.items()},
        "mixed": {rate: per_byte(nats_N) for rate, nats_N in mixed.items()},
        "mixed, cache": {rate: cached(nats_N) for rate, nats_N in mixed.items()},
    }


def write(name: str, told: Mapping[str, Any]) -> None:
    """Write the result and print its table."""
    (RESULTS / f"adaptation-{name}.json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"frozen {told['frozen']:.4f}, with a cache {told['frozen, cache']:.4f}\n")
    print("| rate | alone | mixed | with a cache |\n|---:|---:|---:|---:|")
    for rate, alone in told["alone"].items():
        print(f"| {rate} | {alone:.4f} | {told['mixed'][rate]:.4f} | {told['mixed, cache'][rate]:.4f} |")


if __name__ == "__main__":
    main()
