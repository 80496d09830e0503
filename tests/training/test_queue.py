"""Steps that are queued, as on a GPU, are the steps that a look at each would have given."""

from __future__ import annotations

import signal

import pytest
import torch

from tests.training.test_run import StopAt, assert_same_run, events
from weft.errors import Interrupted, UserError
from weft.model import WeftModel
from weft.training import trainer
from weft.training.listener import Silent
from weft.training.prefetch import Prefetcher
from weft.training.queue import Queue
from weft.training.run import train

ADAMW = {
    "optimizer": {"name": "adamw"},
    "methods": {"average": {"decay": 0.9}},
    "batch": {"accumulation": 2},
}


@pytest.fixture
def queued(monkeypatch):
    """Let steps queue up and segments be made ahead, as on a GPU."""

    def on():
        monkeypatch.setattr(trainer, "longest_queue", lambda _device, log_every: log_every)
        monkeypatch.setattr(trainer, "Prefetcher", lambda stream, device, **_: Prefetcher(stream, device, ahead=True))

    return on


@pytest.fixture
def spoiled(monkeypatch):
    """Make the losses of some calls infinite or not a number."""

    def spoil(calls: dict[int, float]):
        loss, made = WeftModel.loss, []

        def sometimes(self, *args):
            value, state = loss(self, *args)
            made.append(1)
            return value * calls.get(len(made), 1.0), state

        monkeypatch.setattr(WeftModel, "loss", sometimes)
        return made

    return spoil


class Looks(Silent):
    def __init__(self):
        self.steps = []

    def status(self, status):
        self.steps.append(status.step)


@pytest.mark.parametrize("changes", [{}, ADAMW], ids=["muon", "adamw"])
def test_a_queued_run_is_the_run_step_by_step(tiny, tmp_path, queued, spoiled, changes):
    values = tiny(training={"steps": 30, "logging": {"log_every": 6, "checkpoint_every": 12}, **changes})
    bad = {4: float("nan"), 5: float("inf"), 20: float("nan"), 21: float("nan"), 22: float("nan")}
    made, listener = spoiled(bad), Looks()
    train(values, tmp_path / "seen")
    made.clear()
    queued()
    train(values, tmp_path / "queued", listener=listener)
    assert_same_run(tmp_path / "seen", tmp_path / "queued")
    skipped = [record["step"] for record in events(tmp_path / "queued") if record["event"] == "skipped"]
    assert skipped == ([4, 5, 20, 21, 22] if not changes else [2, 3, 10, 11])
    assert 1 in listener.steps
    assert len(listener.steps) < 20


def test_a_queued_run_resumes_where_its_segments_were_used_up(tiny, tmp_path, queued):
    values = tiny(training={"steps": 30, "logging": {"log_every": 4, "checkpoint_every": 7}})
    queued()
    train(values, tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(values, tmp_path / "stopped", listener=StopAt(14, signal.SIGINT))
    train({}, tmp_path / "stopped", resume=True)
    ours, theirs = (events(tmp_path / name) for name in ("straight", "stopped"))
    last = [[r["loss"] for r in found if r["event"] == "train"][-1] for found in (ours, theirs)]
    assert last[0] == last[1]


def test_a_queued_run_gives_up_too(tiny, tmp_path, queued, spoiled):
    made = spoiled(dict.fromkeys(range(9, 100), float("nan")))
    queued()
    with pytest.raises(UserError, match="5 times in a row at step 13: .*lower training.optimizer.learning_rate"):
        train(tiny(training={"steps": 60, "logging": {"log_every": 10, "checkpoint_every": 50}}), tmp_path / "run")
    assert len(made) < 30
    assert len([record for record in events(tmp_path / "run") if record["event"] == "skipped"]) == 5


def test_a_queued_run_keeps_to_its_minutes(tiny, tmp_path, queued):
    values = tiny(training={"logging": {"log_every": 10, "checkpoint_every": 1000}})
    del values["training"]["steps"]
    queued()
    result = train({**values, "training": {**values["training"], "minutes": 0.02}}, tmp_path / "run")
    assert 1.2 <= result.seconds < 6
    assert [r["event"] for r in events(tmp_path / "run")].count("validation") == 3


def test_a_queue_fills_up_by_number_or_by_time():
    queue = Queue(4)
    assert queue.full  # nobody knows yet how long a step takes
    queue.seconds_per_step = 0.3
    for number, full in ((1, False), (2, False), (3, True)):
        queue.add(torch.tensor([1.0, 2.0, 0.0]))
        assert queue.full == full, number
    assert queue.expected_seconds == pytest.approx(0.9)
    results, seconds = queue.read()
    assert [tuple(result) for result in results] == [(1.0, 2.0, False)] * 3
    assert seconds >= 0
    assert len(queue) == 0
    queue.seconds_per_step = 0.01
    for _ in range(4):
        assert not queue.full
        queue.add(torch.tensor([1.0, 2.0, 1.0]))
    assert queue.full
