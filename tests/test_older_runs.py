"""A run that version 0.1.0 wrote, before texts were split in blocks and long documents cut, is read as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import weft
from weft.training.run_folder import saved_recipe

OLDER = Path(__file__).parent / "older" / "run-0.1.0"


@pytest.fixture
def run(tmp_path, monkeypatch, corpus_text) -> Path:
    """The run of ``weft train texts/sami.txt --out run``, in a folder where its text is."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "texts" / "sami.txt"
    path.parent.mkdir()
    path.write_text(corpus_text, encoding="utf-8")
    return Path(shutil.copytree(OLDER, tmp_path / "run"))


def test_its_text_is_split_as_it_was(run):
    data = saved_recipe(run).data
    assert (data.split, data.longest_document) == ("tail", 0)
    assert saved_recipe(run).training.predict_boundary is False
    told = json.loads((OLDER / "results.json").read_text(encoding="utf-8"))
    for split in ("validation", "test"):
        metrics = weft.evaluate(run, split=split)
        assert metrics.bits_per_byte == pytest.approx(told[split]["bits_per_byte"], rel=1e-5)
        assert (metrics.bytes, metrics.tokens) == (told[split]["bytes"], told[split]["tokens"])


def test_it_goes_on_from_its_checkpoint_to_the_model_that_it_came_to(run):
    (run / "results.json").unlink()
    mended = weft.train(out=run, resume=True)
    assert mended.results.steps == 12
    # Muon's steps are of one size in every direction, also in those of which a gradient has next to nothing: there
    # they follow the rounding, which has changed since. So what the model has learned is compared, not its numbers.
    told = json.loads((OLDER / "results.json").read_text(encoding="utf-8"))
    assert mended.results.test.bits_per_byte_of_weights == pytest.approx(told["test"]["bits_per_byte"], rel=2e-4)


def test_where_its_recipe_does_not_say_the_split_the_rule_of_then_holds(run):
    """As in runs that were made of others, and in those with both other parts given."""
    path = run / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in ("prepared", "chosen"):
        del recipe[key]
    path.write_text(yaml.safe_dump({**recipe, "made_by": "weft merge other"}), encoding="utf-8")
    assert saved_recipe(run).data.split == "auto-0.1.0"
    told = json.loads((OLDER / "results.json").read_text(encoding="utf-8"))
    assert weft.evaluate(run).bytes == told["test"]["bytes"]


def test_its_recipe_makes_another_run_with_the_same_text(run, tmp_path):
    again = weft.train(out=tmp_path / "again", recipe=run / "recipe.yaml", settings={"training": {"steps": 1}})
    assert again.results.test.bytes == json.loads((OLDER / "results.json").read_text(encoding="utf-8"))["test"]["bytes"]
    assert saved_recipe(tmp_path / "again").data == saved_recipe(run).data
