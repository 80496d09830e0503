"""The model card: front matter that parses, and only what is known."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from tests.conftest import small_config
from weft.errors import UserError
from weft.reports.run.card import write_card
from weft.training.recipe import make_recipe, save_recipe

RESULTS = {
    "parameters": 2_000_000,
    "training_seconds": 425.0,
    "training_tokens": 4_096_000,
    "test": {"bits_per_byte": 1.5012, "perplexity_per_word": None, "tokens": 41_234},
    "baselines": {"xz -9e": 2.0024},
}


@pytest.fixture
def run(tmp_path):
    run = tmp_path / "my-run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(small_config("[qf]2a").model_dump(mode="json")))
    (run / "results.json").write_text(json.dumps(RESULTS))
    write_sources(run, ["texts/mine.txt"])
    return run


def write_sources(run, sources):
    recipe = {"data": {"sources": sources}, "prepared": "12 documents, 3,000 training bytes"}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))


def card_of(run):
    path = write_card(run)
    assert path == run / "README.md"
    _, matter, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(matter), body


def test_front_matter_is_what_the_hub_reads(run):
    matter, _ = card_of(run)
    assert matter["library_name"] == "weft"
    assert matter["pipeline_tag"] == "text-generation"
    assert {"weft", "qrnn", "hybrid"} <= set(matter["tags"])


def test_an_unknown_licence_points_to_the_training_data_and_no_language_is_guessed(run):
    matter, body = card_of(run)
    assert (matter["license"], matter["license_name"]) == ("other", "see-the-training-data")
    assert "language" not in matter
    assert "The licence of the model's text is that of its training data: not recorded" in body


def test_licence_and_language_of_the_bundled_corpus_are_known(run):
    write_sources(run, ["weft:sewiki"])
    matter, body = card_of(run)
    assert (matter["license"], matter["language"]) == ("cc-by-sa-4.0", "se")
    assert "license_name" not in matter
    assert "Northern Sami Wikipedia" in body


def test_the_bundled_corpus_with_other_text_is_not_known(run):
    write_sources(run, ["weft:sewiki", "mine.txt"])
    assert card_of(run)[0]["license"] == "other"


def test_the_body_has_figures_architecture_and_use(run):
    _, body = card_of(run)
    for words in (
        "1.5012 bits per byte",
        "12 documents",
        "| xz -9e | 2.0024 |",
        "`[qf]2a`",
        "those of block 0",
        "2 x 8, window 5, rotary",
        "Its attention reaches 5 tokens back in each block.",
    ):
        assert words in body
    assert "perplexity per word | – |" in body
    for command in ("weft generate", "weft evaluate", "weft.load"):
        assert command in body


def test_the_card_says_how_to_install_and_load_and_how_the_text_was_cut(run):
    sizes = {"documents": 1234, "bytes": 56789, "tokens": 9876}
    told = {"rule": "split by documents", "train": sizes, "validation": sizes, "test": sizes | {"documents": 77}}
    (run / "recipe.yaml").write_text(yaml.safe_dump({"text": told}))
    _, body = card_of(run)
    assert "pip install ." in body
    assert 'AutoModelForCausalLM.from_pretrained("path/to/my-run", trust_remote_code=True)' in body
    assert "| training | 1,234 | 56,789 | 9,876 |" in body
    assert "| test | 77 | 56,789 | 9,876 |" in body
    assert "How it was cut: split by documents." in body


def test_how_it_was_trained_is_told_where_the_recipe_says_it(run):
    assert "## Training\n" not in card_of(run)[1]
    recipe = make_recipe(
        {
            "training": {
                "optimizer": {"learning_rate": 5.3e-3, "weight_decay": 0.22},
                "seed": 3,
                "batch": {"batch_size": 4},
            }
        }
    )
    save_recipe(recipe, run / "recipe.yaml")
    _, body = card_of(run)
    assert "`normuon`, learning rate 0.0053, weight decay 0.22, dropout 0, steps of at most 4 segments of 128" in body
    assert "seed 3" in body


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({}, "trained from scratch"),
        ({"start": {"run": "runs/first"}}, "trained from the run first on 4.10M tokens"),
        ({"methods": {"distillation": {"run": "runs/old"}}}, "with Weft, with the run old as its teacher."),
    ],
)
def test_what_a_run_began_with_is_told(run, training, words):
    save_recipe(make_recipe({"training": training}), run / "recipe.yaml")
    _, body = card_of(run)
    assert words in body
    assert ("from scratch" in body) == (not training)


def test_the_teacher_of_a_run_of_version_0_1_0_is_told(run):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["training"] = {"methods": {}, "teacher": {"run": "runs/old", "weight": 0.7}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    _, body = card_of(run)
    assert "with the run old as its teacher." in body


def test_no_folder_of_this_machine_is_told(run):
    write_sources(run, [str(run.parent / "mine.txt")])
    assert str(run.parent) not in write_card(run).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["config.json", "recipe.yaml", "results.json"])
@pytest.mark.parametrize("content", [None, "", "{", '["wrong"]'])
def test_damaged_files_leave_a_sensible_card(run, name, content):
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    matter, body = card_of(run)
    assert matter["library_name"] == "weft"
    assert "## Limits" in body
    assert "None" not in body


def test_an_untested_model_says_so(run):
    (run / "results.json").unlink()
    assert "not been tested" in card_of(run)[1]


def test_no_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="There is no run directory"):
        write_card(tmp_path / "nowhere")


def test_importing_is_light():
    code = "import sys, weft.reports.run.card; print({'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
