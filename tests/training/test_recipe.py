"""Recipes: YAML in and out, settings from the command line, budgets, and what may change on resuming."""

from __future__ import annotations

import pytest
import yaml

import weft
from weft.errors import UserError
from weft.training.recipe import (
    RESUMABLE,
    Recipe,
    differences,
    git_revision,
    load_recipe,
    make_recipe,
    parse_settings,
    save_recipe,
)

AVERAGE = {"average": {"decay": 0.99}}
FULL = {
    "model": {
        "pattern": "(qfaf)2",
        "parameters": "2.5M",
        "preset": "classic",
        "dropout": 0.1,
        "attention": {"window": 64, "positions": "none"},
        "qrnn": {"zoneout": 0.05},
    },
    "data": {"sources": ["ruoŧŧa.txt", "b/"], "tokenizer": "unigram", "vocab_size": 512, "document_separator": "\n\t"},
    "training": {
        "tokens": "20M",
        "optimizer": {"betas": [0.8, 0.95], "learning_rate": 2e-3},
        "methods": AVERAGE,
        "seed": 7,
    },
}


def test_a_recipe_survives_the_file(tmp_path):
    recipe = make_recipe(FULL)
    save_recipe(recipe, tmp_path / "recipe.yaml", prepared="3 documents")
    assert make_recipe(load_recipe(tmp_path / "recipe.yaml")) == recipe
    assert recipe.model.parameters == 2_500_000
    assert recipe.training.tokens == 20_000_000
    assert recipe.data.document_separator == "\n\t"
    told = yaml.safe_load((tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    assert (told["weft_version"], told["prepared"]) == (weft.__version__, "3 documents")
    assert told["git_revision"] == git_revision()


def test_a_file_may_hold_any_part_and_empty_sections(tmp_path):
    path = tmp_path / "recipe.yaml"
    for text in ("", "training:\n", "model:\ntraining:\n  # learning_rate: 1\ndata: {}\n"):
        path.write_text(text)
        assert make_recipe(load_recipe(path), {"training": {"steps": 3}}).training.steps == 3


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("training.optimizer.learning_rate=2e-3", 0.002),
        ("training.optimizer.learning_rate=1E3", 1000.0),
        ("training.optimizer.learning_rate=.5", 0.5),
        ("training.steps=500", 500),
        ("training.tokens=2M", "2M"),
        ("training.carry_state=false", False),
        ("training.steps=null", None),
        ("training.optimizer.betas=[0.9, 0.95]", [0.9, 0.95]),
        ("data.sources=[a.txt, b.txt]", ["a.txt", "b.txt"]),
        ("data.text_key=a=b", "a=b"),
        ("data.text_key='12'", "12"),
        ("data.document_separator=: {", ": {"),
    ],
)
def test_values_on_the_command_line(assignment, value):
    parsed: object = parse_settings([assignment])
    for key in assignment.partition("=")[0].split("."):
        parsed = parsed[key]
    assert parsed == value
    assert type(parsed) is type(value)


def test_settings_nest_and_later_ones_win():
    settings = parse_settings(
        ["model.attention.window=64", "model.attention.num_heads=2", "training.seed=1", "training.seed=2"]
    )
    assert settings == {"model": {"attention": {"window": 64, "num_heads": 2}}, "training": {"seed": 2}}
    assert make_recipe(FULL, settings).model.attention == {"window": 64, "num_heads": 2, "positions": "none"}
    assert parse_settings([]) == {}


@pytest.mark.parametrize("assignment", ["training.steps", "steps=5", "", "=5"])
def test_settings_that_assign_nothing_are_refused(assignment):
    with pytest.raises(UserError, match="is set by 'section.key=value'"):
        parse_settings([assignment])


def test_a_later_budget_replaces_an_earlier_one():
    for later in ({"steps": 5}, {"minutes": 2.0}, {"tokens": 9}):
        training = make_recipe(FULL, {"training": later}).training
        assert {
            key: getattr(training, key) for key in ("steps", "tokens", "minutes") if getattr(training, key)
        } == later
    assert make_recipe(FULL, {"training": {"seed": 1}}).training.tokens == 20_000_000


def test_two_budgets_at_once_are_refused():
    with pytest.raises(UserError, match="budget is given twice .steps and minutes.: keep one"):
        make_recipe({"training": {"steps": 5, "minutes": 1}})


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"training": {"learning_rat": 1}},
            "Unknown key 'training.learning_rat': did you mean 'optimizer.learning_rate'?",
        ),
        ({"trainin": {}}, "Unknown key 'trainin': did you mean 'training'?"),
        ({"model": {"zzz": 1}}, "Unknown key 'model.zzz': the keys here are architecture, pattern, "),
        ({"data": {"tokeniser": "bpe"}}, "Unknown key 'data.tokeniser': did you mean 'tokenizer'?"),
        (
            {"training": {"optimizer": {"learning_rate": -1}}},
            "'training.optimizer.learning_rate' is -1: input should be greater than 0.",
        ),
        ({"training": {"steps": "many"}}, "'training.steps' is 'many': not a count: write"),
        (
            {"training": {"schedule": {"shape": "step"}}},
            "'training.schedule.shape' is 'step': input should be 'linear' or 'cosine'.",
        ),
        ({"training": 5}, "'training' is 5: "),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(values, sentence):
    with pytest.raises(UserError) as told:
        make_recipe(values)
    assert sentence in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"model: [", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"model: {a: b}}", "not YAML"),
        (b"- a\n- b\n", "must hold the sections"),
        (b"just words", "must hold the sections"),
        (b"training: 5", "must hold keys and values"),
        (b"model: [hybrid]", "must hold keys and values"),
    ],
)
def test_a_file_that_is_no_recipe_is_told(tmp_path, content, sentence):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"recipe.yaml'.*{sentence}"):
        load_recipe(path)
    with pytest.raises(UserError, match="There is no recipe"):
        load_recipe(tmp_path / "other.yaml")


def test_yaml_cannot_make_objects(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: !!python/object/apply:os.mkdir ['{tmp_path / 'harm'}']")
    with pytest.raises(UserError, match="not YAML"):
        load_recipe(path)
    assert not (tmp_path / "harm").exists()


def test_differences_name_what_may_not_change():
    saved = make_recipe(FULL)
    assert differences(saved, make_recipe(FULL)) == []
    changes = {
        "model": {"attention": {"window": 65}, "qrnn": {"kernel_size": 2}},
        "data": {"sources": ["c.txt"]},
        "training": {"steps": 7, "logging": {"checkpoint_every": 9, "validations": 3}, "seed": 8},
    }
    found = differences(saved, make_recipe(FULL, changes))
    assert [told for told in found if told.endswith(", now 8)")] == [
        f"training.seed (was {saved.training.seed}, now 8)"
    ]
    assert sorted(told.split(" (")[0] for told in found) == [
        "data.sources",
        "model.attention.window",
        "model.qrnn.kernel_size",
        "training.seed",
    ]


def test_a_section_that_was_empty_and_is_not_is_a_difference():
    found = differences(Recipe(), make_recipe({"model": {"qrnn": {"kernel_size": 2}}}))
    assert any(key.startswith("model.qrnn") for key in found)


def test_what_may_change_exists():
    fields = make_recipe(FULL).model_dump()
    assert all(key.split(".")[1] in fields[key.split(".")[0]] for key in RESUMABLE)
