"""The functions of Python's door: what they take, and the sentence for what they do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import weft
from tests.conftest import small_model
from weft import api
from weft.arguments import ARGUMENTS
from weft.data import train_tokenizer
from weft.errors import UserError
from weft.pretrained import save_model


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("api") / "run"
    save_model(small_model("qf", {}, vocab_size=258), train_tokenizer("bytes", (), 258), folder)
    return str(folder)


def test_a_path_may_be_a_string(run):
    assert weft.load_tokenizer(run).vocab_size == weft.load(run).config.vocab_size == 258
    with pytest.raises(UserError, match="There is no run directory 'runs/x'"):
        weft.load_tokenizer("runs/x")


def test_a_model_is_described_by_whatever_names_it(run, tmp_path):
    config = weft.sized("hybrid", parameters="2M")
    assert weft.describe("hybrid") == weft.describe(config)
    small = weft.sized("(qf)2", parameters="200k", vocab_size=300, preset="classic")
    assert weft.describe("(qf)2", parameters="200k", vocab_size=300, preset="classic") == weft.describe(small)
    assert weft.describe(run) == weft.describe(Path(run)) == weft.describe(weft.load(run))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {pattern: (qf)2, parameters: 200k}\ndata: {sources: [a.txt]}\n", encoding="utf-8")
    assert weft.describe(recipe, vocab_size=300).vocab_size == 300
    assert weft.describe(str(recipe)).vocab_size == api.VOCABULARY
    with pytest.raises(UserError, match="'nonsense' is neither an architecture"):
        weft.describe("nonsense")


STUDY = {"out": "out", "architectures": ["qf"], "parameters": "100k", "learning_rates": [1e-3], "tokens": 100}
WRONG = [
    (lambda _: weft.load_tokenizer(5), "'folder' is 5: give the path of a run directory."),
    (lambda _: weft.describe(5), "'what' is 5: give an architecture, a pattern"),
    (lambda _: weft.build("hybrid"), "'config' is 'hybrid': give a ModelConfig"),
    (lambda _: weft.sized(5, parameters="1M"), "'pattern' is 5: give an architecture or a pattern"),
    (lambda _: weft.load(5), "'run' is 5: give the path"),
    (lambda run: weft.load(run, window="a"), "'window' is 'a': give a whole number"),
    (lambda run: weft.generate(weft.load(run), "a"), "'run' is of the class WeftModel: give the path"),
    (lambda run: weft.generate(run, 5), "'prompts' is 5: give a string or a list of strings."),
    (lambda run: weft.generate(run, [5]), "'prompts' is .5.: give a string"),
    (lambda run: weft.generate(run, b"a"), "'prompts' is b'a': give a string"),
    (lambda run: weft.generate(run, max_new_tokens=-5), "'max_new_tokens' is -5: give a whole number, 0 or more."),
    (lambda run: weft.generate(run, max_new_tokens=2.5), "'max_new_tokens' is 2.5: give a whole number"),
    (lambda run: weft.generate(run, stop=5), "'stop' is 5: give a string or a list of strings."),
    (lambda run: weft.generate(run, sampling={"seed": 1}), "'sampling' is {'seed': 1}: give a weft.Sampling"),
    (lambda _: weft.Sampling(top_k=2.5), "whole ones for top-k"),
    (lambda _: weft.Sampling(temperature="a"), "numbers for temperature"),
    (lambda run: weft.evaluate(run, 5), "'files' is 5: give a path or a list of paths."),
    (lambda run: weft.evaluate(run, split="foo"), "'split' is 'foo': give train, validation or test."),
    (lambda run: weft.evaluate(run, __file__, adapt="yes"), "'adapt' is 'yes': give True"),
    (lambda _: weft.train(5, out="out"), "'sources' is 5: give a path"),
    (lambda _: weft.train("a", out=5), "'out' is 5: give the path of a folder."),
    (lambda _: weft.train("a", out="out", recipe=5), "'recipe' is 5: give the path of a YAML file"),
    (lambda _: weft.train("a", out="out", settings=5), "'settings' is 5: give a dictionary"),
    (lambda _: weft.train("a", out="out", settings={"model": 5}), "'model' is 5"),
    (lambda _: weft.train("a", out="out", settings={"training": 5}), "'training' is 5"),
    (lambda _: weft.train("a", out="out", recipe={"training": 5}), "'training' is 5"),
    # A string is a list of its letters: 'qf' would be two models.
    (lambda _: weft.compare("a", **STUDY | {"architectures": "qf"}), "'architectures' is 'qf': give a list"),
    (lambda _: weft.compare("a", **STUDY | {"learning_rates": 1e-3}), "'learning_rates' is 0.001: give a list"),
    (lambda _: weft.compare("a", **STUDY, seeds=0), "'seeds' is 0: give a list"),
    (lambda _: weft.compare("a", **STUDY, baselines="llama"), "'baselines' is 'llama': give a list"),
    (lambda _: weft.compare("a", **STUDY, variants=5), "'variants' is 5: give the path of a YAML file"),
    (lambda run: weft.load_tokenizer(run).encode(5), "The text is 5: give a string."),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_is_given_wrong_is_told_in_a_sentence(run, number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, sentence = WRONG[number]
    with pytest.raises(UserError, match=sentence) as told:
        call(run)
    assert "\n" not in str(told.value)
    assert not any(tmp_path.iterdir())


def test_an_argument_is_read_by_its_old_name_with_a_warning(run):
    with pytest.warns(FutureWarning, match="'memory' is now called 'window'"):
        model = weft.load(run, memory=3)
    assert {block.window for block in model.own_blocks} <= {0, 3}
    with pytest.raises(UserError, match="'memory' is the old name of 'window': give one of them."):
        weft.load(run, memory=3, window=3)


def test_several_come_in_whatever_can_be_gone_through(run, tmp_path):
    prompts = ["a", "b"]
    written = weft.generate(run, prompts, max_new_tokens=2)
    assert weft.generate(run, np.array(prompts), max_new_tokens=2) == written
    assert weft.generate(run, (prompt for prompt in prompts), max_new_tokens=2) == written
    for name in prompts:
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    assert weft.evaluate(run, tmp_path.glob("*.txt")).bytes == 2


def test_what_names_no_model_is_told():
    for name in ("", "runs/none"):
        with pytest.raises(UserError, match=f"There is no run directory '{name}'"):
            weft.describe(name)


def test_other_arguments_are_told_by_python_itself(run):
    with pytest.raises(TypeError, match="promts"):
        weft.generate(run, promts="a")


def test_an_argument_that_is_left_at_its_default_is_not_asked_about(run):
    assert isinstance(weft.generate(run, "a", max_new_tokens=1, applications=None), str)
    assert len(weft.generate(run, ("a", "b"), max_new_tokens=1, stop=["\0\0", "\0\1"])) == 2


def test_every_argument_in_the_table_is_one_that_a_function_has():
    functions = [*(getattr(weft, name) for name in weft.__all__), *vars(weft.Run).values()]
    names = {name for function in functions for name in getattr(function, "__annotations__", {})}
    assert set(ARGUMENTS) <= names
