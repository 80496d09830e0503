"""The command line as people meet it: real exit codes, and what is printed."""

from __future__ import annotations

import ast
import importlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import weft
from tests.cli.conftest import SHORT, SMALL
from tests.command import Ran, assert_mistake, run_weft

FIGURES = {
    "bits_per_byte",
    "bits_per_end",
    "bits_per_character",
    "perplexity_per_token",
    "perplexity_per_word",
    "tokens",
    "bytes",
    "seconds",
}
OF_MEMORY = {"bits_per_byte_frozen", "bits_per_byte_memory"}
OF_REPEATED_LINES = {"repeated_bytes", "bits_per_byte_new"}


def in_subprocess(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"} | environment,
        check=False,
    )


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


def test_train_leaves_the_sizes_of_the_three_parts_and_how_the_text_was_cut(trained, corpus):
    run, _ = trained
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    told = results["text"]
    assert yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["text"] == told
    assert told["rule"]
    assert {key: told["test"][key] for key in ("bytes", "tokens")} == {
        key: results["test"][key] for key in ("bytes", "tokens")
    }
    parts = [told[name] for name in ("train", "validation", "test")]
    assert all(part["documents"] > 0 for part in parts)
    assert 0.9 * corpus.stat().st_size < sum(part["bytes"] for part in parts) <= corpus.stat().st_size


def test_train_shows_what_compressors_need_for_the_test_text(trained):
    run, ran = trained
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    assert set(results["baselines"]) == {"xz -9e", "PPMd order 12"}
    bits = results["baselines"]["xz -9e"]
    assert re.search(rf"xz -9e +. +{bits:.4f}", ran.out)
    assert f"{bits:.3f}" in (run / "report.html").read_text(encoding="utf-8")
    assert f"| xz -9e | {bits:.4f} |" in (run / "README.md").read_text(encoding="utf-8")


def test_what_nobody_waits_for_is_left_out_and_made_up_for_later(tmp_path, corpus, monkeypatch):
    out = tmp_path / "run"
    assert run_weft("train", corpus, "--out", out, "--steps", 1, *SMALL, *SHORT, "--no-compressors").code == 0
    assert "baselines" not in json.loads((out / "results.json").read_text(encoding="utf-8"))
    (out / "report.html").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("weft.run.pack_text", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        assert run_weft("train", "--out", out, "--resume").code == 130
    assert (out / "report.html").is_file()
    told = run_weft("train", "--out", out, "--resume", "--json").json()["baselines"]
    monkeypatch.setattr("weft.run.pack_text", None)  # what is known is not measured again
    assert run_weft("train", "--out", out, "--resume", "--json").json()["baselines"] == told


def test_without_pyppmd_one_line_says_what_to_install(run, ascii_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyppmd", None)
    shown = run_weft("evaluate", run, ascii_file, "--compressors")
    assert "xz -9e" in shown.out
    assert "PPMd needs the package pyppmd: install it with pip install 'weft-lm[demo]'.\n" in shown.out


def test_train_speaks_json_and_options_go_over_the_recipe(tmp_path, corpus):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({"training": {"minutes": 9, "seed": 4, "optimizer": {"learning_rate": 0.5}}, "model": None})
    )
    out = tmp_path / "run"
    options = ["--recipe", recipe, "--steps", 2, "--document-separator", r"\n"]
    options += ["--set", "training.optimizer.learning_rate=2e-3"]
    told = run_weft("train", corpus, "--out", out, *options, *SMALL, *SHORT, "--json")
    assert told.json()["run"] == str(out)
    assert told.json()["training_steps"] == 2
    assert "parameters" in told.err  # progress goes where it does not disturb
    saved = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    assert {key: saved["training"][key] for key in ("steps", "minutes", "seed")} == {
        "steps": 2,
        "minutes": None,
        "seed": 4,
    }
    assert saved["training"]["optimizer"]["learning_rate"] == 0.002
    assert saved["data"]["document_separator"] == "\n"
    again = run_weft("train", "--out", out, "--resume", "--steps", 4, "--json").json()
    assert again["training_steps"] == 4


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_evaluate_a_split(run, split):
    told = run_weft("evaluate", run, "--split", split, "--json").json()
    memory = set() if split == "train" else OF_MEMORY
    assert told.keys() - OF_REPEATED_LINES == FIGURES | memory
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
    assert told.keys() - OF_REPEATED_LINES == FIGURES | OF_MEMORY
    assert told["bits_per_byte_frozen"] == frozen["bits_per_byte_frozen"]
    assert "frozen weights" in run_weft("evaluate", run, ascii_file, "--adapt").out


def test_evaluate_shows_compressors_beside_the_model(run, ascii_file):
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    told = run_weft("evaluate", run, "--compressors", "--json").json()
    assert {"bits_per_byte", "baselines", "baselines_about"} <= told.keys()
    assert (told["baselines"], told["baselines_about"]) == (results["baselines"], results["baselines_about"])
    told = run_weft("evaluate", run, ascii_file, "--compressors", "--json").json()
    assert told["baselines_about"]["text_bytes"] == len(ascii_file.read_bytes())
    assert told["baselines_about"]["primed_bytes"] == results["baselines_about"]["primed_bytes"] > 0
    shown = run_weft("evaluate", run, ascii_file, "--compressors", "--adapt").out
    for words in ("xz -9e", "PPMd order 12", "weft, frozen weights", "weft, dynamic evaluation"):
        assert words in shown


def test_without_the_training_text_the_compressors_say_that_they_have_read_nothing(run, ascii_file, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["data"]["sources"] = [str(tmp_path / "gone.txt")]
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (copy / "texts.json").unlink()  # or the cache would still have it
    told = run_weft("evaluate", copy, ascii_file, "--compressors", "--json").json()
    assert told["baselines_about"]["primed_bytes"] == 0
    assert "The compressors have read nothing before this text" in told["baselines_about"]["notes"][0]


def test_evaluate_takes_another_window(run):
    default, same, shorter = (
        run_weft("evaluate", run, *window, "--json").json()["bits_per_byte"]
        for window in ([], ["--window", 16], ["--window", 2])
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


def test_generate_takes_the_precision_of_the_weights(run):
    options = ["--max-new-tokens", 5, "--temperature", 0]
    exact = weft.generate(run, max_new_tokens=5, sampling=weft.Sampling(temperature=0), precision="fp32")
    assert run_weft("generate", run, *options, "--precision", "fp32").out == exact + "\n"
    assert_mistake(run_weft("generate", run, "--precision", "half"), "give 'auto', 'fp32' or 'bf16'")


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
    recipes = Path(__file__).parents[2] / "recipes"
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
    assert_mistake(run_weft("cache", "--clear"), "no terminal", "--yes")
    assert run_weft("cache").out == f"{cache}: {size:,} bytes\n"
    assert run_weft("cache", "--clear", "--yes").out == f"{size:,} bytes freed in {cache}\n"
    assert run_weft("cache").out == f"{cache}: 0 bytes\n"


@pytest.mark.parametrize(("answer", "left"), [("n", True), ("", True), ("y", False)])
def test_emptying_the_cache_is_asked_about_on_a_terminal(tmp_path, monkeypatch, answer, left):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    kept = tmp_path / "weft-downloads" / "corpus"
    kept.parent.mkdir()
    kept.write_text("text")
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    assert run_weft("cache", "--clear").code == 0
    assert kept.exists() == left


def test_the_version():
    assert run_weft("--version") == Ran(0, f"weft {weft.__version__}\n", "")


def test_the_numbers_are_finite(run):
    told = run_weft("evaluate", run, "--json").json()
    assert all(math.isfinite(value) and value > 0 for value in told.values())


def test_evaluate_tells_of_the_text_beside_the_figures(run, tmp_path):
    windows = tmp_path / "windows.txt"
    windows.write_text("A line,\nand another.\n" * 9, encoding="utf-8", newline="\r\n")
    ran = run_weft("evaluate", run, windows, "--json")
    assert "lines of this text end in CR LF" in ran.err
    assert ran.json()["bytes"] > 0
    table = tmp_path / "a.csv"
    table.write_text("id,said\n1,The weaver\n", encoding="utf-8")
    assert "--text-key" in run_weft("evaluate", run, table).err
    assert run_weft("evaluate", run, table, "--text-key", "said", "--json").json()["bytes"] == len("The weaver")


def test_describe_says_from_where_on_the_state_is_full():
    assert "from 256 tokens on" in run_weft("describe", "hybrid").out
