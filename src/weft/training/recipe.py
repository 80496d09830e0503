"""A recipe says everything about a run: the model, the data, the training. It is YAML; any value can be overridden."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, cast

import yaml
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from weft.baselines import BASELINES
from weft.config import merge
from weft.data import DataConfig
from weft.data.config import AUTO_OF_0_1_0
from weft.errors import UserError
from weft.files import write_atomic
from weft.model_recipe import ModelRecipe
from weft.numbers import Below1, Count, Minutes, Place, Rate, Seed, Share, Steps, Tokens, Weight
from weft.pattern import parse_count
from weft.plain_yaml import parse_yaml, read_yaml
from weft.recall import MemoryConfig
from weft.settings import FrozenConfig, WrongSettingError, rename, renamed, warn_of_old_keys
from weft.training.methods import MethodConfig, parse_methods
from weft.version import __version__

DEFAULT_MINUTES = 10.0
LEAST_ENDS = 200  # documents that end: from so many on a model learns by itself where a text ends
MAX_STEP_TOKENS = 1 << 26

# What a saved recipe tells beside itself.
PROVENANCE = (
    "weft_version",
    "git_revision",
    "prepared",
    "text",
    "chosen",
    "asked",
    "made_by",
    "found_at",
    "overwriting",
)

# What may differ when a run is resumed: how long it goes on and how it reports.
RESUMABLE = (
    "training.steps",
    "training.tokens",
    "training.minutes",
    "training.logging.checkpoint_every",
    "training.logging.validations",
    "training.compile",
    "training.checkpoint_activations",
    "memory.enabled",
    "memory.most_tokens",
)


MuonTakes = Literal["matrices", "blocks", "tensors"]  # maps of blocks: dense or low rank, block-diagonal, products


class BatchConfig(FrozenConfig):
    """What an optimizer step reads in one process.

    ``accumulation`` batches of ``batch_size`` segments of ``sequence_length`` tokens. State is carried from each
    segment of a batch's row to the next.
    """

    batch_size: int = Field(default=8, gt=0, le=1 << 16)
    sequence_length: int = Field(default=128, gt=0, le=1 << 20)
    accumulation: int = Field(default=1, gt=0, le=4096)

    @property
    def step_tokens(self) -> int:
        """The tokens of an optimizer step in one process."""
        return self.batch_size * self.sequence_length * self.accumulation

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.step_tokens > MAX_STEP_TOKENS:
            raise ValueError(
                f"batch_size x sequence_length x accumulation make a step of {self.step_tokens:,} tokens; the most is "
                f"{MAX_STEP_TOKENS:,}"
            )
        return self


class OptimizerConfig(FrozenConfig):
    """The optimizer (:mod:`weft.training.optimizer`).

    ``learning_rate`` is the peak; it means the same for all optimizers, whose updates match in size. ``muon_takes``
    are the kinds of matrices that Muon trains; AdamW trains the rest, with ``betas``.
    """

    name: Literal["muon", "normuon", "adamw"] = "normuon"  # docs/research/largest-gains.md
    muon_takes: tuple[MuonTakes, ...] = ("matrices", "blocks", "tensors")  # docs/research/muon-parameters.md
    learning_rate: Rate = 4e-3
    weight_decay: Weight = 0.1
    betas: tuple[Below1, Below1] = (0.9, 0.99)  # docs/research/largest-gains.md
    momentum: Below1 = 0.95  # of Muon
    clip: float = Field(default=1.0, gt=0, allow_inf_nan=True)  # infinite: nothing is clipped


class ScheduleConfig(FrozenConfig):
    """How the learning rate runs (:mod:`weft.training.schedule`). ``warmup`` and ``decay`` are parts of the budget."""

    shape: Literal["linear", "cosine"] = "linear"
    warmup: Share = 0.02
    decay: Share = 0.6


class StartConfig(FrozenConfig):
    """The run whose model and tokenizer to start from; None: from random weights.

    ``block`` is the first of its blocks to take, for another pattern, or "best".
    """

    run: str | None = None
    block: Place | Literal["best"] | None = None

    @field_validator("block", mode="before")
    @classmethod
    def _block(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "best":
            raise ValueError(f"a block is a number from 0, or 'best', not '{value}'")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.block is not None and self.run is None:
            raise ValueError("block says which blocks of another run to take: name the run (training.start.run)")
        return self


class LoggingConfig(FrozenConfig):
    """How often a run validates, writes samples, saves checkpoints and reports.

    ``validations`` and ``samples`` are how many there are in the whole budget, ``checkpoint_every`` and ``log_every``
    are steps.
    """

    validations: Count = 10
    validation_tokens: Tokens | None = None  # as many as a tenth of the training affords, at most 200,000
    samples: int = Field(default=4, ge=0, le=100)
    checkpoint_every: Count = 200
    log_every: Count = 10
    tensorboard: bool = False


class TrainingConfig(FrozenConfig):
    """How to train. Exactly one of ``steps``, ``tokens`` and ``minutes`` is the budget (10 minutes when none is given).

    ``weft train`` turns ``batch.batch_size``, ``optimizer.learning_rate`` and ``optimizer.weight_decay`` to fit the run
    where they are not given (:mod:`weft.training.dial`); the defaults here are what it starts from.
    ``minutes`` counts training only: not tokenising, validating or saving.
    ``compile`` (``torch.compile``) is on for a GPU and off for a CPU, and with distillation, where it is "auto".
    ``methods`` are those of :mod:`weft.training.methods`.
    ``checkpoint_activations`` keeps only what goes into each block and makes the rest again going backwards: less
    memory, about a third more time.
    """

    steps: Steps | None = None
    tokens: Tokens | None = None
    minutes: Minutes | None = None
    batch: BatchConfig = BatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    carry_state: bool = True
    predict_boundary: bool | None = None  # None: where enough training documents end (LEAST_ENDS)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    checkpoint_activations: bool = False
    logging: LoggingConfig = LoggingConfig()
    start: StartConfig = StartConfig()
    methods: dict[str, SerializeAsAny[MethodConfig]] = Field(default_factory=dict)  # by name, each with its settings
    seed: Seed = 0

    @field_validator("methods", mode="before")
    @classmethod
    def _methods(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ValueError("it must hold a section for each method")
        return parse_methods(value)

    @field_validator("steps", "tokens", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return parse_count(value) if isinstance(value, str) else value

    @field_validator("compile", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        """Take the truth values for which YAML takes a bare on and off."""
        if isinstance(value, bool):
            return "on" if value else "off"
        return value

    @property
    def budget(self) -> str:
        """The budget in words, such as "10 minutes"."""
        amount: float = self.minutes or DEFAULT_MINUTES
        unit = "minutes"
        if self.steps:
            amount = self.steps
            unit = "steps"
        elif self.tokens:
            amount = self.tokens
            unit = "tokens"
        if amount == 1:
            unit = unit.removesuffix("s")
        return f"{amount:,g} {unit}"

    @model_validator(mode="after")
    def _check(self) -> Self:
        eager = [name for name, method in self.methods.items() if not method.compiles]
        if eager and self.compile == "on":
            raise ValueError(f"with {eager[0]} nothing is compiled: leave out training.compile=on")
        given = [key for key in ("steps", "tokens", "minutes") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(
                f"the budget is given twice ({' and '.join(given)}): keep one of steps, tokens and minutes"
            )
        return self


class Recipe(FrozenConfig):
    """A whole run, as data."""

    model: ModelRecipe = ModelRecipe()
    data: DataConfig = DataConfig(sources=())
    training: TrainingConfig = TrainingConfig()
    memory: MemoryConfig = MemoryConfig()

    @field_validator("model")
    @classmethod
    def _known_baseline(cls, model: ModelRecipe) -> ModelRecipe:
        if model.baseline is not None and model.baseline not in BASELINES:
            known = ", ".join(BASELINES)
            raise WrongSettingError(f"There is no model.baseline '{model.baseline}': choose from {known}.")
        return model


def load_recipe(path: Path) -> dict[str, Any]:
    """Return the values in a recipe file, without what a run adds to it."""
    values = read_yaml(path, missing=f"There is no recipe '{path}'", broken=f"The recipe '{path}' is not YAML")
    if not isinstance(values or {}, dict):
        raise UserError(f"The recipe '{path}' must hold the sections model, data, training and memory.")
    values = _upgraded(values or {})
    given = {key: value for key, value in values.items() if value is not None and key not in PROVENANCE}
    for name in Recipe.model_fields:
        if not isinstance(given.get(name, {}), dict):
            raise UserError(f"The section '{name}' of the recipe '{path}' must hold keys and values.")
    return given


def _upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a recipe file by today's names, and as the version that wrote it read them.

    A recipe that a run of 0.1.0 wrote says only in ``prepared`` how its text is split; ``documents`` was what is
    ``numbered`` now, no document was cut, and files were read as they are.
    """
    written_by_weft = bool({"weft_version", "prepared", "made_by"} & values.keys())
    values = renamed(values, warn=not written_by_weft)
    of_a_run = "prepared" in values or "made_by" in values
    data = values.get("data")
    if not of_a_run or not isinstance(data, dict) or "longest_document" in data:  # which 0.1.0 did not know
        return values
    told = re.search(r"split by (documents|lines|bytes)", str(values.get("prepared")))
    rule = told.group(1) if told else data.get("split", "auto")
    split = {"documents": "numbered", "lines": "tail", "auto": AUTO_OF_0_1_0}.get(rule, rule)
    return {**values, "data": {**data, "split": split, "longest_document": 0, "verbatim": True}}


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Turn ``training.optimizer.learning_rate=2e-3`` and the like into nested values, old keys by their new names."""
    values: dict[str, Any] = {}
    old_keys: list[str] = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or "." not in key:
            raise UserError(
                "A value is set by 'section.key=value', such as 'training.optimizer.learning_rate=2e-3', not by "
                f"'{assignment}'."
            )
        setting, old = rename(nested(key.strip(), _scalar(text)))
        old_keys += old
        values = merge(values, setting)
    warn_of_old_keys(old_keys)
    return values


def _scalar(text: str) -> Any:
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):  # YAML 1.1 takes 2e-3 for a string
        try:
            return float(text)  # a quoted number stays a string
        except ValueError:
            return value
    return value


def make_recipe(*layers: Mapping[str, Any]) -> Recipe:
    """Return the recipe of ``layers`` of values, later over earlier; a budget given later replaces one before.

    Old keys are read, with a warning (:func:`weft.settings.renamed`).
    """
    values: dict[str, Any] = {}
    for given in layers:
        layer = renamed(given)
        training = layer.get("training")
        if isinstance(training, Mapping) and any(key in training for key in ("steps", "tokens", "minutes")):
            values = merge(values, {"training": {"steps": None, "tokens": None, "minutes": None}})
        values = merge(values, layer)
    return Recipe.parse(values)


def save_recipe(
    recipe: Recipe,
    path: Path,
    *,
    prepared: str = "",
    text: Mapping[str, Any] | None = None,
    chosen: Sequence[str] = (),
    asked: Mapping[str, Any] | None = None,
    found_at: Mapping[str, str] | None = None,
    overwriting: bool = False,
) -> None:
    """Write the resolved recipe with the package version, the git revision, and what a report tells beside.

    ``prepared`` is a line on the text, ``text`` its parts as :meth:`PreparedData.told` gives them, ``chosen`` are lines
    on what was chosen and why, ``asked`` what was given and is otherwise in ``recipe`` (:func:`settled`).
    ``found_at`` are the absolute places of its texts, by their names; they are never shown to others.
    ``overwriting`` says that the folder still holds files of an earlier run.
    """
    values = recipe.model_dump(mode="json")
    values |= {"weft_version": __version__, "git_revision": git_revision()}
    values |= {"prepared": prepared, "text": dict(text or {}), "chosen": list(chosen)}
    if asked:
        values["asked"] = dict(asked)
    if found_at:
        values["found_at"] = dict(found_at)
    if overwriting:
        values["overwriting"] = True
    write_atomic(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def differences(saved: Recipe, asked: Recipe) -> list[str]:
    """Return what differs and must not when a run is resumed, as dotted keys with both values."""
    before = flat(saved.model_dump(mode="json"))
    after = flat(asked.model_dump(mode="json"))
    changed = []
    for key in before | after:
        was = before.get(key)
        now = after.get(key)
        if was != now and key not in RESUMABLE:
            changed.append(f"{key} (was {was}, now {now})")
    return changed


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted keys."""
    dotted: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:  # an empty section is a value: it asks for its defaults
            dotted |= flat(value, f"{prefix}{key}.")
        else:
            dotted[f"{prefix}{key}"] = value
    return dotted


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return a value under a dotted key as nested values."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast("dict[str, Any]", value)


def settled(as_given: Recipe, resolved: Recipe) -> dict[str, Any]:
    """Return what of ``as_given`` somebody gave and is otherwise in ``resolved``, by dotted keys, as it was given."""
    asked = flat(as_given.model_dump(mode="json"))
    now = flat(resolved.model_dump(mode="json"))
    return {key: asked[key] for key in sorted(as_given.given() & asked.keys()) if asked[key] != now.get(key)}


def git_revision() -> str | None:
    """Return the git revision of this code; None where it does not run from a checkout."""
    here = Path(__file__)
    command = ["git", "-C", str(here.parent), "log", "-1", "--format=%h", "--abbrev=12", "HEAD"]
    tracked = ["git", "-C", str(here.parent), "ls-files", "--error-unmatch", here.name]
    try:
        subprocess.run(tracked, capture_output=True, timeout=5, check=True)
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
