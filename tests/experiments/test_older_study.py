"""A comparison that version 0.1.0 wrote, when baselines were called peers, is read and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import weft
from tests.command import run_weft
from tests.experiments.pretend import pretend_training
from weft.errors import UserError
from weft.reports.comparison.records import read_study
from weft.reports.comparison.table import markdown

OLDER = Path(__file__).parents[1] / "older" / "study-0.1.0"
TRAINING = {
    "logging": {"validations": 1, "samples": 0, "log_every": 4},
    "batch": {"batch_size": 2, "sequence_length": 32},
    "precision": "fp32",
}
ASKED = {
    "architectures": ["q"],
    "baselines": ["llama"],
    "learning_rates": [8e-3],
    "parameters": "20k",
    "tokens": "1k",
    "settings": {"data": {"tokenizer": "bytes"}, "training": TRAINING},
}


@pytest.fixture
def study(tmp_path, monkeypatch, corpus_text) -> Path:
    """The study, in a folder where its text is; the weights of its runs are empty files, as nobody reads them."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "texts" / "sami.txt"
    path.parent.mkdir()
    path.write_text(corpus_text, encoding="utf-8")
    folder = Path(shutil.copytree(OLDER, tmp_path / "study"))
    for run in (folder / "runs").iterdir():
        (run / "model.safetensors").touch()
    return folder


def test_its_results_are_told_with_their_baseline(study):
    read = read_study(study)
    assert read.baselines == ("llama",)
    assert {one.label for one in read.contenders} == {"q", "llama (baseline)"}
    assert "--baseline llama" in markdown(read)


def test_it_is_done_and_trains_nothing_again(study, monkeypatch):
    trained = pretend_training(monkeypatch, lambda _: 1.0)
    before = json.loads((OLDER / "results.json").read_text(encoding="utf-8"))
    results = weft.compare("texts/sami.txt", out=study, **ASKED).results
    assert trained == []
    assert [row["kind"] for row in results["rows"]] == ["weft", "baseline"]
    for now, then in zip(results["rows"], before["rows"], strict=True):
        assert now | {"kind": then["kind"]} == then
    assert results["trials"] == before["trials"]
    assert yaml.safe_load((study / "study.yaml").read_text(encoding="utf-8"))["baselines"] == ["llama"]


def test_it_is_not_another_comparison(study):
    settings = ASKED["settings"] | {"training": TRAINING | {"batch": {"batch_size": 4, "sequence_length": 32}}}
    with pytest.raises(UserError, match=r"holds a comparison with other training.* \(was 2, now 4\)"):
        weft.compare("texts/sami.txt", out=study, **ASKED | {"settings": settings})


def test_the_old_words_are_read_with_a_warning(study):
    asked = {key: value for key, value in ASKED.items() if key != "baselines"}
    with pytest.warns(FutureWarning, match="'peers' is now called 'baselines'"):
        results = weft.compare("texts/sami.txt", out=study, peers=["llama"], **asked).results
    assert results["settings"]["baselines"] == ["llama"]
    options = ("--architectures", "q", "--parameters", "20k", "--tokens", "1k", "--learning-rates", "8e-3")
    options += ("--tokenizer", "bytes")
    settings = [word for key, value in TRAINING.items() for word in ("--set", f"training.{key}={value}")]
    told = run_weft("compare", "texts/sami.txt", "--out", study, "--peer", "llama", *options, *settings)
    assert (told.code, "llama (baseline)" in told.out) == (0, True)
    assert "--peer is now called --baseline" in told.err
