"""A mistake on the command line is told in one sentence, with exit code 2, and nothing already made is lost."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from tests.command import assert_mistake, run_weft

BAD_TEXTS = {
    "missing": (None, ["There is no file", "text.txt", "check the path"]),
    "empty": (b"", ["text.txt' is empty"]),
    "blank": (b" \n\n ", ["only white space"]),
    "binary": (b"\x7fELF\x00\x01" * 50, ["text.txt' looks binary", "--tokenizer bytes"]),
    "undecodable": ("Ruoŧŧa é ".encode() + b"\xe9t\xe9 " * 50, ["text.txt' is not UTF-8 at byte 12", "convert it"]),
    "too small": (b"One line.", ["too short", "--validation"]),
}


@pytest.mark.parametrize(("content", "words"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_text_that_cannot_be_trained_on_is_told(tmp_path, content, words):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert_mistake(run_weft("train", path, "--out", tmp_path / "run", "--steps", 1), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [None, b""], ids=["missing", "empty"])
def test_text_that_cannot_be_scored_is_told(run, tmp_path, content):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    assert_mistake(run_weft("evaluate", run, path), "text.txt")


BAD_OPTIONS = {
    "no text": (["--steps", 1], ["nothing to train on"]),
    "unknown key": (
        ["--set", "training.learning_rat=1"],
        ["'training.learning_rat'", "did you mean 'optimizer.learning_rate'"],
    ),
    "unknown section": (["--set", "trainings.steps=1"], ["'trainings'", "did you mean 'training'"]),
    "nested unknown key": (
        ["--set", "model.attention.windo=9", "--parameters", "500k"],
        ["attention.windo'", "did you mean 'window'"],
    ),
    "no equals sign": (["--set", "training.steps"], ["is set by 'section.key=value'"]),
    "impossible value": (
        ["--set", "training.batch.batch_size=0"],
        ["'training.batch.batch_size' is 0", "greater than 0"],
    ),
    "small budget": (["--parameters", "1k"], ["No width meets a budget of 1,000", "ask for more parameters"]),
    "no count": (["--parameters", "two"], ["is 'two': not a count"]),
    "large vocabulary": (["--vocab-size", 60_000], ["supports at most", "not 60000", "or less"]),
    "small vocabulary": (["--vocab-size", 100], ["too small", "258 or more"]),
    "two budgets": (["--steps", 5, "--minutes", 1], ["given twice", "steps and minutes"]),
    "unknown split rule": (["--split", "pages"], ["'data.split' is 'pages'", "'tail'"]),
    "unknown tokenizer": (["--tokenizer", "letters"], ["'data.tokenizer' is 'letters'", "'bpe'"]),
    "unknown architecture": (["--architecture", "lstm"], ["'lstm' is neither", "hybrid"]),
    "missing recipe": (["--recipe", "none.yaml"], ["There is no recipe 'none.yaml'"]),
    "missing origin": (["--init-from", "nowhere"], ["There is no run directory 'nowhere'"]),
    "nothing to resume": (["--resume"], ["no run to resume", "leave --resume out"]),
    "two ways": (["--resume", "--overwrite"], ["--resume"]),
}


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_impossible_training_options_are_told(corpus, tmp_path, options, words):
    sources = [] if "nothing to train on" in words else [corpus]
    assert_mistake(run_weft("train", *sources, "--out", tmp_path / "run", *options), *words)
    assert not (tmp_path / "run").exists()


RECIPES = {
    "unknown key": ("training: {stepz: 3}", ["'training.stepz'", "did you mean 'steps'"]),
    "not YAML": ("training: [", ["recipe.yaml' is not YAML"]),
    "only words": ("train for long", ["must hold the sections model, data, training and memory"]),
    "a section that is none": ("training: 5", ["'training'", "keys and values"]),
    "two budgets": ("training: {steps: 3, tokens: 1M}", ["given twice", "steps and tokens"]),
}


@pytest.mark.parametrize(("content", "words"), RECIPES.values(), ids=RECIPES)
def test_an_impossible_recipe_is_told(corpus, tmp_path, content, words):
    (tmp_path / "recipe.yaml").write_text(content)
    assert_mistake(run_weft("train", corpus, "--out", tmp_path / "run", "--recipe", tmp_path / "recipe.yaml"), *words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "describe"])
def test_an_impossible_pattern_is_shown_with_a_caret(corpus, tmp_path, command):
    pattern = "qf(az)2"
    options = [corpus, "--out", tmp_path / "run", "--pattern", pattern] if command == "train" else [pattern]
    ran = run_weft(command, *options)
    assert ran.code == 2
    sentence, shown, caret = ran.err.splitlines()
    assert sentence.startswith("Error: 'z' is not a block")
    assert shown[caret.index("^")] == "z"
    assert shown.strip() == pattern
    assert not (tmp_path / "run").exists()


def test_a_pattern_in_a_recipe_is_shown_with_a_caret_too(corpus, tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: {pattern: 'q(f'}")
    ran = run_weft("train", corpus, "--out", tmp_path / "run", "--recipe", tmp_path / "recipe.yaml")
    assert ran.code == 2
    _, shown, caret = ran.err.splitlines()
    assert shown[caret.index("^")] == "("


def test_an_out_that_holds_something_is_left_alone(run, corpus, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert_mistake(run_weft("train", corpus, "--out", run), "already holds a run", "--resume", "--overwrite")
    assert_mistake(
        run_weft("train", "--out", run, "--resume", "--set", "training.batch.batch_size=2"),
        "training.batch.batch_size (was 4, now 2)",
    )
    changed = ["--resume", "--seed", 5, "--set", "model.attention.window=7"]
    assert_mistake(run_weft("train", "--out", run, *changed), "model.attention.window", "training.seed")
    assert_mistake(run_weft("train", "--out", run, "--resume", "--overwrite"), "exclude each other")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    (tmp_path / "thesis.txt").write_text("keep me")
    assert_mistake(run_weft("train", corpus, "--out", tmp_path, "--overwrite"), "not a run", "another folder")
    assert_mistake(run_weft("train", corpus, "--out", tmp_path / "thesis.txt"), "is a file")
    assert (tmp_path / "thesis.txt").read_text() == "keep me"


@pytest.fixture
def broken(run, tmp_path) -> Path:
    """A copy of the run without its checkpoints, to break."""
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("command", ["evaluate", "generate", "describe"])
def test_a_folder_that_is_no_whole_run_is_told(broken, tmp_path, command):
    (tmp_path / "folder").mkdir()
    assert_mistake(run_weft(command, tmp_path / "folder"), "not a run directory")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").unlink()
    assert_mistake(run_weft(command, broken), "half written", "--resume")
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    if command != "describe":  # which reads no weights
        assert_mistake(run_weft(command, broken), "is damaged")
    (broken / "model.safetensors").write_bytes(weights)
    (broken / "weights.pt").write_bytes(pickle.dumps({"a": 1}))
    assert_mistake(run_weft(command, broken), "pickle (weights.pt)", "remove the file")
    if command != "describe":
        assert_mistake(run_weft(command, tmp_path / "nowhere"), "There is no run directory")


def test_impossible_evaluations_are_told(run, broken):
    assert_mistake(run_weft("evaluate", run, "--split", "dev"), "no split 'dev'", "train, validation or test")
    (broken / "recipe.yaml").unlink()
    assert_mistake(run_weft("evaluate", broken), "name files to evaluate")


@pytest.mark.parametrize("option", [("--temperature", -1), ("--temperature", "nan"), ("--top-p", 0), ("--top-k", -2)])
def test_impossible_sampling_is_told(run, option):
    assert_mistake(run_weft("generate", run, *option), "temperature from 0 to 100")


def test_impossible_descriptions_are_told():
    assert_mistake(run_weft("describe", "lstm"), "'lstm' is neither", "hybrid")
    assert_mistake(run_weft("describe", "af", "--preset", "old"), "no preset 'old'", "classic")
    assert_mistake(run_weft("describe", "af", "--parameters", "100"), "No width meets")
    assert_mistake(run_weft("describe", "af", "--parameters", "-1"), "is not a count")


def test_a_wrong_use_of_the_command_line_is_told_too(run):
    for arguments in (["train"], ["evaluate"], ["weave"], ["evaluate", run, "--window", 0], ["cache", "--all"]):
        ran = run_weft(*arguments)
        assert ran.code == 2
        assert "Traceback" not in ran.err
        assert "Usage: " in ran.err
