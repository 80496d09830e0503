"""What a comparison trains: every architecture at one size, one budget and several learning rates, as recipes."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from weft.architectures import ARCHITECTURES
from weft.baselines import BASELINES, CONTEXT
from weft.config import merge
from weft.errors import UserError
from weft.model_recipe import ModelRecipe
from weft.numbers import Count, Minutes, Parameters, Rate, Seed, Tokens
from weft.pattern import parse_count
from weft.plain_yaml import read_yaml
from weft.settings import FrozenConfig, renamed
from weft.sizing import drafted
from weft.training.recipe import Recipe, TrainingConfig, flat, load_recipe, make_recipe

# What a comparison says itself, section by section of a recipe.
DECIDED = {
    "model": ("architecture", "pattern", "parameters", "baseline", "hidden_size"),
    "training": ("minutes", "tokens", "steps", "optimizer.learning_rate", "seed", "start.run"),
}


class Plan(FrozenConfig):
    """A comparison, as data.

    ``architectures`` are names or patterns; ``variants`` have names of their own, and each says in the words of a
    recipe what is different about it (the default architecture, if it names none). ``base`` holds values of a recipe
    for all of them (data, training, model settings). The learning rate of each is chosen on the validation text with
    the first seed; the other seeds are trained at that one, for the ``top`` contenders only where that is given.
    ``jobs`` runs train at once.
    """

    architectures: tuple[str, ...]
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict)
    baselines: tuple[str, ...] = ()
    parameters: Parameters
    minutes: Minutes | None = None
    tokens: Tokens | None = None
    learning_rates: tuple[Rate, ...]
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    top: Count | None = None
    jobs: int = Field(default=1, gt=0, le=1024)
    base: dict[str, Any] = Field(default_factory=dict)

    @field_validator("parameters", "tokens", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return parse_count(value) if isinstance(value, str) else value

    @field_validator("architectures", "baselines", "learning_rates", "seeds")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(value))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.minutes is None and self.tokens is None:
            raise ValueError("a comparison needs a budget: give minutes or tokens")
        if self.minutes is not None and self.tokens is not None:
            raise ValueError("a comparison needs one budget: keep minutes or tokens")
        # Runs that share the machine slow each other down, and not all alike.
        if self.jobs > 1 and self.minutes is not None:
            raise ValueError("side by side, equal minutes are not equal: give tokens with jobs above 1")
        if not self.contenders:
            raise ValueError("there is nothing to compare: name architectures")
        if not self.learning_rates:
            raise ValueError("a comparison needs a learning rate: give learning_rates")
        for name in self.baselines:
            if name not in BASELINES:
                raise ValueError(f"there is no baseline '{name}': choose from {', '.join(BASELINES)}")
        # Whatever cannot be trained is found here, before any text is read.
        for architecture in self.architectures:
            if architecture in BASELINES:
                raise ValueError(f"'{architecture}' is a baseline: name it in baselines, not in architectures")
            drafted(ModelRecipe.parse({"pattern": architecture}), self.parameters)
        for name in self.variants:
            if name in self.architectures or name in BASELINES or name in ARCHITECTURES:
                raise ValueError(f"'{name}' is the name of something else: call the variant differently")
            try:
                _check_settings(recipe_of(self, Trial(name, self.learning_rates[0], self.seeds[0])).model)
            except UserError as error:
                raise ValueError(f"the variant '{name}' cannot be: {error}") from None
        return self

    @property
    def contenders(self) -> tuple[str, ...]:
        """All that are compared, baselines last."""
        return (*self.architectures, *self.variants, *self.baselines)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial that may be trained: each contender with each learning rate and seed."""
        every = product(self.contenders, self.learning_rates, self.seeds)
        return tuple(Trial(contender, rate, seed) for contender, rate, seed in every)

    @property
    def budget(self) -> dict[str, float]:
        """The budget of every run, as a recipe has it."""
        if self.minutes is not None:
            return {"minutes": self.minutes}
        return {"tokens": self.tokens or 0}


class Trial(NamedTuple):
    """One training run of a study."""

    contender: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """The folder of the run; a pattern's has a checksum, for '(qf)2' and '[qf]2' are not the same."""
        plain = re.sub("[^a-z0-9-]+", "_", self.contender)[:60]
        if plain != self.contender:
            plain = f"{plain}-{zlib.crc32(self.contender.encode()):08x}"
        return f"{plain}-lr{self.learning_rate!r}-seed{self.seed}"


def recipe_of(plan: Plan, trial: Trial) -> Recipe:
    """Return the recipe of a trial. A baseline gets the same tokens a step, in segments as long as its context."""
    change = plan.variants.get(trial.contender, {})
    if trial.contender in plan.variants:
        model: dict[str, Any] = {}
    elif trial.contender in plan.baselines:
        model = {"baseline": trial.contender}
    elif trial.contender in ARCHITECTURES:
        model = {"architecture": trial.contender}
    else:
        model = {"pattern": trial.contender}
    model["parameters"] = plan.parameters
    training: dict[str, Any] = {**plan.budget, "seed": trial.seed}
    training["optimizer"] = {"learning_rate": trial.learning_rate}
    base = dict(plan.base)
    if trial.contender in plan.baselines:
        base["model"] = {}  # settings of Weft's blocks, which it does not have
        training["batch"] = _long_segments(TrainingConfig.parse(base.get("training", {}), where="training"))
    recipe = make_recipe(base, change, {"model": model, "training": training})
    return Recipe.parse(recipe.model_dump())  # with every value as given: a comparison turns no dial


def _check_settings(model: ModelRecipe) -> None:
    """Raise UserError for settings of a model that there are not, before any text is read."""
    draft = drafted(model, model.parameters or 1e6)
    draft.configured(draft.hidden_size or 256, 1 << 20)  # no text has a larger vocabulary


def _long_segments(training: TrainingConfig) -> dict[str, int]:
    """Return the batch of a step of exactly the same size, in segments of a baseline's context or nearly so."""
    step = training.batch.batch_size * training.batch.sequence_length
    most = max(training.batch.sequence_length, min(CONTEXT, step))
    length = most
    while step % length != 0:  # 1 divides every step
        length -= 1
    return {"batch_size": step // length, "sequence_length": length}


def renamed_variants(variants: Mapping[str, Any], *, warn: bool = True) -> dict[str, Any]:
    """Return ``variants`` by name, old keys of recipes by their new names; what is no variant is left as it is."""
    today = {}
    for name, change in variants.items():
        today[name] = renamed(change, warn=warn) if isinstance(change, Mapping) else change
    return today


def base_values(recipe: Path | None, settings: Mapping[str, Any], sources: Sequence[str]) -> dict[str, Any]:
    """Return the recipe values that all runs share; UserError where ``settings`` decide what the comparison does.

    A recipe may say those things: the comparison says them anew.
    """
    values = load_recipe(recipe) if recipe else {}
    settings = renamed(settings)
    for section, keys in DECIDED.items():
        _check_undecided(settings, "the settings", section, keys)
        values[section] = _without(values.get(section) or {}, keys)
    values = merge(values, settings)
    if sources:
        values = merge(values, {"data": {"sources": list(sources)}})
    return values


def _check_undecided(values: Mapping[str, Any], where: str, section: str, keys: Iterable[str]) -> None:
    given = values.get(section) or {}
    for key in keys:
        if key in given or key in flat(given):
            raise UserError(f"A comparison sets {section}.{key} itself: leave it out of {where}.")


def _without(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return nested ``values`` without those of the dotted ``keys``."""
    kept = {}
    for name, value in values.items():
        inner = [key.removeprefix(f"{name}.") for key in keys if key.startswith(f"{name}.")]
        if inner and isinstance(value, Mapping):
            kept[name] = _without(value, inner)
        elif name not in keys:
            kept[name] = value
    return kept


def load_variants(path: Path) -> dict[str, dict[str, Any]]:
    """Return the variants in a file, by name; UserError where they are none, or decide what the comparison does."""
    values = read_yaml(path, missing=f"There are no variants '{path}'", broken=f"The variants '{path}' are not YAML")
    if not isinstance(values, dict) or not values:
        raise UserError(f"'{path}' must hold variants by name, each with what it changes of a recipe.")
    variants = renamed_variants({str(name): change or {} for name, change in values.items()})
    for name, change in variants.items():
        if not isinstance(change, dict) or not all(isinstance(section, dict) for section in change.values()):
            raise UserError(f"The variant '{name}' of '{path}' must hold the sections model, data or training.")
        for section, keys in DECIDED.items():
            own = [key for key in keys if key not in ("architecture", "pattern")]  # a variant may be one
            _check_undecided(change, f"the variant '{name}'", section, own)
    return variants
