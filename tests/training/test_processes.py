"""Several processes train what one with their whole batch does; a run goes on with as many or with another number."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.training.test_run import assert_same_run, events, last_weights
from tests.training.two_processes import train_until_stopped
from weft.config import merge
from weft.errors import UserError
from weft.training.run import train

# All four blocks; documents end at different places in the rows of a batch, so the processes have different numbers
# of targets.
MODEL = {"pattern": "xqfa", "hidden_size": 16, "attention": {"window": 16}}
# What cannot be sharded.
SHARED = {"pattern": "x{qf}2a", "ngrams": {"heads": 2, "clusters": 20, "table_size": 100, "width": 4, "decay": 0.8}}
# AdamW, because Muon's bf16 iterations blow differences of rounding up to where they can be seen.
TRAINING = {
    "batch": {"batch_size": 2, "sequence_length": 16, "accumulation": 2},
    "steps": 9,
    "methods": {"average": {"decay": 0.9}},
    "optimizer": {"name": "adamw"},
}


def run_together(folder: Path, **environment: str) -> str:
    """Let two processes do what two_processes.py says; return what they printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).with_name("two_processes.py")
    done = subprocess.run(
        [*command, str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_close_runs(one: Path, other: Path) -> None:
    ours, theirs = last_weights(one), last_weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=2e-4, atol=2e-5, msg=name)
    for ours_line, theirs_line in zip(events(one), events(other), strict=True):
        assert ours_line["step"] == theirs_line["step"]
        if ours_line["event"] == "train":
            assert ours_line["bits_per_byte"] == pytest.approx(theirs_line["bits_per_byte"], rel=1e-5)
            assert ours_line["tokens"] == theirs_line["tokens"]


@pytest.mark.parametrize("sharded", [False, True], ids=["data-parallel", "sharded"])
def test_two_processes_train_as_one_with_twice_the_batch(tiny, tmp_path, sharded):
    alone = tiny(model=MODEL if sharded else MODEL | SHARED, training=TRAINING | {"logging": {"samples": 0}})
    together = merge(alone, {"training": {"batch": {"batch_size": 1}}})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(together))
    train(alone, tmp_path / "alone")
    train_until_stopped(alone, tmp_path / "one then two")
    run_together(tmp_path, ACCELERATE_USE_FSDP="true" if sharded else "false")
    assert_close_runs(tmp_path / "alone", tmp_path / "straight")
    assert_close_runs(tmp_path / "alone", tmp_path / "one then two")
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    train({}, tmp_path / "two then one", resume=True)
    assert_close_runs(tmp_path / "alone", tmp_path / "two then one")
    train(merge(alone, {"training": {"optimizer": {"name": "normuon"}, "steps": 5}}), tmp_path / "muon alone")
    losses = [[e["loss"] for e in events(tmp_path / run) if e["event"] == "train"] for run in ("muon", "muon alone")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # a shard orthogonalised by itself would be far off


def test_lanes_that_cannot_be_shared_are_told(tiny, tmp_path, monkeypatch):
    train_until_stopped(tiny(training={"batch": {"batch_size": 3}}), tmp_path / "run")
    monkeypatch.setattr("weft.training.parallel.Processes.__init__", _two_processes)
    with pytest.raises(UserError, match="a batch of 3, which 2 processes cannot share evenly: .* divides 3"):
        train({}, tmp_path / "run", resume=True)


def _two_processes(self) -> None:
    """Stand for the first of two processes, as far as it goes before they must meet."""
    from accelerate import Accelerator

    self.accelerator = Accelerator()
    self.rank, self.count, self.main, self.sharded = 0, 2, True, False
    self.device = self.accelerator.device
