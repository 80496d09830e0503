"""A comparison, as data: what it trains, and what it refuses."""

from __future__ import annotations

import pytest
import yaml

from weft.errors import UserError
from weft.experiments.folder import check_folder, save_plan
from weft.experiments.plan import Plan, Trial, base_values, load_variants, recipe_of
from weft.training.recipe import parse_settings

ASKED = {
    "architectures": ("transformer", "qrnn"),
    "parameters": 20_000,
    "tokens": 1000,
    "learning_rates": (1e-3, 3e-3),
    "base": {"data": {"sources": ["texts"], "tokenizer": "bytes"}, "training": {"optimizer": {"clip": 0.5}}},
}


def plan(**changes) -> Plan:
    return Plan.parse(ASKED | changes)


def test_no_two_trials_share_a_folder():
    contenders = ("(qf)2", "[qf]2", "(qf)2 a", "(qf)2a", "qf", "transformer-xl", "a" * 300, "a" * 301)
    rates = (1e-3, 0.0010000001, 1e-5, 1e-4)
    names = {Trial(c, rate, seed).name for c in contenders for rate in rates for seed in (0, 1, 10)}
    assert len(names) == len(contenders) * len(rates) * 3
    assert all(len(name) < 120 and not set(name) & set("()[]{}/ ") for name in names)
    assert Trial("transformer-xl", 1e-3, 0).name == "transformer-xl-lr0.001-seed0"


def test_all_trials_have_the_same_data_budget_and_size():
    asked = plan(
        baselines=("llama",), architectures=("transformer", "(qf)2"), base=ASKED["base"] | {"model": {"bias": True}}
    )
    trials = [Trial(name, 3e-3, 4) for name in asked.contenders]
    named, pattern, peer = recipes = [recipe_of(asked, trial) for trial in trials]
    for recipe in recipes:
        assert recipe.data == named.data
        assert recipe.model.parameters == 20_000
        training = recipe.training
        assert (training.tokens, training.minutes, training.optimizer.learning_rate, training.seed) == (
            1000,
            None,
            3e-3,
            4,
        )
        assert training.batch.batch_size * training.batch.sequence_length == 8 * 128
    assert (named.model.architecture, named.model.pattern, pattern.model.pattern) == ("transformer", None, "(qf)2")
    assert named.model.bias is True
    assert (peer.model.baseline, peer.model.bias) == ("llama", None)  # it has settings of its own
    batch = peer.training.batch
    assert (batch.batch_size, batch.sequence_length) == (2, 512)  # segments as long as its context


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"minutes": 1.0}, "A comparison needs one budget: keep minutes or tokens."),
        ({"tokens": None}, "A comparison needs a budget: give minutes or tokens."),
        ({"tokens": None, "minutes": 1, "jobs": 2}, "equal minutes are not equal: give tokens with jobs above 1"),
        ({"architectures": ()}, "There is nothing to compare: name architectures"),
        ({"architectures": ("llama",)}, "'llama' is a baseline: name it in baselines"),
        ({"architectures": ("perceiver",)}, "'perceiver' is neither an architecture (.*) nor a pattern"),
        ({"architectures": ("(qf",)}, "This bracket is never closed"),
        ({"baselines": ("gpt",)}, "There is no baseline 'gpt': choose from llama"),
        ({"learning_rates": ()}, "A comparison needs a learning rate: give learning_rates"),
        ({"learning_rates": (1e-3, -1.0)}, "'learning_rates.1' is -1.0: .* greater than 0"),
        ({"learning_rates": (float("inf"),)}, "'learning_rates.0' is inf: .* finite"),
        ({"seeds": ()}, "'seeds' is "),
        ({"seeds": (-1,)}, "'seeds.0' is -1"),
        ({"top": 0}, "'top' is 0"),
        ({"parameters": 0}, "'parameters' is 0"),
    ],
)
def test_a_plan_that_cannot_be_is_told_in_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        plan(**changes)


def test_what_is_named_twice_counts_once():
    once = plan(
        architectures=("qrnn", "qrnn"), baselines=("llama", "llama"), learning_rates=(1e-3, 1e-3), seeds=(1, 0, 1)
    )
    assert (once.contenders, once.learning_rates, once.seeds) == (("qrnn", "llama"), (1e-3,), (1, 0))


def test_a_study_may_grow_and_nothing_else(tmp_path):
    study = tmp_path / "study"
    save_plan(plan(), study)
    grown = plan(
        architectures=("qrnn", "af"), baselines=("llama",), learning_rates=(1e-5, 2e-3), seeds=(0, 1), top=1, jobs=2
    )
    check_folder(grown, study, overwrite=False)
    other = ASKED["base"] | {"data": {"sources": ["other"], "tokenizer": "bytes"}, "model": {"dropout": 0.1}}
    for changes, named in (
        ({"parameters": 30_000}, r"parameters \(was 20000, now 30000\)"),
        ({"tokens": 2000}, r"tokens \(was [0-9]+, now 2000\)"),
        ({"tokens": None, "minutes": 2.0}, r"tokens \(.*\), minutes \(was None, now 2.0\)"),
        ({"base": other}, r"data.sources \(.*\), model.dropout \(was None, now 0.1\)"),
    ):
        with pytest.raises(
            UserError, match=f"holds a comparison with other {named}; give the values that it began with"
        ):
            check_folder(plan(**changes), study, overwrite=False)
        check_folder(plan(**changes), study, overwrite=True)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    for overwrite in (False, True):
        check_folder(plan(), tmp_path, overwrite=overwrite)  # empty
        check_folder(plan(), tmp_path / "new", overwrite=overwrite)
        (tmp_path / "letter.txt").write_text("dear")
        with pytest.raises(UserError, match="holds something that is not a comparison: choose another folder"):
            check_folder(plan(), tmp_path, overwrite=overwrite)
        with pytest.raises(UserError, match="is a file: choose a folder for the study"):
            check_folder(plan(), tmp_path / "letter.txt", overwrite=overwrite)
        (tmp_path / "letter.txt").unlink()
    for damaged in (b"\xff\xfe", b"[1, 2]", b"a: ["):
        (tmp_path / "study.yaml").write_bytes(damaged)
        with pytest.raises(UserError, match="study.yaml' is damaged: begin the comparison anew, with overwrite"):
            check_folder(plan(), tmp_path, overwrite=False)


def test_a_recipe_may_say_what_the_comparison_decides_and_settings_may_not(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    values = {
        "model": {"pattern": "qf", "parameters": 5, "dropout": 0.1},
        "training": {"steps": 3, "optimizer": {"learning_rate": 1.0, "clip": 2.0}, "seed": 7},
        "data": {"sources": ["theirs"], "tokenizer": "bytes"},
    }
    recipe.write_text(yaml.safe_dump(values))
    assert base_values(recipe, {"training": {"optimizer": {"clip": 3.0}}}, ["ours"]) == {
        "model": {"dropout": 0.1},
        "training": {"optimizer": {"clip": 3.0}},
        "data": {"sources": ["ours"], "tokenizer": "bytes"},
    }
    assert base_values(recipe, {}, [])["data"]["sources"] == ["theirs"]
    for given in (None, recipe):
        for section, key in (("training", "optimizer.learning_rate"), ("training", "steps"), ("model", "architecture")):
            told = f"A comparison sets {section}.{key} itself: leave it out of the settings"
            with pytest.raises(UserError, match=told):
                base_values(given, parse_settings([f"{section}.{key}=1"]), ["ours"])


VARIANTS = {
    "as it is": {},
    "window of 2": {"model": {"qrnn": {"kernel_size": 2}}},
    "on top": {"model": {"pattern": "(qf)2 af"}, "training": {"optimizer": {"weight_decay": 0.5, "clip": 2.0}}},
    "words": {"data": {"tokenizer": "words"}},
}


def test_a_variant_changes_what_it_says_and_nothing_else():
    asked = plan(variants=VARIANTS)
    assert asked.contenders == ("transformer", "qrnn", *VARIANTS)
    same, window, top, words = (recipe_of(asked, Trial(name, 3e-3, 1)) for name in VARIANTS)
    assert (same.model.architecture, same.training.optimizer.clip, same.data.tokenizer) == ("hybrid", 0.5, "bytes")
    assert (window.model.qrnn["kernel_size"], window.model.architecture) == (2, "hybrid")
    assert (top.model.pattern, top.training.optimizer.weight_decay, top.training.optimizer.clip) == (
        "(qf)2 af",
        0.5,
        2.0,
    )
    assert (words.data.tokenizer, words.data.sources) == ("words", same.data.sources)
    for recipe in (same, window, top, words):
        assert (recipe.model.parameters, recipe.training.tokens, recipe.training.optimizer.learning_rate) == (
            20_000,
            1000,
            3e-3,
        )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: {training: {minutes: 3}}", "sets training.minutes itself: leave it out of the variant 'a'"),
        ("a: {model: {parameters: 3}}", "sets model.parameters itself: leave it out of the variant 'a'"),
        ("a: [1, 2]", "The variant 'a' of .* must hold the sections model, data or training"),
        ("a: {model: 3}", "The variant 'a' of .* must hold the sections"),
        ("- a", "must hold variants by name"),
        ("", "must hold variants by name"),
        ("a: {", "are not YAML"),
        (None, "There are no variants"),
    ],
)
def test_files_that_hold_no_variants_are_told(tmp_path, content, sentence):
    path = tmp_path / "variants.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=sentence):
        load_variants(path)


@pytest.mark.parametrize(
    ("variants", "sentence"),
    [
        ({"a": {"model": {"qrn": {}}}}, "The variant 'a' cannot be: Unknown key 'model.qrn'"),
        ({"a": {"model": {"qrnn": {"poolling": "f"}}}}, "'a' cannot be: .*qrnn.poolling': did you mean 'pooling'"),
        ({"transformer": {}}, "'transformer' is the name of something else"),
        ({"llama": {}}, "'llama' is the name of something else"),
    ],
)
def test_impossible_variants_are_told(variants, sentence):
    with pytest.raises(UserError, match=sentence):
        plan(variants=variants)


def test_a_study_takes_more_variants_but_none_that_changed(tmp_path):
    save_plan(plan(variants={"a": {"model": {"qrnn": {"kernel_size": 2}}}}), tmp_path)
    more = {"a": {"model": {"qrnn": {"kernel_size": 2}}}, "b": {}}
    assert load_variants(tmp_path / "variants.yaml") == {"a": more["a"]}  # as the report's command names it
    check_folder(plan(variants=more), tmp_path, overwrite=False)
    with pytest.raises(UserError, match=r"other a\.model\.qrnn\.kernel_size \(was 2, now 3\)"):
        check_folder(plan(variants=more | {"a": {"model": {"qrnn": {"kernel_size": 3}}}}), tmp_path, overwrite=False)
