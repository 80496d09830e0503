"""A comparison: equal sizes and budgets, the best learning rate by validation, and nothing trained twice.

The runs are trained in this process, by the very command that a process of its own would get (each would cost seconds
of imports); one test, of being stopped, has the real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.command import Ran, run_weft
from tests.training.test_run import StopAt
from weft.errors import Interrupted
from weft.experiments import jobs
from weft.files import alone_in
from weft.pretrained import load_weights
from weft.training.recipe import load_recipe
from weft.training.run import train

ARCHITECTURES = ("transformer", "[qf]2")
ASKED = ["--architectures", ",".join(ARCHITECTURES), "--learning-rates", "2e-3,8e-3"]
BASELINE_AND_SEEDS = ["--baseline", "llama", "--seeds", "0,1", "--top", "1"]
SIZE = ["--parameters", "20k", "--tokens", "1k", "--tokenizer", "bytes"]
TRAINING = {
    "logging": {"validations": 1, "samples": 0, "log_every": 4},
    "batch": {"batch_size": 2, "sequence_length": 32},
    "precision": "fp32",
}
SET = [word for key, value in TRAINING.items() for word in ("--set", f"training.{key}={value}")]
ROW = {
    *("architecture", "kind", "pattern", "hidden_size", "state_bytes", "parameters", "body_parameters"),
    *("learning_rate", "best_at_edge", "seed", "steps", "tokens", "seconds", "bits_per_byte"),
    *(
        "bits_per_byte_memory",
        "validation_bits_per_byte",
        "training_tokens_per_second",
        "generation_tokens_per_second",
        "run",
    ),
}


class Here:
    """Stands for a process: its command is done when it is made."""

    def __init__(self, command, *, stdout, **_):
        assert command[1:3] == ["-m", "weft"]
        told = run_weft(*command[3:])
        stdout.write(told.out + told.err)
        self.code = told.code

    def poll(self):
        return self.code


@pytest.fixture(scope="module", autouse=True)
def in_this_process(tmp_path_factory):
    """Train in this process, without the reports of single runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setattr(jobs, "subprocess", SimpleNamespace(Popen=Here, STDOUT=subprocess.STDOUT))
        patch.setattr(jobs, "POLL_SECONDS", 0)
        patch.setattr("weft.reports.run.finish.finish_run", lambda run: run / "report.html")
        patch.setattr("weft.evaluation.speed.TOKENS", 16)
        yield


@pytest.fixture
def quick(monkeypatch):
    """Spare the comparison's report and the timing of generation, which the finished study has seen."""
    monkeypatch.setattr("weft.reports.comparison.report.write_comparison", lambda folder: folder / "report.html")
    monkeypatch.setattr("weft.experiments.results.generation_speed", lambda *_: 100.0)


@pytest.fixture(scope="module")
def text(tmp_path_factory, corpus_text):
    path = tmp_path_factory.mktemp("texts") / "sami.txt"
    path.write_text(corpus_text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, text):
    """A finished study, to be looked at only, and what its command said."""
    folder = tmp_path_factory.mktemp("finished") / "study"
    return folder, compare(text, folder, *BASELINE_AND_SEEDS, "--json")


@pytest.fixture
def study(finished, tmp_path, quick):
    """A copy of the finished study."""
    return shutil.copytree(finished[0], tmp_path / "study")


def compare(text, folder, *options, asked=(*ASKED, *SIZE, *SET)) -> Ran:
    return run_weft("compare", text, "--out", folder, *asked, *options)


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(), parse_constant=pytest.fail)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what would change if anything were trained."""
    found = [path for path in (folder / "runs").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}


def trained(before: dict, after: dict) -> set[str]:
    """Return the runs with a new or changed model."""
    models = [name for name in after if Path(name).name == "model.safetensors" and "checkpoints" not in name]
    return {Path(name).parent.name for name in models if after[name] != before.get(name)}


def test_contenders_have_equal_sizes_and_budgets_and_a_row_for_each_seed(finished):
    folder, told = finished
    assert told.code == 0, told.err
    rows = results(folder)["rows"]
    assert all(set(row) == ROW for row in rows)
    assert [row["kind"] for row in rows] == [
        "weft" if row["architecture"] in ARCHITECTURES else "baseline" for row in rows
    ]
    sizes = [row["parameters"] for row in rows]
    assert max(abs(size - 20_000) for size in sizes) <= 200
    assert len({row["tokens"] for row in rows}) == 1
    assert rows[0]["tokens"] == 1024  # the first whole step at or beyond the budget
    leader = min((row for row in rows if row["seed"] == 0), key=lambda row: row["validation_bits_per_byte"])
    expected = [(name, 0) for name in (*ARCHITECTURES, "llama")] + [(leader["architecture"], 1)]
    assert sorted((row["architecture"], row["seed"]) for row in rows) == sorted(expected)
    for row in rows:
        told = json.loads((folder / row["run"] / "results.json").read_text())
        assert row["bits_per_byte"] == told["test"]["bits_per_byte_frozen"]
        assert row["bits_per_byte_memory"] == told["test"]["bits_per_byte_memory"] != row["bits_per_byte"]
        assert row["validation_bits_per_byte"] == told["validation"]["bits_per_byte_frozen"]
        assert row["generation_tokens_per_second"] > 0
        assert set(row["state_bytes"]) == {"1024", "16384", "65536"}


def test_the_best_rate_is_chosen_by_validation_and_every_trial_is_told(finished):
    folder, _ = finished
    found = results(folder)
    rates = found["settings"]["learning_rates"]
    assert rates == [2e-3, 8e-3]
    for row in found["rows"]:
        assert row["best_at_edge"]
        first = [t for t in found["trials"] if (t["architecture"], t["seed"]) == (row["architecture"], 0)]
        assert [t["learning_rate"] for t in first] == rates
        best = min(first, key=lambda t: t["validation_bits_per_byte"])
        assert row["learning_rate"] == best["learning_rate"]
    assert len(found["trials"]) == 3 * 2 + 1
    assert {(t["status"], t["error"]) for t in found["trials"]} == {("done", None)}
    curves = json.loads((folder / "curves.json").read_text())
    chosen = {(c["architecture"], c["learning_rate"], c["seed"]) for c in curves if c["chosen"]}
    assert chosen == {(r["architecture"], r["learning_rate"], r["seed"]) for r in found["rows"]}
    assert len(curves) == len(found["trials"])
    assert all(c["train"][-1]["tokens"] == c["validation"][-1]["tokens"] == 1024 for c in curves)


def test_a_better_test_score_chooses_nothing(study, text):
    rows = {row["architecture"]: row for row in results(study)["rows"] if row["seed"] == 0}
    path = study / rows["transformer"]["run"] / "results.json"
    values = json.loads(path.read_text())
    values["validation"]["bits_per_byte_frozen"], values["test"]["bits_per_byte_frozen"] = 99.0, 0.1
    path.write_text(json.dumps(values))
    assert compare(text, study, *BASELINE_AND_SEEDS).code == 0
    row = next(row for row in results(study)["rows"] if row["architecture"] == "transformer")
    assert row["learning_rate"] != rows["transformer"]["learning_rate"]


def test_the_report_the_table_and_the_json_name_everyone(finished):
    folder, told = finished
    printed = json.loads(told.out)
    assert printed.pop("report") == str(folder / "report.html")
    assert printed == results(folder)
    for name in ("table.md", "report.html"):
        content = (folder / name).read_text()
        assert all(contender in content for contender in (*ARCHITECTURES, "llama"))
    assert "llama: 20,0" in told.err  # sizes are told before anything is trained


def test_the_same_command_trains_nothing_again_and_a_larger_one_only_what_is_new(study, text):
    before, first = files(study), results(study)
    told = compare(text, study, *BASELINE_AND_SEEDS)
    assert (told.code, files(study)) == (0, before)
    assert "6 of 6 runs are done already" in told.out
    again = results(study)
    assert again.pop("seconds_total") > first.pop("seconds_total")
    assert again == first
    more = compare(
        text, study, "--architectures", "transformer,q", "--learning-rates", "8e-3,4e-3", asked=(*SIZE, *SET)
    )
    assert more.code == 0, more.err
    new = {"transformer-lr0.004-seed0", "q-lr0.008-seed0", "q-lr0.004-seed0"}
    assert trained(before, files(study)) == new


def test_what_is_not_the_same_study_is_refused_and_left_alone(study, text, tmp_path):
    before = files(study)
    for changes, named in (
        (["--tokens", "2k"], "tokens"),
        (["--parameters", "30k"], "parameters"),
        (["--split", "documents"], "data.split"),
    ):
        told = compare(text, study, *BASELINE_AND_SEEDS, *changes)
        assert told.code == 2
        assert f"holds a comparison with other {named} (was " in told.err
        assert told.err.count("\n") == 1
    original = text.read_text()
    text.write_text(original[:8000])
    try:
        told = compare(text, study, *BASELINE_AND_SEEDS)
    finally:
        text.write_text(original)
    assert (told.code, "holds a comparison on another text" in told.err) == (2, True)
    assert files(study) == before


def test_unfinished_runs_are_gone_on_with(study, text):
    before = results(study)
    scored, half = (study / t["run"] for t in before["trials"][:2])
    weights = load_weights(half / "model.safetensors")
    (scored / "results.json").unlink()  # trained, not scored
    shutil.rmtree(half)
    with pytest.raises(Interrupted):
        train(load_recipe(study / "recipes" / f"{half.name}.yaml"), half, listener=StopAt(5, signal.SIGINT))
    assert compare(text, study, *BASELINE_AND_SEEDS).code == 0
    after = results(study)
    for ours, theirs in zip(after["trials"], before["trials"], strict=True):
        assert ours["bits_per_byte"] == theirs["bits_per_byte"]
    for name, tensor in load_weights(half / "model.safetensors").items():
        assert tensor.equal(weights[name])


def test_damaged_results_are_made_anew(study, text):
    before = results(study)
    run = study / before["rows"][0]["run"]
    models = files(study)
    (run / "results.json").write_text("{")
    (run / "metrics.jsonl").write_bytes(b"null\n" + (run / "metrics.jsonl").read_bytes())
    assert compare(text, study, *BASELINE_AND_SEEDS).code == 0
    for ours, theirs in zip(results(study)["rows"], before["rows"], strict=True):
        assert ours["bits_per_byte"] == theirs["bits_per_byte"]
    assert not trained(models, files(study))


@pytest.mark.parametrize("lines", [b"null\n5\n[]\n", b"\xff\xfe\n", b'{"step": 3}\n', b""])
def test_a_damaged_log_does_not_end_a_comparison(tmp_path, lines):
    job = jobs.Job("name", tmp_path / "run", [], 1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_bytes(lines)
    assert job.progress() == {}
    told = {"event": "train", "step": 2}
    (tmp_path / "run" / "metrics.jsonl").write_bytes(json.dumps(told).encode() + b"\n" + lines)
    assert job.progress() == told


def test_two_comparisons_in_one_folder_are_refused(study, text, tmp_path):
    before = files(study)
    with alone_in(study):
        for options in ((), ("--overwrite",)):
            told = compare(text, study, *BASELINE_AND_SEEDS, *options)
            assert (told.code, "Another process is at work in" in told.err) == (2, True)
    assert files(study) == before
    dead = 2**22 + 1
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / f".study.yaml.{dead}.tmp").write_text("half")  # as a killed one leaves it
    one = ("--architectures", "q", "--learning-rates", "8e-3")
    assert compare(text, tmp_path / "new", *one, asked=(*SIZE, *SET)).code == 0
    assert not list((tmp_path / "new").glob(".*"))


def test_a_rate_that_diverges_is_told_and_the_rest_goes_on(tmp_path, text, quick):
    options = ("--architectures", "q", "--learning-rates", "1e30,8e-3")
    told = compare(text, tmp_path / "study", *options, asked=(*SIZE, *SET))
    assert told.code == 0, told.err
    found = results(tmp_path / "study")
    failed, done = found["trials"]
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert "The loss was not finite 5 times in a row" in failed["error"]
    assert failed["bits_per_byte"] is None
    assert [row["learning_rate"] for row in found["rows"]] == [8e-3]
    before = files(tmp_path / "study")
    assert compare(text, tmp_path / "study", *options, asked=(*SIZE, *SET)).code == 0
    assert files(tmp_path / "study") == before  # it would fail again


def test_overwrite_replaces_a_study_and_nothing_else(study, text, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    before = files(study)
    one = ("--architectures", "q", "--learning-rates", "8e-3", "--overwrite")
    for bad in (
        ["--parameters", "100"],
        ["--baseline", "gpt"],
        ["--set", "training.optimizer.clip=-1"],
    ):  # nothing is lost by those
        assert compare(text, study, *one, *bad, asked=(*SIZE, *SET)).code == 2
    assert files(study) == before
    told = compare(text, tmp_path, *one, asked=(*SIZE, *SET))
    assert (told.code, "holds something that is not a comparison" in told.err) == (2, True)
    assert compare(text, study, *one, asked=(*SIZE, *SET)).code == 0
    assert [row["architecture"] for row in results(study)["rows"]] == ["q"]
    assert [path.name for path in (study / "runs").iterdir() if path.is_dir()] == ["q-lr0.008-seed0"]
    assert (tmp_path / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--minutes", "1"], "keep minutes or tokens"),
        (["--architectures", "perceiver"], "'perceiver' is neither an architecture"),
        (["--architectures", "llama"], "'llama' is a baseline: name it in baselines"),
        (["--baseline", "gpt"], "There is no baseline 'gpt': choose from llama"),
        (["--learning-rates", ""], "--learning-rates takes numbers parted by commas, not ''"),
        (["--learning-rates", "1e-3,fast"], "--learning-rates takes numbers parted by commas, not 'fast'"),
        (["--seeds", "0,1.5"], "--seeds takes whole numbers parted by commas, not '1.5'"),
        (["--seeds", "inf"], "--seeds takes whole numbers parted by commas, not 'inf'"),
        (["--parameters", "many"], "'many' is not a count"),
        (["--parameters", "1k", "--baseline", "llama"], "1,000"),
        (
            ["--set", "training.optimizer.learning_rate=1e-3"],
            "A comparison sets training.optimizer.learning_rate itself",
        ),
        (["--set", "model.architecture=qrnn"], "A comparison sets --architecture itself"),
        (["--set", "training.clipp=1"], "did you mean 'optimizer.clip'?"),
        (["--path", "somewhere"], "goes with a published corpus"),
        (["--validation", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(text, tmp_path, options, sentence):
    told = compare(text, tmp_path / "study", *options)
    assert told.code == 2
    errors = [line for line in told.err.split("\n") if line.startswith("Error: ")]
    assert len(errors) == 1
    assert sentence in errors[0]
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([*ASKED, "--parameters", "20k"], "A comparison needs a budget: give minutes or tokens"),
        ([*ASKED, "--minutes", "1", "--jobs", "2"], "equal minutes are not equal: give tokens with jobs above 1"),
        ([*ASKED, *SIZE], "There is nothing to train on: name files, folders or globs of text."),
        ([*ASKED, *SIZE, "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_what_is_missing_is_told(arguments, sentence, tmp_path):
    told = run_weft("compare", "--out", tmp_path / "study", *arguments)
    assert (told.code, told.err.count("Error: ")) == (2, 1)
    assert sentence in told.err
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(("code", "error"), [(-9, "Ended by SIGKILL (memory may have run out)"), (3, "exit code 3")])
def test_a_run_that_dies_without_a_word_is_told(tmp_path, text, monkeypatch, code, error):
    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(Popen=lambda *_, **__: Dying(code), STDOUT=0))
    assert compare(text, tmp_path / "study").code == 0
    trials = results(tmp_path / "study")["trials"]
    assert len(trials) == 4
    assert all(trial["status"] == "failed" and error in trial["error"] for trial in trials)
    assert "Nothing has been measured yet" in (tmp_path / "study/report.html").read_text()


@pytest.mark.parametrize("code", [130, 143, -2, -15])
def test_a_run_that_was_told_to_stop_has_not_failed(tmp_path, text, monkeypatch, code):
    monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(Popen=lambda *_, **__: Dying(code), STDOUT=0))
    told = compare(text, tmp_path / "study")
    assert told.code == 128 + abs(code) % 128
    assert "give the same command again to go on" in told.err
    assert results(tmp_path / "study")["trials"] == []


class Dying(SimpleNamespace):
    """A process that has ended with a code."""

    def __init__(self, code):
        super().__init__(poll=lambda: code)


def test_ctrl_c_saves_the_running_trial_and_the_same_command_goes_on(tmp_path, text, monkeypatch):
    folder = tmp_path / "study"
    asked = ["--architectures", "q", "--learning-rates", "8e-3", *SIZE, *SET, "--set", "training.logging.log_every=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "weft", "compare", str(text), "--out", str(folder), *asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "WEFT_MAX_STEPS": "1000000"},
    )
    run, deadline = folder / "runs/q-lr0.008-seed0", time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=90)[0]
    assert process.returncode == 130, said
    assert said.strip().endswith("Stopped; what is trained is kept: give the same command again to go on.")
    assert list((run / "checkpoints").iterdir())
    assert "Stopped at step" in run.with_name("q-lr0.008-seed0.log").read_text()
    assert results(folder)["rows"] == []
    assert "Nothing has been measured yet" in (folder / "report.html").read_text()
    steps = json.loads((run / "metrics.jsonl").read_text().strip().split("\n")[-1])["step"] + 2
    monkeypatch.setenv("WEFT_MAX_STEPS", str(steps))
    assert compare(text, folder, asked=asked).code == 0
    assert "Nothing has been measured yet" not in (folder / "report.html").read_text()
    assert [row["steps"] for row in results(folder)["rows"]] == [steps]


def test_variants_stand_in_the_table_under_their_names(text, tmp_path):
    (tmp_path / "variants.yaml").write_text("plain: {}\nwords: {data: {tokenizer: words, vocab_size: 300}}\n")
    asked = ["--variants", tmp_path / "variants.yaml", "--learning-rates", "4e-3", *SIZE, *SET]
    ran = compare(text, tmp_path / "study", asked=asked)
    assert ran.code == 0, ran.err
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert {row["architecture"] for row in results["rows"]} == {"plain", "words"}
    table = (tmp_path / "study" / "table.md").read_text()
    assert "words" in table
    assert "--variants study/variants.yaml" in table
    kinds = {load_recipe(path)["data"]["tokenizer"] for path in (tmp_path / "study" / "runs").glob("*/recipe.yaml")}
    assert kinds == {"bytes", "words"}
