"""Checkpoints are whole or not there, the last two are kept, and an optimizer goes on from one as before."""

from __future__ import annotations

import errno
import json
import os
import shutil

import pytest
import torch

from tests.conftest import small_model
from weft.errors import UserError
from weft.training import checkpoint as checkpoints
from weft.training.checkpoint import Checkpoint, load_optimizer, optimizer_tensors, read_checkpoint, write_checkpoint
from weft.training.optimizer import make_optimizers
from weft.training.recipe import TrainingConfig


def made(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    whole = torch.randn(6, 4, generator=generator)
    return Checkpoint(
        {"step": step, "stream": [1, 2], "best": None},
        {"model": {"a": whole, "a view": whole[1:3].t(), "b": torch.randn(3).bfloat16()}, "lanes": {}},
    )


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert one.progress["step"] == other.progress["step"]
    assert one.groups.keys() == other.groups.keys()
    for name, tensors in one.groups.items():
        assert tensors.keys() == other.groups[name].keys()
        assert all(torch.equal(tensor, other.groups[name][key]) for key, tensor in tensors.items())


def listing(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    assert read_checkpoint(tmp_path / "none yet") is None
    written = made(3)
    assert write_checkpoint(tmp_path, 3, written) == tmp_path / "step-00000003"
    found, damaged = read_checkpoint(tmp_path)
    assert damaged == []
    assert_same(found, written)
    assert {key: found.progress[key] for key in written.progress} == written.progress
    assert not list(tmp_path.rglob("*.pt")) + list(tmp_path.rglob("*.bin"))


def test_the_last_two_are_kept_in_order_of_steps(tmp_path):
    for step in (1, 2, 10, 9, 100):
        last = made(step)
        write_checkpoint(tmp_path, step, last)
    assert listing(tmp_path) == ["step-00000010", "step-00000100"]
    assert_same(read_checkpoint(tmp_path)[0], last)


def test_the_same_step_may_be_written_again(tmp_path):
    write_checkpoint(tmp_path, 5, made(4))
    again = made(5)
    write_checkpoint(tmp_path, 5, again)
    assert listing(tmp_path) == ["step-00000005"]
    assert_same(read_checkpoint(tmp_path)[0], again)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_crash_while_writing_leaves_the_earlier_ones(tmp_path, monkeypatch, at, number):
    """Three files, the manifest and the folder are flushed: fail at each."""
    earlier = made(2)
    write_checkpoint(tmp_path, 1, made(1))
    write_checkpoint(tmp_path, 2, earlier)
    fsync, calls = os.fsync, []

    def fail(descriptor):
        calls.append(1)
        if len(calls) > at:
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UserError if number == errno.ENOSPC else OSError, match="disk is full|Input/output"):
        write_checkpoint(tmp_path, 3, made(3))
    monkeypatch.undo()
    assert len(calls) == at + 1
    assert listing(tmp_path) == ["step-00000001", "step-00000002"]
    assert_same(read_checkpoint(tmp_path)[0], earlier)


def test_what_a_killed_process_left_half_written_is_never_read(tmp_path, monkeypatch):
    earlier = made(2)
    write_checkpoint(tmp_path, 2, earlier)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        patch.setattr(shutil, "rmtree", lambda *_args, **_kwargs: None)  # as a kill would, leave everything
        with pytest.raises(KeyboardInterrupt):
            write_checkpoint(tmp_path, 3, made(3))
    assert len(list(tmp_path.iterdir())) == 2
    found, damaged = read_checkpoint(tmp_path)
    assert_same(found, earlier)
    assert damaged == []
    write_checkpoint(tmp_path, 4, made(4))
    assert {"step-00000002", "step-00000004"} <= set(listing(tmp_path))


def interrupt(_descriptor):
    raise KeyboardInterrupt


def flip_a_bit(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a bit": flip_a_bit,
    "cut short": lambda f: os.truncate(f / "model.safetensors", 50),
    "no manifest": lambda f: (f / "manifest.json").unlink(),
    "manifest cut": lambda f: os.truncate(f / "manifest.json", 9),
    "manifest empty": lambda f: (f / "manifest.json").write_text("{}"),
    "a file gone": lambda f: (f / "lanes.safetensors").unlink(),
    "progress changed": lambda f: (f / "progress.json").write_text('{"step": 9}'),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, damage):
    earlier = made(1)
    for step, content in ((1, earlier), (2, made(2))):
        write_checkpoint(tmp_path, step, content)
    damage(tmp_path / "step-00000002")
    found, damaged = read_checkpoint(tmp_path)
    assert damaged == ["step-00000002"]
    assert_same(found, earlier)
    damage(tmp_path / "step-00000001")
    with pytest.raises(UserError, match="Every checkpoint .*step-00000002, step-00000001.*overwrite=True"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_of_another_format_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT", 3)
    write_checkpoint(tmp_path, 1, made(1))
    monkeypatch.undo()
    with pytest.raises(UserError, match="another version of Weft"):
        read_checkpoint(tmp_path)
    assert json.loads((tmp_path / "step-00000001" / "progress.json").read_text())["format"] == 3


def take_steps(model, optimizers, number: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("optimizer", ["muon", "normuon", "adamw"])
def test_an_optimizer_goes_on_from_its_saved_state_bit_for_bit(tmp_path, optimizer):
    config = TrainingConfig(optimizer={"name": optimizer, "learning_rate": 0.01})
    model = small_model("qfaf")
    optimizers = make_optimizers(model, config)
    take_steps(model, optimizers, 3, seed=1)
    groups = {str(index): optimizer_tensors(each) for index, each in enumerate(optimizers)}
    write_checkpoint(tmp_path, 3, Checkpoint({"step": 3}, groups))
    other = small_model("qfaf")
    other.load_state_dict(model.state_dict())
    fresh = make_optimizers(other, config)
    take_steps(model, optimizers, 2, seed=2)
    for index, each in enumerate(fresh):
        load_optimizer(each, read_checkpoint(tmp_path)[0].groups[str(index)])
    take_steps(other, fresh, 2, seed=2)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, other.get_parameter(name)), name


def test_a_fresh_optimizer_has_nothing_to_save():
    model = small_model("q")
    optimizer = make_optimizers(model, TrainingConfig(optimizer={"name": "adamw"}))[0]
    assert optimizer_tensors(optimizer) == {}
    load_optimizer(optimizer, {})
    take_steps(model, [optimizer], 1, seed=0)
    assert optimizer_tensors(optimizer).keys() >= {"0.step", "0.exp_avg", "0.exp_avg_sq"}
