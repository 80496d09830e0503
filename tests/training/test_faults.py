"""Runs that are killed at any file operation, and damaged files of a run: what is left goes on, or says why."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import weft
from tests.command import assert_mistake, run_weft
from tests.training.conftest import TINY
from tests.training.kills import DESCRIPTORS, killed
from tests.training.test_run import Hear, StopAt, assert_same_run
from weft import api
from weft.config import merge
from weft.errors import Interrupted, UserError
from weft.files import alone_in
from weft.records import RECIPE
from weft.reports.run.finish import finish_run
from weft.training.listener import Silent, read_metrics
from weft.training.run import train

QUICK = {"steps": 4, "logging": {"samples": 1, "validations": 2, "checkpoint_every": 2}}
kills = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="the system does not tell what is open")
DEAD = 2**22 + 1  # more than any process's number


@pytest.fixture(scope="module")
def place(tmp_path_factory, corpus_text):
    """A folder with a text and a run to start from, learn from or overwrite."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "text.txt").write_text(corpus_text, encoding="utf-8")
    train(quick(folder, training={"seed": 7}), folder / "origin")
    return folder


def quick(folder: Path, **changes):
    values = merge(copy.deepcopy(TINY), {"data": {"sources": [str(folder / "text.txt")]}, "training": QUICK})
    return merge(values, changes)


@pytest.fixture(scope="module")
def finished(place):
    train(quick(place), place / "finished", finish=lambda _: finish_run(place / "finished"))
    return place / "finished"


@pytest.fixture(scope="module")
def unfinished(place):
    with pytest.raises(Interrupted):
        train(quick(place), place / "unfinished", listener=StopAt(3, signal.SIGTERM))
    return place / "unfinished"


def listing(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*"))


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


STARTS = {
    "from nothing": ({}, False, 13),
    "over another run": ({}, True, 17),
    "from another run's model": ({"training": {"start": {"run": "origin"}}}, False, 29),
    "with a teacher": ({"training": {"methods": {"distillation": {"run": "origin"}}}}, False, 31),
}


@kills
@pytest.mark.parametrize(("changes", "overwrite", "apart"), STARTS.values(), ids=STARTS)
def test_a_run_that_is_killed_at_any_file_operation_resumes(place, tmp_path, monkeypatch, changes, overwrite, apart):
    monkeypatch.chdir(place)
    values, run = quick(place, **changes), tmp_path / "run"

    def start(at: int | None) -> list[str]:
        shutil.rmtree(run, ignore_errors=True)
        if overwrite:
            shutil.copytree(place / "origin", run)
        with killed(run, at) as watch:
            train(values, run, overwrite=overwrite)
        return watch.operations

    operations = start(None)
    straight = shutil.copytree(run, tmp_path / "straight")
    recipe = (straight / RECIPE).read_text()
    begun = next(n for n, operation in enumerate(operations) if operation.startswith("os.rename .recipe.yaml"))
    for at in (0, begun, *range(begun + 1, len(operations), apart)):
        start(at)
        if at > begun:
            train({}, run, resume=True)
        else:  # not a byte of the new run stands yet: what there was before is as it was
            assert overwrite or not (run / RECIPE).exists()
            train(values, run, overwrite=overwrite)
        told = f"killed at {operations[at]}"
        assert_same_run(straight, run)
        assert listing(run) == listing(straight), told
        assert (run / RECIPE).read_text() == recipe, told


@kills
def test_a_run_may_be_killed_again_while_it_begins_again(place, tmp_path):
    run = tmp_path / "run"
    train(quick(place), tmp_path / "straight")
    with killed(run, 27):
        train(quick(place), run)
    for at in (0, 1, 4, 9, 14):
        with killed(run, at):
            train({}, run, resume=True)
    train({}, run, resume=True)
    assert_same_run(tmp_path / "straight", run)
    assert listing(run) == listing(tmp_path / "straight")


@kills
def test_a_run_that_begins_again_keeps_its_budget_and_what_is_not_of_it(place, tmp_path, monkeypatch):
    run, heard = tmp_path / "run", Hear()
    with killed(run, 27):
        train(quick(place), run)
    (run / "notes.txt").write_text("mine")
    monkeypatch.setenv("WEFT_MAX_STEPS", "2")
    assert train({}, run, resume=True, listener=heard).steps == 2
    assert "There is no checkpoint yet: this run begins again, from its recipe." in heard.lines
    monkeypatch.delenv("WEFT_MAX_STEPS")
    assert train({}, run, resume=True).steps == 4
    assert (run / "notes.txt").read_text() == "mine"


def test_what_killed_writers_left_is_swept_and_nothing_else(place, tmp_path, unfinished):
    run = shutil.copytree(unfinished, tmp_path / "run")
    others = [f".thesis.txt.{DEAD}.tmp", f"model.safetensors.{DEAD}.tmp", ".model.safetensors.tmp"]
    kept = [f".results.json.{os.getppid()}.tmp", f".recipe.yaml.{DEAD}.tmpx", *others]
    for name in (
        *kept,
        f".model.safetensors.{DEAD}.tmp",
        f".report.html.{DEAD}.tmp",
        f".config.json.{os.getpid()}.tmp",
    ):
        (run / name).write_text("half")
    (run / "checkpoints" / f".step-00000004.{DEAD}.tmp").mkdir()
    train({}, run, resume=True)
    assert {path.name for path in run.rglob("*") if ".tmp" in path.name} == set(kept)


def test_a_folder_with_nothing_but_what_a_killed_start_left_is_free(place, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / f".recipe.yaml.{DEAD}.tmp").write_text("half")
    train(quick(place), run)
    assert not list(run.glob(".*"))


class Meanwhile(Silent):
    """Does something at the first word of a run and at its first step."""

    def __init__(self, act) -> None:
        self.act, self.seen = act, set()

    def message(self, _text):
        self.once("word")

    def status(self, _status):
        self.once("step")

    def once(self, when: str) -> None:
        if when not in self.seen:
            self.seen.add(when)
            self.act()


@pytest.mark.parametrize("overwrite", [False, True])
def test_who_comes_second_to_a_folder_changes_nothing(place, tmp_path, overwrite):
    """From the first word on, when nothing of the run is written yet."""
    out = tmp_path / "run"
    if overwrite:
        shutil.copytree(place / "origin", out)
    refused = []

    def come_second() -> None:
        before = contents(out)
        for how in ({}, {"overwrite": True}, {"resume": True}):
            values = {} if "resume" in how else quick(place, training={"optimizer": {"learning_rate": 1.0}})
            with pytest.raises(UserError, match=r"Another process is at work in|no run to resume") as told:
                train(values, out, **how)
            refused.append(str(told.value))
        assert_mistake(run_weft("train", place / "text.txt", "--out", out, "--overwrite"), "Another process is at work")
        if not (out / RECIPE).exists():
            with pytest.raises(UserError, match="Another process is at work"):
                api.unshare(shared, out)
        assert contents(out) == before

    shared = tmp_path / "shared"
    train(quick(place, model={"pattern": "[qf]2"}, training={"steps": 1}), shared)
    train(quick(place), out, overwrite=overwrite, listener=Meanwhile(come_second))
    train(quick(place), tmp_path / "straight")
    assert len(refused) == 6
    assert_same_run(tmp_path / "straight", out)
    assert (out / RECIPE).read_text() == (tmp_path / "straight" / RECIPE).read_text()


def test_of_two_that_start_at_once_one_goes_on(place, tmp_path):
    """With two sizes, whose weights must not come into one folder."""
    out = tmp_path / "run"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(quick(place, training={"steps": 60})))
    command = [sys.executable, "-m", "weft", "train", "--recipe", recipe, "--out", out, "--set"]
    started = [
        subprocess.Popen(
            [*command, f"model.hidden_size={size}"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for size in (16, 32)
    ]
    said = [process.communicate(timeout=200)[1] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(codes) == [0, 2], said
    winner = codes.index(0)
    assert said[1 - winner].startswith("Error: ")
    assert said[1 - winner].count("\n") == 1
    assert yaml.safe_load((out / RECIPE).read_text())["model"]["hidden_size"] == (16, 32)[winner]
    weft.load(out)
    assert not [path for path in out.rglob("*") if path.name.endswith(".tmp")]


def test_a_start_that_fails_leaves_no_folder(place, tmp_path):
    with pytest.raises(UserError, match="no file|There is no"):
        train(quick(place, data={"sources": ["missing.txt"]}), tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="no file|There is no"):
        train(quick(place, data={"sources": ["missing.txt"]}), tmp_path / "mine")
    assert (tmp_path / "mine").exists()


def test_what_is_done_with_the_result_is_done_before_anybody_else_comes(place, tmp_path):
    def finish(result) -> None:
        with pytest.raises(UserError, match="Another process"), alone_in(result.run):
            pass

    train(quick(place), tmp_path / "run", finish=finish)


def test_a_run_is_not_begun_in_the_folder_that_it_starts_from(place, tmp_path):
    run = shutil.copytree(place / "origin", tmp_path / "run")
    with pytest.raises(UserError, match="training.start.run and out are one folder"):
        train(quick(place), run, init_from=run, overwrite=True)
    with pytest.raises(UserError, match="training.methods.distillation.run and out are one folder"):
        train(quick(place, training={"methods": {"distillation": {"run": str(run)}}}), run, overwrite=True)
    assert contents(run) == contents(place / "origin")


def test_a_folder_may_be_overwritten_through_a_link(place, tmp_path):
    run = shutil.copytree(place / "origin", tmp_path / "there")
    (tmp_path / "run").symlink_to(run)
    train(quick(place), tmp_path / "run", overwrite=True)
    assert (tmp_path / "run").is_symlink()
    assert yaml.safe_load((run / RECIPE).read_text())["training"]["seed"] == 0


def test_a_finished_run_without_checkpoints_is_not_trained_over(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    before = contents(run)
    with pytest.raises(UserError, match="The checkpoints of '.*' are gone: train on from its model with training"):
        train({}, run, resume=True)
    assert contents(run) == before


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x40
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "a flipped bit": flip,
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "null": lambda path: path.write_bytes(b"null\n"),
    "a list": lambda path: path.write_bytes(b"[]"),
    "a number": lambda path: path.write_bytes(b"5\n"),
    "no UTF-8": lambda path: path.write_bytes(b"\xff\xfe\x80 ab"),
    "nested deeply": lambda path: path.write_bytes(b"[" * 100_000),
    "a folder": folder,
    "gone": lambda path: path.unlink(),
}
# Each with some of the damages; a sweep of all of them takes minutes.
FILES = {
    "config.json": ("cut", "no UTF-8", "gone"),
    "generation_config.json": ("a folder",),
    "model.safetensors": ("cut", "a folder"),
    "tokenizer.json": ("cut", "gone"),
    "tokenizer_config.json": ("nested deeply",),
    "recipe.yaml": ("cut", "empty", "a list", "nested deeply", "a folder"),
    "metrics.jsonl": ("null", "a list", "a number", "no UTF-8", "a folder"),
    "results.json": ("a flipped bit", "cut", "empty", "null", "a folder"),
    "report.html": ("a folder",),
    "checkpoints/step-00000004/manifest.json": ("nested deeply",),
    "checkpoints/step-00000004/model.safetensors": ("a flipped bit",),
}
SWEEP = [(name, damage) for name, damages in FILES.items() for damage in damages]


def answered(*command) -> bool:
    """Run a command, which must end well or in one sentence; tell which."""
    ran = run_weft(*command)
    if ran.code:
        assert_mistake(ran)
    return ran.code == 0


@pytest.mark.parametrize(("name", "damage"), SWEEP, ids=lambda value: value)
def test_a_damaged_file_of_a_finished_run_is_mended_or_told(finished, tmp_path, name, damage):
    run = shutil.copytree(finished, tmp_path / "run")
    DAMAGES[damage](run / name)
    for verb in (["evaluate", run], ["generate", run, "--max-new-tokens", 2], ["describe", run]):
        answered(*verb)
    assert answered("train", "--out", run, "--resume") == (name != RECIPE)
    if name == RECIPE:
        return
    before = contents(run)
    assert_same_model(run, finished)
    assert answered("train", "--out", run, "--resume")  # it is whole again: what is made of the rest stays as it is
    assert contents(run) == before


def assert_same_model(run: Path, other: Path) -> None:
    """Equal figures; a bit flipped among the weights is a change that nobody can see."""
    one, two = (json.loads((folder / "results.json").read_text())["test"]["bits_per_byte"] for folder in (run, other))
    assert one == pytest.approx(two, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("metrics.jsonl", "no UTF-8"),
        ("config.json", "cut"),
        ("tokenizer.json", "gone"),
        ("model.safetensors", "a folder"),
    ],
)
def test_a_damaged_file_of_an_unfinished_run_is_mended_and_told(finished, unfinished, tmp_path, name, damage):
    run, heard = shutil.copytree(unfinished, tmp_path / "run"), Hear()
    DAMAGES[damage](run / name)
    train({}, run, resume=True, listener=heard)
    assert any(name in line for line in heard.lines)
    assert_same_model(run, finished)


def test_a_log_with_damaged_lines_keeps_the_rest(unfinished, tmp_path):
    run, heard = shutil.copytree(unfinished, tmp_path / "run"), Hear()
    log = run / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    damaged = [b"null\n", b"[]\n", b"5\n", b"\xff\xfe\n", b'{"step": null}\n', b'{"step": 1e999}\n', b'{"step": "x"}\n']
    log.write_bytes(b"".join([lines[0], *damaged, *lines[1:], b'{"event": "tra']))
    whole = read_metrics(unfinished / "metrics.jsonl").records
    assert read_metrics(log) == (whole, len(damaged))
    train({}, run, resume=True, listener=heard)
    assert any("metrics.jsonl had damaged lines (7), which were left out" in line for line in heard.lines)
    assert read_metrics(log).records[: len(whole)] == whole
    assert (run / "metrics.jsonl.damaged").read_bytes().count(b"\n") == len(lines) + 7


def test_a_recipe_that_lacks_a_part_is_not_filled_up(unfinished, tmp_path):
    """What is missing would be as usual: another run, without a word."""
    run = shutil.copytree(unfinished, tmp_path / "run")
    recipe = (run / RECIPE).read_text()
    for end in ("training:", "weft_version:"):
        (run / RECIPE).write_text(recipe[: recipe.index(f"\n{end}") + 1])
        with pytest.raises(UserError, match=f"recipe.yaml' is damaged, it lacks .*{end[:-1]}"):
            train({}, run, resume=True)


def test_damaged_results_are_made_anew(finished, tmp_path):
    run, heard = shutil.copytree(finished, tmp_path / "run"), Hear()
    cut(run / "results.json")
    result = train({}, run, resume=True, listener=heard)
    assert "results.json' are damaged. They are made anew." in " ".join(heard.lines)
    assert result.to_json()["test"]["tokens"] == json.loads((finished / "results.json").read_text())["test"]["tokens"]
