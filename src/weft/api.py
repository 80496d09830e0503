"""The verbs of the command line, as functions with typed results."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

from weft.arguments import StrPath, checked, is_path, told
from weft.compress.verbs import Made as Made
from weft.compress.verbs import merge_factors as merge_factors
from weft.compress.verbs import tensorise as tensorise
from weft.compress.verbs import unshare as unshare
from weft.config import ModelConfig, merge
from weft.description import Description
from weft.description import describe as describe_config
from weft.errors import Interrupted, UserError
from weft.evaluation.adaptation import Adapt
from weft.evaluation.metrics import Metrics
from weft.evaluation.progress import Progress
from weft.files import disk_errors
from weft.generation import Precision, Sampling
from weft.inside.vectors import steering
from weft.model import WeftModel
from weft.pattern import parse_count
from weft.pretrained import load_config, load_model
from weft.reading import Paths, names_of
from weft.remembering import Remembered as Remembered
from weft.remembering import remember as remember
from weft.run import Run, Split, Tell
from weft.settings import renamed
from weft.sizing import sized
from weft.training.listener import Listener
from weft.training.recipe import load_recipe, make_recipe
from weft.training.resolve import described_model, known_vocabulary
from weft.training.result import TrainingResult
from weft.training.run import train as run_training

if TYPE_CHECKING:
    from weft.experiments.compare import StudyListener

SteerRange = Literal["generated", "all"]

PARAMETERS = "2M"  # of a model that is only described, like its vocabulary
VOCABULARY = 4096  # of a model that is only described


@checked
def train(
    sources: Paths = (),
    *,
    out: StrPath,
    recipe: StrPath | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    init_from: StrPath | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    finish: Callable[[Run], object] | None = None,
) -> Run:
    """Train a model on ``sources`` (files, folders, globs) and return the run that it leaves in the folder ``out``.

    ``recipe`` is a YAML file or its values; ``settings`` are nested values laid over it, such as
    ``{"model": {"parameters": "2M"}, "training": {"minutes": 30}}``. See :class:`weft.training.recipe.Recipe`.
    The run has its numbers in ``results``, a report and a model card. ``finish`` is called with it before these two are
    written, while ``out`` is still this process's alone, so that it may add figures for them to show.
    Raises UserError (a ValueError) for what a caller can put right.
    """
    from weft.reports.run import finish as reports

    values = _recipe_values(recipe, settings or {})
    if names := names_of(sources):
        values = merge(values, {"data": {"sources": names}})
    folder = Path(out)

    def leave_pages(_: TrainingResult) -> None:
        try:
            if finish:
                finish(Run(folder))
        finally:  # the model and its numbers stand, even if somebody does not wait for more of them
            reports.finish_run(folder)

    run_training(
        values,
        folder,
        init_from=None if init_from is None else Path(init_from),
        resume=resume,
        overwrite=overwrite,
        listener=listener,
        finish=leave_pages,
    )
    return Run(folder)


def _recipe_values(recipe: StrPath | Mapping[str, Any] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Lay ``settings`` over ``recipe``; a budget or an architecture in the settings replaces the recipe's.

    Both may have old keys, which are renamed before the two are laid over each other.
    """
    settings = renamed(settings)
    values: dict[str, Any] = {}
    if isinstance(recipe, Mapping):
        values = renamed(recipe)
    elif recipe:
        values = load_recipe(Path(recipe))
    budgets = ("steps", "tokens", "minutes")
    if any(_section(settings, "training").get(key) is not None for key in budgets):
        training = {key: value for key, value in _section(values, "training").items() if key not in budgets}
        values = {**values, "training": training}
    if "architecture" in _section(settings, "model"):
        values = {**values, "model": {**_section(values, "model"), "pattern": None}}
    if {"architecture", "pattern"} & _section(settings, "model").keys():  # letters are those of the pattern before
        model = {key: value for key, value in _section(values, "model").items() if key != "letters"}
        values = {**values, "model": model}
    return merge(values, settings)


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a recipe; an empty one where it is none, which whoever reads the recipe will say."""
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison of architectures: the content of its ``results.json`` (see docs/compare.md) and its report."""

    folder: Path
    report: Path
    results: dict[str, Any]


@checked
def compare(
    sources: Paths = (),
    *,
    out: StrPath,
    architectures: Sequence[str],
    parameters: float | str,
    learning_rates: Sequence[float],
    minutes: float | None = None,
    tokens: float | str | None = None,
    seeds: Sequence[int] = (0,),
    top: int | None = None,
    variants: StrPath | Mapping[str, Mapping[str, Any]] | None = None,
    baselines: Sequence[str] = (),
    jobs: int = 1,
    recipe: StrPath | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    listener: StudyListener | None = None,
) -> Comparison:
    """Train ``architectures`` (names or patterns) and ``baselines`` at equal size and budget; leave a study in ``out``.

    ``variants`` are more contenders, by name, each with what it changes of the recipe, or a YAML file of them.
    Each is trained with every learning rate and the first seed; the best rate by the validation text is trained with
    the other seeds, for the ``top`` contenders only where that is given. What ``out`` holds already is not done again.
    Raises UserError for what a caller can put right, Interrupted when a signal to stop came; then the report tells what
    there is so far.
    """
    from weft.experiments.compare import Study
    from weft.experiments.folder import read_results
    from weft.experiments.plan import Plan, base_values, load_variants, renamed_variants
    from weft.reports.comparison.report import write_comparison

    if isinstance(variants, str | os.PathLike):
        changes = load_variants(Path(variants))
    else:
        changes = renamed_variants(variants or {})
    plan = Plan.parse(
        {
            "architectures": tuple(architectures),
            "variants": changes,
            "baselines": tuple(baselines),
            "parameters": parse_count(parameters),
            "minutes": minutes,
            "tokens": None if tokens is None else parse_count(tokens),
            "learning_rates": tuple(learning_rates),
            "seeds": tuple(seeds),
            "top": top,
            "jobs": jobs,
            "base": base_values(None if recipe is None else Path(recipe), settings or {}, names_of(sources)),
        }
    )
    folder = Path(out)
    with disk_errors(folder):
        try:
            Study(plan, folder, listener).run(overwrite=overwrite)
        except Interrupted:
            write_comparison(folder)
            raise
        report = write_comparison(folder)
    return Comparison(folder=folder, report=report, results=read_results(folder))


@checked
def load(run: StrPath, *, window: int | None = None, applications: int | None = None) -> WeftModel:
    """Return the model of a run directory, in evaluation mode.

    ``window`` replaces how many tokens every attention reaches back, ``applications`` how often the pattern's ``[ ]``
    are applied.
    """
    return load_model(Path(run), window=window, applications=applications)


def describe(
    what: StrPath | ModelConfig | WeftModel,
    *,
    parameters: float | str | None = None,
    vocab_size: int | None = None,
    preset: str | None = None,
) -> Description:
    """Describe a model without allocating it: a configuration, a model, a run, a recipe, or by its pattern.

    ``parameters`` (embeddings included; 2M by default), ``vocab_size`` (4,096 by default) and ``preset`` are of a model
    that is named by its architecture or pattern. The first two are also of a recipe that leaves them to its texts.
    """
    return describe_config(_described(what, parameters, vocab_size, preset))


def _described(what: object, parameters: float | str | None, vocab_size: int | None, preset: str | None) -> ModelConfig:
    """Return the configuration that ``what`` tells of."""
    if isinstance(what, ModelConfig):
        return what
    if isinstance(what, WeftModel):
        return what.config
    if not is_path(what):
        raise UserError(f"'what' is {told(what)}: give an architecture, a pattern or a run directory.")
    name = str(Path(what)) if isinstance(what, os.PathLike) else str(what)
    path = Path(name)
    if name and os.path.isdir(path):  # noqa: PTH112 - a pattern may be longer than a path, where Path would raise
        return load_config(path)
    if path.suffix in (".yaml", ".yml"):
        recipe = make_recipe(load_recipe(path))
        if parameters is not None and recipe.model.parameters is None and recipe.model.hidden_size is None:
            recipe = recipe.replace({"model.parameters": parse_count(parameters)})
        return described_model(recipe.model, vocab_size or known_vocabulary(recipe.data) or VOCABULARY)
    if not name or "/" in name:  # which is in no pattern
        raise UserError(f"There is no run directory '{name}': give one, an architecture or a pattern.")
    return sized(
        name,
        parameters=PARAMETERS if parameters is None else parameters,
        vocab_size=vocab_size or VOCABULARY,
        preset=preset,
    )


def as_run(run: StrPath) -> Run:
    """Return ``run`` itself where it is a :class:`weft.Run`, else the run in that folder."""
    return run if isinstance(run, Run) else Run(run)


@checked
def evaluate(
    run: StrPath,
    files: Paths = (),
    *,
    split: Split = "test",
    window: int | None = None,
    applications: int | None = None,
    adapt: bool | Adapt = False,
    memory: bool | None = None,
    text_key: str | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Progress], None] | None = None,
    tell: Tell = lambda _: None,
) -> Metrics:
    """Score ``files``, or a split of the run's own corpus as it was: see :meth:`weft.Run.evaluate`."""
    return as_run(run).evaluate(
        files,
        split=split,
        window=window,
        applications=applications,
        adapt=adapt,
        memory=memory,
        text_key=text_key,
        progress=progress,
        watch=watch,
        tell=tell,
    )


@overload
def generate(
    run: StrPath,
    prompts: str = "",
    *,
    max_new_tokens: int = 200,
    applications: int | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    precision: Precision = "auto",
    memory: bool | None = None,
    steer: Mapping[str, float] | None = None,
    steer_range: SteerRange = "generated",
) -> str: ...
@overload
def generate(
    run: StrPath,
    prompts: list[str] | tuple[str, ...],
    *,
    max_new_tokens: int = 200,
    applications: int | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    precision: Precision = "auto",
    memory: bool | None = None,
    steer: Mapping[str, float] | None = None,
    steer_range: SteerRange = "generated",
) -> list[str]: ...
@checked
def generate(
    run: StrPath,
    prompts: str | Sequence[str] = "",
    *,
    max_new_tokens: int = 200,
    applications: int | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
    precision: Precision = "auto",
    memory: bool | None = None,
    steer: Mapping[str, float] | None = None,
    steer_range: SteerRange = "generated",
) -> str | list[str]:
    """Continue one prompt or several, without the prompts themselves: see :meth:`weft.Run.generate`.

    ``steer`` has multipliers by the names of vectors that the run has (``weft steer``); they hold from the last token
    of the prompt on, or with ``steer_range="all"`` in the whole prompt, too.
    """
    several = [prompts] if isinstance(prompts, str) else list(prompts)
    opened = as_run(run)
    if steer_range not in get_args(SteerRange):
        raise UserError(f"'steer_range' is {told(steer_range)}: give 'generated' or 'all'.")
    steered = None
    if steer:
        steered = steering(opened.folder, opened.model, steer, everywhere=steer_range == "all")
    written = opened.generate(
        several,
        max_new_tokens=max_new_tokens,
        applications=applications,
        sampling=sampling,
        stop=stop,
        precision=precision,
        memory=memory,
        steer=steered,
    )
    return written[0] if isinstance(prompts, str) else written
