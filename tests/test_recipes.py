"""Every recipe loads, and the model has the parameters that the recipe and docs/recipes.md say."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from weft.experiments.plan import Plan, Trial, load_variants, recipe_of
from weft.model import WeftModel, build
from weft.sizing import count_parameters
from weft.training.recipe import load_recipe, make_recipe
from weft.training.resolve import described_model, known_vocabulary

SEWIKI_VOCABULARY = 2048  # which the text decides
ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
STUDIES = sorted((ROOT / "recipes" / "study").glob("*.yaml"))
DOCUMENT = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
PARAMETERS = re.compile(r"^# Parameters: ([0-9,]+) \(([0-9,]+) without embeddings\), with a vocabulary of ([0-9,]+)\.$")


def documented() -> dict[str, list[str]]:
    rows = [line.strip("| ").split(" | ") for line in DOCUMENT.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[1:] for row in rows}


def number(text: str) -> int:
    return int(text.replace(",", ""))


@cache
def made(path: Path) -> WeftModel:
    """The model of a recipe, without storage."""
    recipe = make_recipe(load_recipe(path))
    config = described_model(recipe.model, known_vocabulary(recipe.data) or SEWIKI_VOCABULARY)
    if recipe.model.parameters:
        assert abs(count_parameters(config) / recipe.model.parameters - 1) <= 0.01
    with torch.device("meta"):
        built = build(config)
    assert built.parameter_count == count_parameters(config)
    return built


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_variant_of_a_study_can_be_built_at_the_size_that_it_is_asked_for(path):
    variants = load_variants(path)
    asked = {
        "architectures": (),
        "variants": variants,
        "parameters": 2_000_000,
        "tokens": 1000,
        "learning_rates": (1e-3,),
    }
    for name in variants:
        recipe = recipe_of(Plan.parse(asked), Trial(name, 1e-3, 0))
        config = described_model(recipe.model, known_vocabulary(recipe.data) or SEWIKI_VOCABULARY)
        assert abs(count_parameters(config) / 2e6 - 1) <= 0.01, name


def test_the_document_lists_every_recipe():
    assert RECIPES
    assert sorted(documented()) == sorted(path.stem for path in RECIPES)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_has_the_parameters_that_it_says(path):
    model = made(path)
    said = [found for line in path.read_text(encoding="utf-8").splitlines() if (found := PARAMETERS.match(line))]
    assert len(said) == 1
    assert [number(part) for part in said[0].groups()] == [
        model.parameter_count,
        model.body_parameter_count,
        model.config.vocab_size,
    ]
    assert [number(part) for part in documented()[path.stem][1:3]] == [
        model.parameter_count,
        model.body_parameter_count,
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_where_it_comes_from_and_how_it_is_run(path):
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(line.startswith("# Source: ") for line in head)
    assert any(line.startswith("# Not run by us") for line in head) == (documented()[path.stem][-1] == "no")
    assert head[-1] == f"# weft train --recipe recipes/{path.name} --out runs/{path.stem}"
    assert all(len(line) <= 120 for line in head[:-1])


@pytest.mark.parametrize("name", ["wikitext-103-transformer-xl-151M", "enwik8-transformer-xl-41M"])
def test_counts_differ_from_the_published_sizes_by_what_the_document_says(name):
    """By the published sizes, with u and v shared by all layers and without our special tokens."""
    model = made(ROOT / "recipes" / f"{name}.yaml")
    layers, width = model.config.pattern.count("af") * int(model.config.pattern[4:]), model.config.hidden_size
    inner, words = model.config.blocks[1].inner_size, 267_735 if "wikitext" in name else 204
    tails = 3 if "wikitext" in name else 0
    layer = 5 * width * width + 2 * width + 2 * width * inner + inner + width + 2 * width
    body = layers * layer + 2 * width
    total = body + (words + tails) * (width + 1)
    assert model.body_parameter_count - body == (layers - 1) * 2 * width
    assert model.parameter_count - total == (layers - 1) * 2 * width + (model.config.vocab_size - words) * (width + 1)
    if "wikitext" in name:
        assert (total, body) == (151_107_538, 41_067_220)
        assert "151,107,538" in DOCUMENT
        assert "41,067,220" in DOCUMENT
        assert model.parameter_count - total == 13_122


def test_recipes_that_are_compared_have_one_size():
    sizes = {path.stem: made(path) for path in RECIPES if re.search("transformer-xl-41M$|par-41M|hybrid", path.stem)}
    enwik8 = [model.parameter_count for name, model in sizes.items() if name.startswith("enwik8")]
    assert len(enwik8) == 3
    assert max(enwik8) < 1.005 * min(enwik8)
    ours, theirs = sizes["wikitext-103-hybrid-151M"], made(ROOT / "recipes" / "wikitext-103-transformer-xl-151M.yaml")
    assert abs(ours.body_parameter_count / theirs.body_parameter_count - 1) < 0.005
    embeddings = [model.parameter_count - model.body_parameter_count for model in (ours, theirs)]
    assert embeddings[0] == embeddings[1]
