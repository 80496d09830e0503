"""A run is a thing: its files, its recipe, its numbers, and what its model can do, each loaded once."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

import weft
from tests.training.conftest import TINY
from weft.config import merge
from weft.errors import UserError
from weft.evaluation.compressors import COMPRESSORS


@pytest.fixture(scope="module")
def folder(tmp_path_factory, corpus_text) -> Path:
    place = tmp_path_factory.mktemp("run")
    (place / "text.txt").write_text(corpus_text, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def run(folder) -> weft.Run:
    recipe = merge(TINY, {"training": {"steps": 4, "logging": {"validations": 1, "samples": 1, "log_every": 1}}})
    return weft.train(folder / "text.txt", out=folder / "mine", recipe=recipe)


def test_training_returns_the_run_that_it_leaves_with_report_and_card(run, folder):
    assert isinstance(run, weft.Run)
    assert (run.folder, os.fspath(run)) == (folder / "mine", str(folder / "mine"))
    assert repr(run) == f"weft.Run('{folder / 'mine'}')"
    assert "<html" in run.report.read_text(encoding="utf-8")
    assert run.card.read_text(encoding="utf-8").startswith("---")
    for file in (run.recipe_file, run.events_file, run.results_file):
        assert file.is_file(), file


def test_a_run_knows_its_recipe_its_results_and_its_events(run):
    assert run.recipe.training.steps == run.results.steps == 4
    assert run.recipe.data.vocab_size == run.tokenizer.vocab_size == run.model.config.vocab_size
    kinds = [event["event"] for event in run.events]
    assert kinds.count("train") == 4
    assert {"validation", "sample"} <= set(kinds)
    assert [event["step"] for event in run.events] == sorted(event["step"] for event in run.events)


def test_the_model_and_the_tokenizer_are_loaded_once(run, monkeypatch):
    fresh = weft.Run(run)
    model = fresh.model
    tokenizer = fresh.tokenizer
    monkeypatch.setattr("weft.run.load_any", None)
    monkeypatch.setattr("weft.run.load_tokenizer", None)
    fresh.generate("a", max_new_tokens=1)
    fresh.evaluate()
    assert (fresh.model, fresh.tokenizer) == (model, tokenizer)


def test_the_verbs_of_the_module_take_a_path_or_a_run(run, folder):
    path = folder / "mine"
    again = weft.Run(path)
    bits = again.evaluate().bits_per_byte
    assert bits == weft.evaluate(path).bits_per_byte == weft.evaluate(run).bits_per_byte
    assert bits == pytest.approx(run.results.test.bits_per_byte, rel=1e-6)
    sampling = weft.Sampling(seed=3)
    written = again.generate(["a", "b"], max_new_tokens=5, sampling=sampling)
    assert written == weft.generate(path, ["a", "b"], max_new_tokens=5, sampling=sampling)
    assert written == weft.generate(run, ["a", "b"], max_new_tokens=5, sampling=sampling)
    assert again.describe() == weft.describe(path) == weft.describe(run)
    assert weft.load(run).config == weft.load(path).config
    assert weft.load_tokenizer(run).vocab_size == again.tokenizer.vocab_size


def test_another_window_does_not_change_the_model_that_is_kept(run):
    kept = run.model
    whole = run.evaluate().bits_per_byte
    assert run.evaluate(window=1).bits_per_byte != whole
    assert run.model is kept
    assert run.evaluate().bits_per_byte == whole


def test_a_text_costs_the_bits_of_its_tokens_whether_it_is_a_file_or_not(run, folder):
    texts = ["Dat lea riika.", "", "Guovdageaidnu"]
    bits = run.score(texts)
    assert bits[1] == 0
    assert run.score(texts[0]) == pytest.approx(bits[0], rel=1e-5)
    assert run.score([]) == []
    file = folder / "one.txt"
    file.write_text(texts[0], encoding="utf-8")
    tokens = run.token_bits(file)
    assert "".join(token for token, _ in tokens) == texts[0]
    assert sum(cost for _, cost in tokens) == pytest.approx(bits[0], rel=1e-5)
    metrics = run.evaluate(file)
    assert bits[0] == pytest.approx(metrics.bits_per_byte * metrics.bytes, rel=1e-5)


def test_compressors_read_the_text_that_the_run_is_scored_on(run):
    packed = run.pack()
    assert set(packed.bits_per_byte) == set(COMPRESSORS)
    assert all(math.isfinite(bits) for bits in packed.bits_per_byte.values())
    with pytest.raises(UserError, match="Compressors read the training text first"):
        run.pack(split="train")


def test_what_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="There is no run directory 'nowhere'"):
        weft.Run("nowhere")
    with pytest.raises(UserError, match="'folder' is 5: give the path of a run directory, or a weft.Run"):
        weft.Run(5)  # type: ignore[arg-type]
    empty = weft.Run(tmp_path)
    assert empty.events == []
    for ask, sentence in (
        (lambda: empty.recipe, "is not a run directory: it has no recipe.yaml"),
        (lambda: empty.results, "has no results yet"),
        (lambda: empty.model, "has no config.json"),
        (lambda: empty.tokenizer, "has no config.json"),
        (lambda: empty.evaluate(), "has no config.json"),
        (lambda: empty.describe(), "has no config.json"),
    ):
        with pytest.raises(UserError, match=sentence):
            ask()


def test_what_finishes_a_run_comes_before_its_pages_and_does_not_cost_them(folder):
    seen = []

    def finish(run: weft.Run) -> None:
        seen.append((run.results.steps, run.report.exists(), run.card.exists()))
        raise KeyboardInterrupt

    recipe = merge(TINY, {"training": {"steps": 2, "logging": {"validations": 1, "samples": 0}}})
    with pytest.raises(KeyboardInterrupt):
        weft.train(folder / "text.txt", out=folder / "stopped", recipe=recipe, finish=finish)
    assert seen == [(2, False, False)]
    assert weft.Run(folder / "stopped").report.is_file()
