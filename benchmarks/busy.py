"""Training speed beside other programs that want the same cores, by how long threads wait awake.

    python -m benchmarks.busy --programs 0,1,2 --minutes 0.2

Every run is a process of its own, as OpenMP reads its settings when it starts. "default" is as torch has it, "ours" as
weft.waiting sets it, "passive" sleeps at once. Results go into benchmarks/results/busy-cpu.json, beside those of other
numbers of programs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.machine import commands, describe
from weft.waiting import POLICY, SPINS, TURNS

RESULTS = Path(__file__).parent / "results" / "busy-cpu.json"
WAYS = {"default": {SPINS: "300000"}, "ours": {SPINS: TURNS}, "passive": {POLICY: "passive"}}
SETTINGS = (
    "training.logging.samples=0",
    "training.logging.validations=1",
    "training.batch.batch_size=8",
    "training.logging.log_every=1",
)
STARTING = 20  # seconds


def main() -> None:
    """Measure each way beside each number of other programs, in turn; print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default="0,1,2", help="how many busy ones run beside")
    parser.add_argument("--minutes", type=float, default=0.2, help="of each run")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    for programs in map(int, given.programs.split(",")):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
        try:
            speeds: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(given.rounds):
                for way, settings in WAYS.items():
                    speeds[way].append(_speed(settings, given.minutes))
        finally:
            for other in others:
                other.kill()
        found[str(programs)] = speeds
        told = ", ".join(f"{way} {median(each):,.0f}" for way, each in speeds.items())
        print(f"{programs} other programs: {told} tokens/s", flush=True)
    before = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"commands": [], "tokens_per_second": {}}
    now = {
        "commands": commands(before["commands"], "benchmarks.busy"),
        "machine": describe("cpu"),
        "tokens_per_second": before["tokens_per_second"] | found,
    }
    RESULTS.write_text(json.dumps(now, indent=1) + "\n")


def _speed(settings: dict[str, str], minutes: float) -> float:
    """Return the tokens a second of a short training run of a 1M hybrid on the bundled corpus."""
    environment = {key: value for key, value in os.environ.items() if key not in (POLICY, SPINS)} | settings
    with TemporaryDirectory() as folder:
        command = ["train", "weft:sewiki", "--out", f"{folder}/run", "--json", "--parameters", "1M"]
        command += ["--no-compressors", "--minutes", str(minutes), "--vocab-size", "2048"]
        command += [word for setting in SETTINGS for word in ("--set", setting)]
        # Scoring comes after the last step, and beside others takes long: what matters is written by then.
        with suppress(subprocess.TimeoutExpired):
            weft = [sys.executable, "-m", "weft", *command]
            subprocess.run(weft, env=environment, check=True, capture_output=True, timeout=60 * minutes + STARTING)
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "train"]
    return float(steps[-1]["tokens"] / steps[-1]["seconds"])


if __name__ == "__main__":
    main()
