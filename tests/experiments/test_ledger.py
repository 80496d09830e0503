"""Trials of a search: each trained once, recorded once, and told where it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from tests.experiments.pretend import pretend_training
from weft.errors import UserError
from weft.experiments import jobs
from weft.experiments.ledger import Ledger, folder_name
from weft.experiments.runner import Runner


def record(name, result):
    return {"name": name, "bits": result.validation.bits_per_byte}


@pytest.fixture
def trained(monkeypatch):
    """The recipes that are trained: to as many bits as they have steps."""
    return pretend_training(monkeypatch, lambda recipe: recipe["training"]["steps"])


def steps(count):
    return {"training": {"steps": count}}


def test_what_is_in_the_ledger_is_not_trained_again_and_its_run_goes(tmp_path, trained):
    recipes = {"(qf)2 | 1": steps(1), "[qf]2 | 1": steps(2)}
    Ledger(tmp_path / "ledger.json").train(Runner(tmp_path), recipes, record, keep={"[qf]2 | 1"})
    told = json.loads((tmp_path / "ledger.json").read_text())
    assert {name: run["bits"] for name, run in told["runs"].items()} == {"(qf)2 | 1": 1, "[qf]2 | 1": 2}
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder_name("[qf]2 | 1")]
    shutil.rmtree(tmp_path / "runs")
    again = Ledger(tmp_path / "ledger.json", {"machine": "another"})
    again.train(Runner(tmp_path), recipes | {"new": steps(3)}, record)
    assert [recipe["training"]["steps"] for recipe in trained] == [1, 2, 3]
    assert json.loads((tmp_path / "ledger.json").read_text()) == again.told
    assert (again.told["machine"], list(again.runs)) == ("another", [*recipes, "new"])


def test_a_run_that_ended_before_its_record_was_written_is_recorded(tmp_path, trained):
    recipes = {"one": steps(1)}
    Runner(tmp_path).train(recipes, lambda *_: None)
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.train(Runner(tmp_path), recipes, record)
    assert (ledger.runs["one"]["bits"], len(trained)) == (1, 1)


def test_a_trial_that_fails_ends_the_search_with_its_reason(tmp_path, monkeypatch):
    class Failing:
        def __init__(self, command, *, stdout, **_):
            assert command[1:4] == ["-m", "weft", "train"]
            stdout.write("Error: The loss was not finite.\n")

        def poll(self):
            return 2

    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(Popen=Failing, STDOUT=subprocess.STDOUT))
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0)
    for _ in range(2):  # it would fail again
        with pytest.raises(UserError, match="'one' failed: The loss was not finite. .delete '.*one' to try it again"):
            Ledger(tmp_path / "ledger.json").train(Runner(tmp_path), {"one": steps(1)}, record)


def test_a_damaged_ledger_is_one_sentence(tmp_path):
    path = tmp_path / "ledger.json"
    path.write_text('{"runs": {', encoding="utf-8")
    with pytest.raises(UserError, match="ledger.json' is damaged: restore it, or move it away"):
        Ledger(path)
    assert path.is_file()
