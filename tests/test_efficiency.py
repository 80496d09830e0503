"""The comparisons on fewer parameters: who is trained with what, after whom, and for how many tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks.efficiency import __main__ as harness
from benchmarks.efficiency import picture
from benchmarks.efficiency.questions import PARENT, QUESTIONS

from tests.experiments.pretend import pretend_training
from weft.training.recipe import make_recipe, parse_settings
from weft.training.resolve import make_model
from weft.training.result import read_result

WORDS = ["--name", "t", "--tokens", "1000", "--vocab-size", "300"]


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The recipes that the harness would train; the loss is the larger, the farther the rate is from 4e-3."""
    recipes = pretend_training(
        monkeypatch, lambda recipe: 1.5 + abs(recipe["training"]["optimizer"]["learning_rate"] - 4e-3)
    )
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(harness, "paces", lambda recipes, *_: {n: [8.0, 4, 2] for n in recipes} | SLOW)

    def ask(*words):
        recipes.clear()
        monkeypatch.setattr(sys, "argv", ["efficiency", *words, *WORDS, "--work", str(tmp_path / "work")])
        harness.main()
        return list(recipes)

    return ask


SLOW = {"the norm alone": [1.0, 2, 3]}


def test_each_rate_is_tried_and_the_best_repeated_and_nothing_is_trained_twice(asked, tmp_path, capsys):
    words = ("structured", "text", "--rates", "2e-3,4e-3", "--only", "dense;low_rank", "--seeds", "3")
    recipes = asked(*words)
    assert len(recipes) == 2 * (2 + 2)
    assert sum(recipe["training"]["optimizer"]["learning_rate"] == 4e-3 for recipe in recipes) == 2 * 3
    assert {recipe["training"]["tokens"] for recipe in recipes} == {1000}
    assert "| low_rank | 4e-3 | 1.5000 | 1.5000 | 2.9957 | 10 | 5 | 1,000 | 1 |" in capsys.readouterr().out
    assert asked(*words) == []
    told = json.loads((tmp_path / "structured-t-1000-tokens.json").read_text())
    assert len(told["runs"]) == 8
    assert len(told["commands"]) == 1


def test_in_equal_time_who_is_slower_reads_less(asked):
    recipes = asked("ngrams", "text", "--rates", "4e-3", "--only", "plain;the norm alone", "--equal-time")
    assert [recipe["training"]["tokens"] for recipe in recipes] == [1000, 500]


def test_children_come_after_the_parent_and_start_from_its_best_run(asked, tmp_path):
    only = f"shared, transfer;{PARENT}"
    recipes = asked("stacking", "text", "--rates", "2e-3,4e-3", "--only", only)
    assert [recipe["training"]["tokens"] for recipe in recipes] == [4000, 4000, 1000, 1000]
    (parent,) = {recipe["training"]["start"]["run"] for recipe in recipes[2:]}
    assert recipes[0]["data"]["vocab_size"] == 300
    assert "vocab_size" not in recipes[2]["data"]
    assert read_result(Path(parent)).validation.bits_per_byte == 1.5  # the parent's best run is kept, and only that
    (work,) = (tmp_path / "work").iterdir()
    assert len([path for path in (work / "runs").iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "shared, transfer"), "name that in --only too"),
        (("--only", f"{PARENT};shared, teacher", "--equal-time"), "there is no equal time"),
    ],
)
def test_mistakes(asked, words, message):
    with pytest.raises(SystemExit, match=message):
        asked("stacking", "text", *words)


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_contender_is_a_recipe_and_those_of_one_size_are_equal_to_a_percent(question):
    prepared = SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=2048, boundary_id=1, padding_id=0))
    for name, contender in QUESTIONS[question].items():
        recipe = make_recipe(parse_settings(one.replace("{run}", "runs/x") for one in contender.settings))
        if recipe.training.start.run is None:
            model = make_model(recipe, prepared, None)
            if recipe.model.parameters:
                assert model.parameter_count == pytest.approx(1e6, rel=0.01), name


def test_the_picture_holds_each_contender_against_its_control(tmp_path, monkeypatch):
    """At its best rate, by the mean of its seeds; a file without the control says nothing."""

    def run(name, rate, seed, bits, parameters=100):
        return {"contender": name, "rate": rate, "seed": seed, "validation": bits, "parameters": parameters}

    runs = [run("dense", "4e-3", 0, 2.0), run("dense", "4e-3", 1, 2.2), run("dense", "8e-3", 0, 3.0)]
    runs += [run("low_rank", "4e-3", 0, 2.5, 60), run("low_rank", "8e-3", 0, 2.31, 60)]
    (tmp_path / "efficiency").mkdir()
    for name, found in (("slv-bytes-2M-tokens", runs), ("hy-2M-tokens", runs[3:])):
        (tmp_path / "efficiency" / f"structured-{name}.json").write_text(
            json.dumps({"runs": dict(enumerate(found))}), encoding="utf-8"
        )
    monkeypatch.setattr(picture, "RESULTS", tmp_path)
    found = picture.lines("structured")
    assert list(found) == ["dense", "low-rank (60 % of its size)"]
    (point,) = found["low-rank (60 % of its size)"]
    assert (point.text, point.bytes, point.budget) == ("slv", True, "2M-tokens")
    assert point.percent == pytest.approx(10)  # 2.31 over 2.1


def test_the_picture_is_of_all_questions(tmp_path):
    found = {question: picture.lines(question) for question in QUESTIONS}
    assert all(found.values())
    picture.draw(found, tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > 1000
