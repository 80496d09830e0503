"""The command line as people meet it: real exit codes, what is printed, and one sentence for each mistake."""

from __future__ import annotations

import ast
import importlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import weft
from tests.command import Ran, run_weft

TEXT = "\n\n\n".join(f"Number {n}: the weaver threw the shuttle {n * n} times,\nand the cloth grew." for n in range(60))
SMALL = [
    "--tokenizer",
    "bytes",
    "--pattern",
    "qfa",
    "--set",
    "model.hidden_size=16",
    "--set",
    "training.precision=fp32",
]
SHORT = ["--set", "model.attention.memory=16", "--set", "training.lanes=4", "--set", "training.length=32"]
FIGURES = {
    "bits_per_byte",
    "bits_per_character",
    "perplexity_per_token",
    "perplexity_per_word",
    "tokens",
    "bytes",
    "seconds",
}


def in_subprocess(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"} | environment,
        check=False,
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus) -> tuple[Path, Ran]:
    """A run that the command line trained, cut short by the environment, and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("WEFT_MAX_STEPS", "3")
        ran = run_weft("train", corpus, "--out", folder, "--steps", 500, *SMALL, *SHORT)
    assert ran.code == 0, ran.err
    return folder, ran


@pytest.fixture(scope="module")
def run(trained) -> Path:
    return trained[0]


@pytest.fixture
def ascii_file(tmp_path) -> Path:
    path = tmp_path / "more.txt"
    path.write_text("It's 'quoted', \\ and\n\ttabbed.", encoding="utf-8")
    return path


def test_importing_and_asking_for_help_is_light():
    code = """
import sys
def heavy():
    return sorted({"torch", "transformers", "datasets", "matplotlib", "numpy", "tokenizers"} & set(sys.modules))
import weft
print("weft", heavy())
import weft.cli
print("weft.cli", heavy())
sys.argv = ["weft", "--help"]
try:
    weft.cli.main()
except SystemExit as ended:
    print("help", ended.code or 0, heavy())
"""
    done = in_subprocess("-c", code)
    assert done.returncode == 0, done.stderr
    assert "weft []" in done.stdout
    assert "weft.cli []" in done.stdout
    assert "help 0 []" in done.stdout
    assert all(verb in done.stdout for verb in ("train", "evaluate", "generate", "describe", "demo", "cache"))


def test_python_m_weft_is_the_command_and_a_mistake_is_one_sentence():
    done = in_subprocess("-m", "weft", "--version")
    assert (done.returncode, done.stdout) == (0, f"weft {weft.__version__}\n")
    done = in_subprocess("-m", "weft", "evaluate", "nowhere")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"Error: There is no run directory 'nowhere'[^\n]*\n", done.stderr)


def test_every_public_name_resolves():
    assert set(weft.__all__) <= set(dir(weft))
    for name in weft.__all__:
        assert callable(getattr(weft, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = weft.nothing


def test_public_functions_are_not_shadowed_by_modules(monkeypatch):
    for name in weft.__all__:
        monkeypatch.delitem(vars(weft), name, raising=False)
    for module in ("description", "evaluation.evaluate", "generation", "training.run", "api"):
        importlib.import_module(f"weft.{module}")
    assert weft.describe(weft.sized("qf", parameters="100k", vocab_size=300)).depth == 2
    assert all(callable(getattr(weft, name)) for name in weft.__all__)


def test_train_leaves_a_run_with_report_and_card(trained):
    run, ran = trained
    names = {path.name for path in run.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "recipe.yaml", "report.html", "README.md"} <= names
    assert "<html" in (run / "report.html").read_text(encoding="utf-8")
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert results["training_steps"] == 3
    bits = results["test"]["bits_per_byte"]
    assert f"{bits:.4f}" in (run / "README.md").read_text(encoding="utf-8")
    assert f"{bits:,.4f}" in ran.out
    assert f"{results['parameters']:,} parameters" in ran.out
    assert "report.html" in ran.out
    assert ran.err == ""


def test_train_speaks_json_and_options_go_over_the_recipe(tmp_path, corpus):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"training": {"minutes": 9, "seed": 4, "learning_rate": 0.5}, "model": None}))
    out = tmp_path / "run"
    options = ["--recipe", recipe, "--steps", 2, "--set", "training.learning_rate=2e-3", "--document-separator", r"\n"]
    told = run_weft("train", corpus, "--out", out, *options, *SMALL, *SHORT, "--json")
    assert told.json()["run"] == str(out)
    assert told.json()["training_steps"] == 2
    assert "parameters" in told.err  # progress goes where it does not disturb
    saved = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    assert {key: saved["training"][key] for key in ("steps", "minutes", "seed", "learning_rate")} == {
        "steps": 2,
        "minutes": None,
        "seed": 4,
        "learning_rate": 0.002,
    }
    assert saved["data"]["document_separator"] == "\n"
    again = run_weft("train", "--out", out, "--resume", "--steps", 4, "--json").json()
    assert again["training_steps"] == 4


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluate_a_split(run, split):
    told = run_weft("evaluate", run, "--split", split, "--json").json()
    assert told.keys() == FIGURES
    assert told["bits_per_byte"] == weft.evaluate(run, split=split).bits_per_byte
    assert told["tokens"] == told["bytes"]


def test_evaluate_defaults_to_the_test_split_and_tells_what_training_told(run):
    told = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert run_weft("evaluate", run, "--json").json()["bits_per_byte"] == told["test"]["bits_per_byte"]


def test_evaluate_files_for_people_and_programs(run, ascii_file):
    told = run_weft("evaluate", run, ascii_file, "--json").json()
    assert told["bytes"] == len(ascii_file.read_bytes())
    shown = run_weft("evaluate", run, ascii_file)
    assert shown.code == 0
    assert "bits per byte" in shown.out
    assert f"{told['bits_per_byte']:,.4f}" in shown.out


def test_evaluate_adapts_when_asked_to(run, ascii_file):
    frozen = run_weft("evaluate", run, ascii_file, "--json").json()
    told = run_weft("evaluate", run, ascii_file, "--adapt", "--json").json()
    assert told.keys() == FIGURES | {"bits_per_byte_frozen"}
    assert told["bits_per_byte_frozen"] == frozen["bits_per_byte"]
    assert "frozen weights" in run_weft("evaluate", run, ascii_file, "--adapt").out


def test_evaluate_takes_another_memory(run):
    default, same, shorter = (
        run_weft("evaluate", run, *memory, "--json").json()["bits_per_byte"]
        for memory in ([], ["--memory", 16], ["--memory", 2])
    )
    assert default == same != shorter


@pytest.mark.parametrize("adapt", [[], ["--adapt"]], ids=["frozen", "adapt"])
def test_the_surprisal_of_each_token_adds_up(run, ascii_file, adapt):
    whole = run_weft("evaluate", run, ascii_file, *adapt, "--json").json()
    bits = whole["bits_per_byte"] * whole["bytes"]
    told = run_weft("evaluate", run, ascii_file, *adapt, "--tokens", "--json").json()
    assert "".join(row["token"] for row in told) == ascii_file.read_text(encoding="utf-8")
    assert sum(row["bits"] for row in told) == pytest.approx(bits, rel=1e-5)
    lines = [
        line.split(maxsplit=1) for line in run_weft("evaluate", run, ascii_file, *adapt, "--tokens").out.splitlines()
    ]
    assert "".join(ast.literal_eval(token) for _, token in lines) == ascii_file.read_text(encoding="utf-8")
    assert sum(float(cost) for cost, _ in lines) == pytest.approx(bits, abs=0.0006 * len(lines))


def test_generate_goes_on_from_one_prompt(run):
    options = ["--max-new-tokens", 12, "--seed", 4, "--temperature", 1, "--top-k", 50]
    one, again = (run_weft("generate", run, "--prompt", "The ", *options) for _ in range(2))
    assert one == again
    assert one.code == 0
    sampling = weft.Sampling(seed=4, temperature=1, top_k=50)
    assert one.out == "The " + weft.generate(run, "The ", max_new_tokens=12, sampling=sampling) + "\n"
    assert run_weft("generate", run, "--max-new-tokens", 5).code == 0


def test_generate_stops_before_a_string(run):
    options = ["--prompt", "The ", "--max-new-tokens", 30, "--temperature", 1]
    whole = weft.generate(run, "The ", max_new_tokens=30, sampling=weft.Sampling(temperature=1))
    first, second = whole[9], whole[5:7]
    expected = min(whole.split(first)[0], whole.split(second)[0], key=len)
    stops = ["--stop", first, "--stop", second]
    assert run_weft("generate", run, *options, *stops).out == f"The {expected}\n"
    told = run_weft("generate", run, *options, *stops, "--json").json()
    assert told == [{"prompt": "The ", "text": expected}]
    assert_mistake(run_weft("generate", run, "--stop", ""), "A stop string is empty")


def test_generate_goes_on_from_several_prompts(run):
    options = ["--prompt", "The ", "--prompt", "Ruoŧŧa", "--prompt", "", "--max-new-tokens", 6]
    prompts = ["The ", "Ruoŧŧa", ""]
    texts = weft.generate(run, prompts, max_new_tokens=6)
    told = run_weft("generate", run, *options, "--json").json()
    assert told == [{"prompt": prompt, "text": text} for prompt, text in zip(prompts, texts, strict=True)]
    shown = run_weft("generate", run, *options)
    assert shown.out == "\n\n".join(prompt + text for prompt, text in zip(prompts, texts, strict=True)) + "\n"


@pytest.mark.parametrize("what", ["hybrid", "(af)2", "run"])
def test_describe(run, what):
    target = run if what == "run" else what
    told = run_weft("describe", target, "--parameters", "500k", "--vocab-size", 300, "--json").json()
    assert {"parameters", "body_parameters", "flops_per_token", "state_bytes", "blocks", "source"} <= told.keys()
    assert 0 < told["body_parameters"] < told["parameters"]
    assert len(told["blocks"]) == told["depth"]
    if what == "run":
        assert told["parameters"] == weft.load(run).parameter_count
    else:
        assert told["parameters"] == pytest.approx(500_000, rel=0.01)
        assert told["vocab_size"] == 300
    shown = run_weft("describe", target, "--parameters", "500k", "--vocab-size", 300)
    assert f"{told['parameters']:,}" in shown.out
    assert f"{told['flops_per_token']:,}" in shown.out
    assert ("source: " in shown.out) == (what == "hybrid")


def test_a_recipe_is_described_with_the_vocabulary_of_its_corpus(tmp_path):
    recipes = Path(__file__).parents[1] / "recipes"
    for name, count in (("enwik8-transformer-xl-41M", 41_094_402), ("wikitext-103-par-200M", 199_846_364)):
        assert run_weft("describe", recipes / f"{name}.yaml", "--json").json()["parameters"] == count
    (tmp_path / "free.yaml").write_text("model: {parameters: 300k}\n")
    told = run_weft("describe", tmp_path / "free.yaml")
    assert "counted with 4,096" in told.err
    assert_mistake(run_weft("describe", tmp_path / "nope.yaml"), "There is no recipe")


def test_describe_takes_a_preset():
    modern, classic = (
        run_weft("describe", "(af)2", "--parameters", "500k", "--preset", preset, "--json").json()
        for preset in ("modern", "classic")
    )
    assert "rotary" in modern["blocks"][0]["shape"]
    assert "relative" in classic["blocks"][0]["shape"]


def test_the_cache_is_shown_and_emptied(run, tmp_path, monkeypatch, ascii_file):
    cache = tmp_path / "a cache"
    monkeypatch.setenv("WEFT_CACHE", str(cache))
    assert run_weft("cache").out == f"{cache}: 0 bytes\n"
    assert run_weft("evaluate", run, ascii_file).code == 0
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert size > 0
    assert run_weft("cache").out == f"{cache}: {size:,} bytes\n"
    assert run_weft("cache", "--clear").out == f"{size:,} bytes freed in {cache}\n"
    assert run_weft("cache").out == f"{cache}: 0 bytes\n"


def test_the_version():
    assert run_weft("--version") == Ran(0, f"weft {weft.__version__}\n", "")


def assert_mistake(ran: Ran, *words: str) -> None:
    """One sentence on stderr, exit code 2."""
    assert ran.code == 2, ran
    assert "Traceback" not in ran.err + ran.out
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1, ran.err
    for word in words:
        assert word in ran.err, ran.err


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
    "unknown key": (["--set", "training.learning_rat=1"], ["'training.learning_rat'", "did you mean 'learning_rate'"]),
    "unknown section": (["--set", "trainings.steps=1"], ["'trainings'", "did you mean 'training'"]),
    "nested unknown key": (
        ["--set", "model.attention.memori=9", "--parameters", "500k"],
        ["attention.memori'", "did you mean 'memory'"],
    ),
    "no equals sign": (["--set", "training.steps"], ["--set takes 'section.key=value'"]),
    "impossible value": (["--set", "training.lanes=0"], ["'training.lanes' is 0", "greater than 0"]),
    "small budget": (["--parameters", "1k"], ["No width meets a budget of 1,000", "ask for more parameters"]),
    "no count": (["--parameters", "two"], ["is 'two': not a count"]),
    "large vocabulary": (["--vocab-size", 60_000], ["supports at most", "not 60000", "or less"]),
    "small vocabulary": (["--vocab-size", 100], ["too small", "258 or more"]),
    "two budgets": (["--steps", 5, "--minutes", 1], ["given twice", "steps and minutes"]),
    "unknown split rule": (["--split", "pages"], ["'data.split' is 'pages'", "'lines'"]),
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
    "only words": ("train for long", ["must hold the sections model, data and training"]),
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
        run_weft("train", "--out", run, "--resume", "--set", "training.lanes=2"), "training.lanes (was 4, now 2)"
    )
    changed = ["--resume", "--seed", 5, "--set", "model.attention.memory=7"]
    assert_mistake(run_weft("train", "--out", run, *changed), "model.attention.memory", "training.seed")
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
    for arguments in (["train"], ["evaluate"], ["weave"], ["evaluate", run, "--memory", 0], ["cache", "--all"]):
        ran = run_weft(*arguments)
        assert ran.code == 2
        assert "Traceback" not in ran.err
        assert "Usage: " in ran.err


def test_the_numbers_are_finite(run):
    told = run_weft("evaluate", run, "--json").json()
    assert all(math.isfinite(value) and value > 0 for value in told.values())
