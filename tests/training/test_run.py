"""A run: what it leaves behind, and that stopping and going on changes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

import weft
from tests.conftest import BIGRAMS, MAPS
from weft.config import merge
from weft.errors import Interrupted, UserError
from weft.files import alone_in
from weft.model import build
from weft.pretrained import load_model
from weft.training.listener import Silent
from weft.training.recipe import TrainingConfig, make_recipe
from weft.training.resolve import make_model
from weft.training.run import check_sharded, train
from weft.training.run_folder import saved_recipe
from weft.training.trainer import Trainer

AVERAGE = {"average": {"decay": 0.9}}
VARIANTS = {
    "default": {},
    "adamw, average": {"training": {"optimizer": {"name": "adamw"}, "methods": AVERAGE}},
    "normuon": {"training": {"optimizer": {"name": "normuon"}}},
    "accumulation, no carried state": {"training": {"batch": {"accumulation": 2}, "carry_state": False}},
    "matrix products": {
        "model": {"pattern": "{qf}2a", "maps": {"qrnn": {"kind": "matrix_product", "adapter": 2}}},
        "training": {"methods": AVERAGE},
    },
    "latent bigrams": {
        "model": {"ngrams": BIGRAMS | {"decay": 0.5}},
        "training": {"methods": AVERAGE | {"ngrams": {"rate": 2.0}}, "batch": {"accumulation": 2}},
    },
    "nothing but guides for Muon": {  # which is there no more when the run is resumed
        "model": {"pattern": "{qf}2"},
        "training": {"methods": {"guides": {"until": 0.3}}, "optimizer": {"muon_takes": ["matrices"]}},
    },
    "structured, guided": {
        "model": {"pattern": "fqaf", "maps": MAPS},
        "training": {"methods": AVERAGE | {"guides": {"until": 0.7}}},
    },
    "structured, guided now and then": {
        "model": {"pattern": "fqaf", "maps": MAPS},
        "training": {"methods": {"guides": {"until": 0.6, "skip": True}}},
    },
    "dropout, zoneout, bf16": {
        "model": {"dropout": 0.2, "qrnn": {"zoneout": 0.1}, "pattern": "xqf"},
        "training": {"precision": "bf16"},
    },
}


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights as they stood at the end, beside the best ones."""
    newest = max((run / "checkpoints").glob("step-*"))
    return load_file(newest / "model.safetensors") | {
        f"best.{name}": value for name, value in load_file(run / "model.safetensors").items()
    }


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = last_weights(one), last_weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    for ours_line, theirs_line in zip(events(one), events(other), strict=True):
        for record in (ours_line, theirs_line):
            for timing in ("seconds", "tokens_per_second"):
                record.pop(timing, None)
        assert ours_line == theirs_line


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().strip().split("\n")]


class StopAt(Silent):
    """Sends this process a signal at a step."""

    def __init__(self, step: int, number: int) -> None:
        self.step, self.number = step, number

    def status(self, status):
        if status.step == self.step:
            os.kill(os.getpid(), self.number)


class Hear(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_a_run_resumed_from_any_checkpoint_equals_a_straight_one(tiny, tmp_path, changes):
    values = tiny(**changes)
    train(values, tmp_path / "straight")
    for number, step in ((signal.SIGINT, 4), (signal.SIGTERM, 9)):
        with pytest.raises(Interrupted, match=f"step {step}; go on with: weft.train.out=.*, resume=True") as stopped:
            train(
                values if number == signal.SIGINT else {},
                tmp_path / "stopped",
                listener=StopAt(step, number),
                resume=step > 4,
            )
        assert stopped.value.signal_number == number
    train({}, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pattern": "{qf}2"}, "Blocks in '{ }'"),
        ({"ngrams": BIGRAMS}, "Latent bigrams"),
        ({"baseline": "llama", "pattern": None}, "Baselines"),
    ],
)
def test_what_cannot_be_sharded_is_told(settings, words):
    recipe = make_recipe({"model": {"pattern": "qf", "parameters": 30_000} | settings})
    prepared = SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=300, boundary_id=298, padding_id=299))
    with pytest.raises(UserError, match=f"{words} trains? data-parallel only"):
        check_sharded(make_model(recipe, prepared, None))


def test_centroids_of_bigrams_move_in_training(tiny, tmp_path):
    values = tiny(model={"ngrams": BIGRAMS}, training={"logging": {"samples": 0}, "steps": 3})
    train(values, tmp_path / "run")
    model = load_model(tmp_path / "run")
    before = build(model.config, seed=make_recipe(values).training.seed)
    assert not torch.equal(model.ngrams.centroids_HKE, before.ngrams.centroids_HKE)


def test_a_run_that_was_killed_resumes_bit_equal(tiny, tmp_path):
    values = tiny(training={"steps": 40})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values))
    train(values, tmp_path / "straight")
    command = [
        sys.executable,
        "-m",
        "weft",
        "train",
        "--recipe",
        str(recipe),
        "--out",
        str(tmp_path / "killed"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    checkpoints = tmp_path / "killed" / "checkpoints"
    deadline = time.monotonic() + 120
    while not any(checkpoints.glob("step-0000001*")):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    process.stderr.close()
    assert not (tmp_path / "killed" / "results.json").exists()
    train({}, tmp_path / "killed", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_a_run_that_another_process_trains_is_left_alone(tiny, tmp_path):
    with pytest.raises(Interrupted):
        train(tiny(), tmp_path / "run", listener=StopAt(4, signal.SIGINT))
    before = events(tmp_path / "run")
    with alone_in(tmp_path / "run"):
        for how in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(UserError, match="Another process is at work in '.*run': let it finish"):
                train({} if "resume" in how else tiny(), tmp_path / "run", **how)
    assert events(tmp_path / "run") == before
    train({}, tmp_path / "run", resume=True)


def test_a_damaged_checkpoint_is_passed_over(tiny, tmp_path):
    class Listener(Silent):
        said = ""

        def message(self, text):
            self.said += text

    train(tiny(), tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(tiny(), tmp_path / "run", listener=StopAt(8, signal.SIGINT))
    older, newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))
    file = newest / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    listener = Listener()
    train({}, tmp_path / "run", resume=True, listener=listener)
    assert f"{newest.name} is damaged" in listener.said
    assert_same_run(tmp_path / "straight", tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("step-*"):
        (path / "manifest.json").unlink()
    with pytest.raises(UserError, match="Every checkpoint .* damaged"):
        train({"training": {"steps": 20}}, tmp_path / "run", resume=True)
    assert older.name < newest.name


def test_a_finished_run_stays_as_it_is_or_goes_on(tiny, tmp_path):
    first = train(tiny(), tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = train({}, tmp_path / "run", resume=True)
    assert again == first
    after = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert after == before
    heard = Hear()
    longer = train({"training": {"steps": 18}}, tmp_path / "run", resume=True, listener=heard)
    assert longer.steps == 18
    assert any(re.match(r"For 18 steps now;.* stay as they were chosen", line) for line in heard.lines)
    train({}, tmp_path / "run", resume=True, listener=(heard := Hear()))
    assert not any("stay as" in line for line in heard.lines)


def test_a_changed_recipe_is_refused_by_name(tiny, tmp_path):
    train(tiny(), tmp_path / "run")
    changed = (
        r"training.batch.batch_size \(was 4, now 2\), "
        r"training.optimizer.learning_rate \(was .*, now 1.0\); leave it out"
    )
    with pytest.raises(UserError, match=changed):
        train(
            {"training": {"optimizer": {"learning_rate": 1.0}, "batch": {"batch_size": 2}}},
            tmp_path / "run",
            resume=True,
        )
    train(tiny(), tmp_path / "run", resume=True)  # the same command again, with --resume, is welcome
    with pytest.raises(UserError, match="exclude each other"):
        train({"training": {"batch": {"batch_size": 2}}}, tmp_path / "run", resume=True, overwrite=True)


def test_a_folder_is_the_same_with_a_slash_behind_it(tiny, tmp_path, corpus):
    train(tiny(data={"sources": [f"{corpus.parent}/"]}), tmp_path / "run")
    train({"data": {"sources": [str(corpus.parent)]}, "training": {"steps": 13}}, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model": {"pattern": None, "architecture": "perceiver"}}, "neither an architecture"),
        ({"model": {"pattern": "qz"}}, "nor a pattern of"),
    ],
)
def test_a_model_that_there_is_not_is_told_before_any_text_is_read(tiny, tmp_path, values, sentence):
    with pytest.raises(UserError, match=sentence):
        train(tiny(**values, data={"sources": ["no such text"]}), tmp_path / "run")


def test_a_place_where_nothing_can_be_written_is_told_before_any_text_is_read(tiny, tmp_path):
    (tmp_path / "file").write_text("taken")
    with pytest.raises(UserError, match="'.*file' is a file; choose another place"):
        train(tiny(data={"sources": ["no such text"]}), tmp_path / "file" / "run")


def test_the_same_command_resumes_where_the_corpus_decided(tiny, tmp_path):
    values = tiny(training={"batch": {"batch_size": 500}}, data={"tokenizer": "auto"})
    with pytest.raises(Interrupted):
        train(values, tmp_path / "run", listener=StopAt(3, signal.SIGINT))
    saved = saved_recipe(tmp_path / "run")
    assert 1 < saved.training.batch.batch_size < 500  # as many as the text fills
    assert train(values, tmp_path / "run", resume=True).steps == 12
    assert saved_recipe(tmp_path / "run") == saved
    asked = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8"))["asked"]
    assert asked == {"data.tokenizer": "auto", "training.batch.batch_size": 500}
    with pytest.raises(UserError, match=r"training.batch.batch_size \(was \d+, now 400\)"):
        train(merge(values, {"training": {"batch": {"batch_size": 400}}}), tmp_path / "run", resume=True)


def test_texts_that_changed_are_noticed(tiny, tmp_path, corpus):
    train(tiny(), tmp_path / "run")
    corpus.write_text(corpus.read_text() + "More.\n" * 50)
    with pytest.raises(UserError, match="texts have changed"):
        train({"training": {"steps": 20}}, tmp_path / "run", resume=True)


def test_an_existing_run_is_safe(tiny, tmp_path):
    out = tmp_path / "run"
    train(tiny(), out)
    weights = (out / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="resume=True .* overwrite=True"):
        train(tiny(), out)
    with pytest.raises(UserError, match="no file|There is no"):
        train(tiny(data={"sources": ["missing.txt"]}), out, overwrite=True)
    assert (out / "model.safetensors").read_bytes() == weights
    train(tiny(training={"seed": 5}), out, overwrite=True)
    assert (out / "model.safetensors").read_bytes() != weights
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("keep me")
    with pytest.raises(UserError, match="not a run"):
        train(tiny(), tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_the_run_directory_holds_what_it_should(tiny, tmp_path):
    result = train(tiny(), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    wanted = {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "recipe.yaml",
        "metrics.jsonl",
        "results.json",
        "checkpoints",
    }
    assert wanted <= names
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["weft_version"] == weft.__version__
    kinds = [record["event"] for record in events(tmp_path / "run")]
    assert (kinds.count("validation"), kinds.count("sample")) == (3, 4)
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == result.to_json()
    best = min(r["bits_per_byte"] for r in events(tmp_path / "run") if r["event"] == "validation")
    assert result.validation.bits_per_byte_of_weights == pytest.approx(best, rel=1e-5)
    assert weft.evaluate(tmp_path / "run").bits_per_byte == result.test.bits_per_byte


def test_the_seed_decides_everything(tiny, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny(training={"seed": seed}, model={"dropout": 0.1}), tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not torch.equal(
        last_weights(tmp_path / "a")["embedding.weight_VD"],
        last_weights(tmp_path / "c")["embedding.weight_VD"],
    )


def test_tokens_and_minutes_are_budgets(tiny, tmp_path):
    values = tiny()
    del values["training"]["steps"]
    result = train({**values, "training": {**values["training"], "tokens": 1000}}, tmp_path / "tokens")
    assert result.tokens == 8 * 4 * 32  # the first multiple of a step at or above 1000
    result = train({**values, "training": {**values["training"], "minutes": 0.01}}, tmp_path / "minutes")
    assert result.seconds >= 0.6
    assert events(tmp_path / "minutes")[-1]["event"] in ("validation", "sample")


def test_a_new_run_can_start_from_another_one(tiny, tmp_path):
    train(tiny(), tmp_path / "first")
    shutil.rmtree(tmp_path / "first" / "checkpoints")
    other = tmp_path / "other.txt"
    other.write_text("".join(f"Another text in the same bytes, line {i}.\n" for i in range(300)))
    values = {
        "data": {"sources": [str(other)]},
        "training": {
            "steps": 1,
            "optimizer": {"learning_rate": 1e-9},
            "batch": {"batch_size": 2, "sequence_length": 32},
        },
    }
    train(values, tmp_path / "second", init_from=tmp_path / "first")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=1e-6)


def test_losses_that_are_not_finite_are_skipped_then_end_the_run(tiny, tmp_path, monkeypatch):
    from weft.model import WeftModel

    loss, bad = WeftModel.loss, {2, 5}
    calls = []

    def sometimes(self, *args):
        value, state = loss(self, *args)
        calls.append(1)
        return (value * float("nan") if len(calls) in bad else value), state

    monkeypatch.setattr(WeftModel, "loss", sometimes)
    result = train(tiny(), tmp_path / "run")
    assert [r["step"] for r in events(tmp_path / "run") if r["event"] == "skipped"] == [2, 5]
    assert result.steps == 12
    assert all(tensor.isfinite().all() for tensor in last_weights(tmp_path / "run").values())
    bad |= set(range(100))
    with pytest.raises(UserError, match="lower training.optimizer.learning_rate"):
        train(tiny(), tmp_path / "diverged")


def test_only_training_counts_as_time(tiny, tmp_path, monkeypatch):
    from weft.training.trainer import Trainer

    validate = Trainer._validate
    monkeypatch.setattr(Trainer, "_validate", lambda self: (time.sleep(1.0), validate(self)))
    assert train(tiny(), tmp_path / "run").seconds < 2.0


def test_a_run_resumes_without_what_it_began_from(tiny, tmp_path):
    train(tiny(training={"steps": 3}), tmp_path / "origin")
    values = tiny(training={"start": {"run": str(tmp_path / "origin")}}, model={"dropout": 0.1})
    with pytest.raises(UserError, match="leave out model.hidden_size"):
        train(
            tiny(training={"start": {"run": str(tmp_path / "origin")}}, model={"hidden_size": 24}), tmp_path / "other"
        )
    with pytest.raises(Interrupted):
        train(values, tmp_path / "run", listener=StopAt(4, signal.SIGINT))
    shutil.rmtree(tmp_path / "origin")
    assert train({}, tmp_path / "run", resume=True).steps == 12


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": {"parameters": 90_000, "hidden_size": None}}, "model.parameters"),
        ({"model": {"pattern": "qf"}}, "model.pattern, or take some of its blocks by training.start.block=best"),
        ({"data": {"tokenizer": "bpe"}}, "data.tokenizer"),
        ({"data": {"vocab_size": 300}}, "data.vocab_size"),
    ],
    ids=str,
)
def test_what_another_model_is_not_is_refused_where_a_run_starts_from_it(tiny, tmp_path, changes, named):
    train(tiny(training={"steps": 3}), tmp_path / "origin")
    heard = Hear()
    train(tiny(training={"steps": 2}), tmp_path / "fine", init_from=tmp_path / "origin", listener=heard)
    assert any(line.startswith("Going on from") and "not made to fit" in line for line in heard.lines)
    with pytest.raises(UserError, match=f"training.start.run takes the .* leave out {named}"):
        train(merge(tiny(), changes), tmp_path / "other", init_from=tmp_path / "origin")
    assert not (tmp_path / "other").exists()


def test_an_extended_run_that_was_killed_while_scoring_does_not_show_old_results(tiny, tmp_path, monkeypatch):
    from weft.training import run

    train(tiny(), tmp_path / "run")
    monkeypatch.setattr(run, "_score", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train({"training": {"steps": 14}}, tmp_path / "run", resume=True)
    monkeypatch.undo()
    assert train({}, tmp_path / "run", resume=True).steps == 14


def test_a_full_disk_is_told_and_loses_nothing(tiny, tmp_path, monkeypatch):
    import errno

    import weft.training.checkpoint as checkpoints

    write, full = checkpoints._write, []

    def no_space(folder, checkpoint):
        if checkpoint.progress["step"] >= 9 and not full:
            full.append(1)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder, checkpoint)

    monkeypatch.setattr(checkpoints, "_write", no_space)
    with pytest.raises(UserError, match="disk is full"):
        train(tiny(), tmp_path / "run")
    train({}, tmp_path / "run", resume=True)
    monkeypatch.undo()
    train(tiny(), tmp_path / "straight")
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_ten_kilobytes_are_learned_below_one_bit_per_byte(corpus, tmp_path):
    values = {
        "model": {"parameters": "300k", "dropout": 0.0},  # to learn by heart is what is asked for
        "data": {
            "sources": [str(corpus)],
            "validation": [str(corpus)],
            "test": [str(corpus)],
            "vocab_size": 512,
        },
        "training": {
            "steps": 150,
            "batch": {"batch_size": 8, "sequence_length": 64},
            "logging": {"validations": 1, "samples": 0},
        },
    }
    copy = tmp_path / "copy.txt"
    copy.write_bytes(corpus.read_bytes())
    values["data"]["validation"] = values["data"]["test"] = [str(copy)]
    assert train(values, tmp_path / "run").test.bits_per_byte < 1.0


def test_budgets_are_cut_short_by_the_environment(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_MAX_STEPS", "2")
    assert train(tiny(), tmp_path / "run").steps == 2
    monkeypatch.setenv("WEFT_MAX_STEPS", "few")
    with pytest.raises(UserError, match="WEFT_MAX_STEPS"):
        train(tiny(), tmp_path / "other")


def test_a_run_that_is_cut_short_has_all_else_of_the_whole_one(tiny, tmp_path, monkeypatch):
    values = tiny(model={"hidden_size": None}, training={"steps": 3000})
    monkeypatch.setenv("WEFT_MAX_STEPS", "2")
    train(values, tmp_path / "run")
    cut = saved_recipe(tmp_path / "run")
    monkeypatch.delenv("WEFT_MAX_STEPS")
    with pytest.raises(Interrupted):
        train(values, tmp_path / "whole", listener=StopAt(5, signal.SIGINT))
    whole = saved_recipe(tmp_path / "whole")
    assert cut.training.steps == 2
    assert (
        cut.training.optimizer.weight_decay > TrainingConfig().optimizer.weight_decay
    )  # of a text that is read many times
    assert cut == whole.model_copy(update={"training": whole.training.model_copy(update={"steps": 2})})


def test_a_run_that_is_resumed_keeps_its_budget_though_it_is_cut_short(tiny, tmp_path, monkeypatch):
    with pytest.raises(Interrupted):
        train(tiny(), tmp_path / "run", listener=StopAt(4, signal.SIGINT))
    monkeypatch.setenv("WEFT_MAX_STEPS", "6")
    assert train({}, tmp_path / "run", resume=True).steps == 6
    assert saved_recipe(tmp_path / "run").training.steps == 12
    monkeypatch.delenv("WEFT_MAX_STEPS")
    assert train({}, tmp_path / "run", resume=True).steps == 12


def test_a_device_that_runs_out_of_memory_says_what_to_do(tiny, tmp_path, monkeypatch):
    def run_out(_: object) -> bool:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run", run_out)
        with pytest.raises(UserError, match=r"out of memory: go on with weft.train\(out=.*, resume=True\) and"):
            train(tiny(), tmp_path / "run")
    train({"training": {"checkpoint_activations": True}}, tmp_path / "run", resume=True)


def test_samples_hold_valid_text_only(tiny, tmp_path):
    train(tiny(training={"steps": 4}), tmp_path / "run")  # of bytes that nothing was learned of yet
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [event["text"] for event in map(json.loads, lines) if event["event"] == "sample"]
    assert len(samples) == 4
    assert any(samples)
    assert not any(re.search("[\ufffd\x00-\x08]", sample) for sample in samples)


def test_a_run_follows_another_trainer_of_the_same_python_process(tiny, tmp_path):
    """In a notebook, say: transformers' Trainer in bf16 settles what accelerate keeps for the whole process."""
    told = subprocess.run(
        [sys.executable, "-c", AFTER_ANOTHER, json.dumps(tiny(training={"steps": 2})), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    straight = train(tiny(training={"steps": 2}), tmp_path / "straight")
    assert float(told.stdout.split()[-1]) == straight.validation.bits_per_byte


AFTER_ANOTHER = """
import json, sys
from pathlib import Path
from accelerate import Accelerator
Accelerator(mixed_precision="bf16")
from weft.training.run import train
print(train(json.loads(sys.argv[1]), Path(sys.argv[2])).validation.bits_per_byte)
"""
