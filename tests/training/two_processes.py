"""What test_processes.py lets two processes do together: a straight run, a stopped and resumed one, others handed on.

Arguments: the folder of the runs, with ``recipe.yaml`` in it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import yaml

from weft.config import merge
from weft.errors import Interrupted
from weft.training.listener import Silent
from weft.training.run import train

STOP = 5


class StopAt(Silent):
    """Sends this process a signal at a step."""

    def status(self, status):
        if status.step == STOP:
            os.kill(os.getpid(), signal.SIGTERM)


def train_until_stopped(values, out: Path) -> None:
    try:
        train(values, out, listener=StopAt())
    except Interrupted as stop:
        assert stop.signal_number == signal.SIGTERM
    else:
        raise AssertionError("the run was not stopped")


def main(folder: Path) -> None:
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    train(values, folder / "straight")
    train_until_stopped(values, folder / "stopped")
    train({}, folder / "stopped", resume=True)
    train_until_stopped(values, folder / "two then one")
    train(merge(values, {"training": {"optimizer": {"name": "normuon"}, "steps": 5}}), folder / "muon")
    train({}, folder / "one then two", resume=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
