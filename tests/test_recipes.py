"""Every recipe in the repository loads and gives a model within its budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from weft.model import build
from weft.sizing import configure, count_parameters, resolve, sized
from weft.training.recipe import load_recipe, make_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("**/*.yaml"))


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_loads_and_builds(path):
    recipe = make_recipe(load_recipe(path))
    name = recipe.model.pattern or recipe.model.architecture
    if recipe.model.parameters:
        config = sized(
            name, parameters=recipe.model.parameters, preset=recipe.model.preset, settings=recipe.model.settings()
        )
        assert abs(count_parameters(config) / recipe.model.parameters - 1) <= 0.01
    else:
        pattern, settings = resolve(name, 1e6, recipe.model.preset, recipe.model.settings())
        config = configure(pattern, 258, settings)
    with torch.device("meta"):
        assert build(config).parameter_count == count_parameters(config)
    assert path.stem in path.read_text(encoding="utf-8"), "a recipe says how it is run"
