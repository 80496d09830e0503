"""The tokens a second of several recipes, measured in turn: what they read in equal time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from weft.training.allocation import keep_memory
from weft.training.parallel import Processes
from weft.training.recipe import make_recipe, parse_settings
from weft.training.resolve import make_model
from weft.training.throughput import seconds_per_token


def paces(recipes: Mapping[str, Sequence[str]], vocabulary: int, rounds: int) -> dict[str, list[float]]:
    """Return each recipe's tokens a second in each round; a recipe is settings such as "model.parameters=1M".

    Ask for it on a quiet machine.
    """
    keep_memory()  # as training does
    prepared: Any = SimpleNamespace(tokenizer=SimpleNamespace(vocab_size=vocabulary, boundary_id=1, padding_id=0))
    speeds: dict[str, list[float]] = {name: [] for name in recipes}
    for _ in range(rounds):
        for name, settings in recipes.items():
            recipe = make_recipe(parse_settings(settings))
            seconds = seconds_per_token(make_model(recipe, prepared, None), recipe.training, Processes())
            speeds[name].append(1 / seconds)
    return speeds
