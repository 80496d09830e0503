"""Keys of recipes by the names that version 0.1.0 had for them are read, with one warning that names the new ones."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

import weft
from tests.command import run_weft
from weft.errors import OldKeyWarning, UserError
from weft.settings import RENAMED, renamed
from weft.training.recipe import Recipe, load_recipe, make_recipe, parse_settings

# A value for each old key, and what a recipe has to say beside it.
VALUES: dict[str, Any] = {
    "model.peer": "llama",
    "model.attention.memory": 64,
    "model.qrnn.window": 2,
    "training.lanes": 3,
    "training.length": 64,
    "training.accumulation": 2,
    "training.optimizer": "adamw",
    "training.muon_takes": ["matrices"],
    "training.learning_rate": 0.5,
    "training.weight_decay": 0.25,
    "training.betas": [0.5, 0.75],
    "training.momentum": 0.5,
    "training.clip": 2.0,
    "training.schedule": "cosine",
    "training.warmup": 0.25,
    "training.decay": 0.5,
    "training.init_from": "runs/first",
    "training.init_block": 1,
    "training.validations": 3,
    "training.validation_tokens": 1000,
    "training.samples": 2,
    "training.checkpoint_every": 5,
    "training.log_every": 7,
    "training.tensorboard": True,
    "training.ema": 0.5,
    "training.guide": {"until": 0.25, "skip": True},
    "training.teacher": {"run": "runs/first", "weight": 0.5, "temperature": 2.0, "hidden": 0.25},
    "training.only": "auxiliary",
    "training.ngrams_rate": 0.5,
}
BESIDE = {"training.init_block": {"training": {"start": {"run": "runs/first"}}}}


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def value_at(recipe: Recipe, key: str) -> Any:
    found = recipe.model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    return found


def test_every_old_key_has_a_value_here():
    assert VALUES.keys() == RENAMED.keys()


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_key_is_read_from_values_from_a_file_and_from_a_setting(tmp_path, old):
    new, value = RENAMED[old], VALUES[old]
    beside = BESIDE.get(old, {})
    told = f"{old} is {new}"
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(nested(old, value)))
    with pytest.warns(OldKeyWarning, match=told) as from_values:
        recipes = [make_recipe(beside, nested(old, value))]
    with pytest.warns(OldKeyWarning, match=told) as from_file:
        recipes.append(make_recipe(beside, load_recipe(path)))
    with pytest.warns(OldKeyWarning, match=told) as from_setting:
        recipes.append(make_recipe(beside, parse_settings([f"{old}={value}"])))
    for recipe in recipes:
        assert value_at(recipe, new) == value
        assert any(new == key or new.startswith(f"{key}.") for key in recipe.given())
    assert len(from_values) == len(from_file) == len(from_setting) == 1
    assert from_values[0].filename == __file__  # the warning is about the line that gave the key
    assert issubclass(OldKeyWarning, FutureWarning)


def test_one_warning_names_all_of_them():
    old = {"training": {"optimizer": "adamw", "learning_rate": 0.5, "lanes": 2, "steps": 3}}
    with pytest.warns(OldKeyWarning) as warned:
        recipe = make_recipe(old)
    (one,) = warned
    assert str(one.message) == (
        "Old keys of a recipe were read; by their new names, training.lanes is training.batch.batch_size, "
        "training.optimizer is training.optimizer.name, training.learning_rate is training.optimizer.learning_rate."
    )
    assert recipe == make_recipe(
        {"training": {"optimizer": {"name": "adamw", "learning_rate": 0.5}, "batch": {"batch_size": 2}, "steps": 3}}
    )


def test_old_and_new_keys_meet_in_one_recipe_but_not_for_one_value():
    new, old = {"training": {"batch": {"batch_size": 2, "sequence_length": 16}}}, {"training": {"lanes": 4}}
    with pytest.warns(OldKeyWarning):
        recipe = make_recipe(new, old)
    assert recipe == make_recipe({"training": {"batch": {"batch_size": 4, "sequence_length": 16}}})
    with pytest.warns(OldKeyWarning):  # the later layer decides, whatever its keys are called
        assert make_recipe(old, new) == make_recipe(new)
    with pytest.raises(UserError, match=r"'training.lanes' is the old name of 'training.batch.batch_size': keep one"):
        make_recipe({"training": {"batch": {"batch_size": 2}, "lanes": 4}})


def test_what_an_earlier_version_wrote_is_read_without_a_word(tmp_path):
    path = tmp_path / "recipe.yaml"
    written = {"training": {"lanes": 4, "init_from": None, "schedule": "cosine"}, "weft_version": "0.1.0"}
    path.write_text(yaml.safe_dump(written))
    recipe = make_recipe(load_recipe(path))  # a warning would be an error here
    assert (recipe.training.batch.batch_size, recipe.training.schedule.shape) == (4, "cosine")
    assert recipe.training.start.run is None
    assert "start" not in renamed(written, warn=False)["training"]  # an empty section would count as given


def test_the_command_line_says_it_in_one_line(tmp_path, corpus):
    options = [
        "--steps",
        1,
        "--set",
        "training.lanes=2",
        "--set",
        "training.samples=0",
        "--pattern",
        "q",
        "--parameters",
    ]
    ran = run_weft("train", corpus, "--out", tmp_path / "run", *options, "20k", "--no-compressors", "--json")
    assert ran.code == 0, ran.err
    told = [line for line in ran.err.splitlines() if "Old keys" in line]
    assert told == [
        "Old keys of a recipe were read; by their new names, training.lanes is training.batch.batch_size, "
        "training.samples is training.logging.samples."
    ]
    assert "Warning" not in ran.err


def test_train_takes_old_keys_from_python(tmp_path, corpus):
    recipe = {"model": {"pattern": "q", "hidden_size": 8}, "data": {"sources": [str(corpus)], "tokenizer": "bytes"}}
    settings = {"training": {"steps": 1, "lanes": 2, "length": 16, "samples": 0}}
    with pytest.warns(OldKeyWarning, match="training.length is training.batch.sequence_length") as warned:
        weft.train(out=tmp_path / "run", recipe=recipe, settings=settings)
    assert len(warned) == 1
    saved = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text(encoding="utf-8"))
    assert saved["training"]["batch"] == {"batch_size": 2, "sequence_length": 16, "accumulation": 1}
