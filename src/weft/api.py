"""The verbs of the command line, as functions with typed results."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from weft.arguments import checked, is_path, told
from weft.baselines import load_any
from weft.compress.verbs import Made as Made
from weft.compress.verbs import merge_factors as merge_factors
from weft.compress.verbs import tensorise as tensorise
from weft.compress.verbs import unshare as unshare
from weft.config import ModelConfig, merge
from weft.data import DataConfig
from weft.data.config import DEFAULT_SEPARATOR
from weft.description import Description
from weft.description import describe as describe_config
from weft.errors import Interrupted, UserError
from weft.evaluation.adaptation import LEARNERS, Adapt, Adaptation, check_adaptable, score_dynamically
from weft.evaluation.compressors import Packed
from weft.evaluation.compressors import pack as pack_text
from weft.evaluation.evaluate import evaluate_split
from weft.evaluation.metrics import Metrics
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import score
from weft.files import disk_errors
from weft.generation import Sampling
from weft.generation import generate as generate_texts
from weft.language_model import LanguageModel
from weft.model import WeftModel
from weft.pattern import parse_count
from weft.pretrained import check_folder, load_config, load_model, load_tokenizer
from weft.reading import Paths, as_read, names_of, read_split, training_text
from weft.settings import renamed
from weft.sizing import sized
from weft.training import run as runs
from weft.training.listener import Listener
from weft.training.recipe import load_recipe, make_recipe
from weft.training.resolve import described_model, known_vocabulary

if TYPE_CHECKING:
    from weft.experiments.compare import StudyListener

Split = Literal["train", "validation", "test"]
VOCABULARY = 4096  # of a model that is only described
Transformed = tuple[WeftModel, float | None]  # a model made of another, and the error that it has beside it


@checked
def train(
    sources: Paths = (),
    *,
    out: str | Path,
    recipe: str | Path | Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    listener: Listener | None = None,
    finish: Callable[[runs.TrainingResult], object] | None = None,
) -> runs.TrainingResult:
    """Train a model on ``sources`` (files, folders, globs) and leave it in the folder ``out``.

    ``recipe`` is a YAML file or its values; ``settings`` are nested values laid over it, such as
    ``{"model": {"parameters": "2M"}, "training": {"minutes": 30}}``. See :class:`weft.training.recipe.Recipe`.
    ``finish`` is called with the result while ``out`` is still this process's alone, so that it may write there.
    Raises UserError (a ValueError) for what a caller can put right.
    """
    values = _recipe_values(recipe, settings or {})
    if names := names_of(sources):
        values = merge(values, {"data": {"sources": names}})
    origin = None if init_from is None else Path(init_from)
    return runs.train(
        values, Path(out), init_from=origin, resume=resume, overwrite=overwrite, listener=listener, finish=finish
    )


def _recipe_values(recipe: str | Path | Mapping[str, Any] | None, settings: Mapping[str, Any]) -> dict[str, Any]:
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
    out: str | Path,
    architectures: Sequence[str],
    parameters: float | str,
    learning_rates: Sequence[float],
    minutes: float | None = None,
    tokens: float | str | None = None,
    seeds: Sequence[int] = (0,),
    top: int | None = None,
    variants: str | Path | Mapping[str, Mapping[str, Any]] | None = None,
    baselines: Sequence[str] = (),
    jobs: int = 1,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    listener: StudyListener | None = None,
    peers: Sequence[str] = (),
) -> Comparison:
    """Train ``architectures`` (names or patterns) and ``baselines`` at equal size and budget; leave a study in ``out``.

    ``variants`` are more contenders, by name, each with what it changes of the recipe, or a YAML file of them.
    Each is trained with every learning rate and the first seed; the best rate by the validation text is trained with
    the other seeds, for the ``top`` contenders only where that is given. What ``out`` holds already is not done again.
    ``peers`` is what ``baselines`` were called in 0.1.0.
    Raises UserError for what a caller can put right, Interrupted when a signal to stop came; then the report tells what
    there is so far.
    """
    from weft.experiments.compare import Study
    from weft.experiments.folder import read_results
    from weft.experiments.plan import Plan, base_values, load_variants, renamed_variants
    from weft.reports.comparison.report import write_comparison

    if peers:
        warnings.warn("'peers' is called 'baselines' now.", FutureWarning, stacklevel=3)
    changes = load_variants(Path(variants)) if isinstance(variants, str | Path) else renamed_variants(variants or {})
    plan = Plan.parse(
        {
            "architectures": tuple(architectures),
            "variants": changes,
            "baselines": (*baselines, *peers),
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
def load(run: str | Path, *, window: int | None = None, applications: int | None = None) -> WeftModel:
    """Return the model of a run directory, in evaluation mode.

    ``window`` replaces how many tokens every attention reaches back, ``applications`` how often the pattern's ``[ ]``
    are applied.
    """
    return load_model(Path(run), window=window, applications=applications)


def describe(
    what: str | Path | ModelConfig | WeftModel,
    *,
    parameters: float | str = "2M",
    vocab_size: int | None = None,
    preset: str | None = None,
) -> Description:
    """Describe a model without allocating it: a configuration, a model, a run directory, a recipe, or by its pattern.

    ``parameters`` (embeddings included), ``vocab_size`` (4,096 unless given) and ``preset`` are of a model that is
    named by its architecture or pattern; ``vocab_size`` also of a recipe's that leaves it to its texts.
    """
    return describe_config(_described(what, parameters, vocab_size, preset))


def _described(what: object, parameters: float | str, vocab_size: int | None, preset: str | None) -> ModelConfig:
    """Return the configuration that ``what`` tells of."""
    if isinstance(what, ModelConfig):
        return what
    if isinstance(what, WeftModel):
        return what.config
    if not is_path(what):
        raise UserError(f"'what' is {told(what)}: give an architecture, a pattern or a run directory.")
    name = str(what)
    path = Path(name)
    if name and os.path.isdir(path):  # noqa: PTH112 - a pattern may be longer than a path, where Path would raise
        return load_config(path)
    if path.suffix in (".yaml", ".yml"):
        recipe = make_recipe(load_recipe(path))
        return described_model(recipe.model, vocab_size or known_vocabulary(recipe.data) or VOCABULARY)
    if not name or "/" in name:  # which is in no pattern
        raise UserError(f"There is no run directory '{name}': give one, an architecture or a pattern.")
    return sized(name, parameters=parameters, vocab_size=vocab_size or VOCABULARY, preset=preset)


@checked
def evaluate(
    run: str | Path,
    files: Paths = (),
    *,
    split: Split = "test",
    window: int | None = None,
    applications: int | None = None,
    adapt: bool | Adapt = False,
    text_key: str | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Progress], None] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Metrics:
    """Score ``files``, or a split of the run's own corpus as it was; with ``adapt``, by dynamic evaluation.

    True takes a learner mixed with the frozen model and a cache, by how well each has told the text so far
    (:mod:`weft.evaluation.adaptation`); an ``Adaptation`` is one learner alone, a sequence of them others to mix.
    ``window`` and ``applications`` are those of :func:`load`; ``text_key`` names the text in records or the column of
    tables, where it is not that of the run's texts. ``progress`` is called with the number of tokens done since the
    last call, ``watch`` with how far the whole is (:class:`weft.evaluation.progress.Progress`). ``tell`` hears what is
    to be known of the text: which files are read, and in what its form is another than that of the training text.
    """
    run = Path(run)
    check_folder(run)
    tokenizer = load_tokenizer(run)
    text = read_split(run, tokenizer, files, split, text_key=text_key, tell=tell)
    model = load_any(run, window=window, applications=applications)
    return evaluate_split(model, tokenizer, text, adapt=_learners(adapt, model), progress=progress, watch=watch)


@checked
def pack(
    run: str | Path,
    files: Paths = (),
    *,
    split: Split = "test",
    text_key: str | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Packed:
    """Return what xz and PPMd need for the text that :func:`evaluate` scores, after the run's training text.

    Where that text cannot be read, the compressors begin with nothing, and a note says so. ``progress`` is called with
    the name of a compressor and the share that it has done. Raises UserError for the training split itself.
    """
    run = Path(run)
    check_folder(run)
    if split == "train" and not names_of(files):
        raise UserError("Compressors read the training text first: choose another split, or name files.")
    tokenizer = load_tokenizer(run)
    text = read_split(run, tokenizer, files, split, text_key=text_key)
    data = runs.saved_recipe(run).data if (run / runs.RECIPE).is_file() else DataConfig(sources=())
    training, why = training_text(run, data, tokenizer)
    separator = data.document_separator or DEFAULT_SEPARATOR
    return pack_text(training, text, tokenizer, separator=separator, unprimed=why, progress=progress)


@checked
def token_bits(
    run: str | Path,
    files: Paths = (),
    *,
    split: Split = "test",
    window: int | None = None,
    applications: int | None = None,
    adapt: bool | Adapt = False,
    text_key: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[tuple[str, float]]:
    """Return every token of the text, as text, with its surprisal in bits; arguments are those of :func:`evaluate`."""
    run = Path(run)
    tokenizer, model = load_tokenizer(run), load_any(run, window=window, applications=applications)
    text = read_split(run, tokenizer, files, split, text_key=text_key, tell=tell)
    how = _learners(adapt, model)
    boundary = tokenizer.boundary_id
    nats = (
        score_dynamically(model, text, how, boundary_id=boundary) if how else score(model, text, boundary_id=boundary)
    )
    tokens = np.asarray(text.tokens)
    shown = tokens != tokenizer.boundary_id
    return [
        (tokenizer.decode([token]), float(cost / np.log(2)))
        for token, cost in zip(tokens[shown], nats[shown], strict=True)
    ]


def _learners(adapt: bool | Adapt, model: LanguageModel) -> Adapt | None:
    """Return how ``model`` is to learn; one that cannot is refused here, before its text is scored for nothing."""
    how = (LEARNERS if adapt else None) if isinstance(adapt, bool) else adapt
    each = [how] if how is None or isinstance(how, Adaptation) else how
    if not isinstance(each, list | tuple) or not all(one is None or isinstance(one, Adaptation) for one in each):
        raise UserError(f"'adapt' is {told(adapt)}: give True, a weft.Adaptation, or a list of them.")
    if how:
        check_adaptable(model)
    return how


@overload
def generate(
    run: str | Path,
    prompts: str = "",
    *,
    max_new_tokens: int = 200,
    applications: int | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
) -> str: ...
@overload
def generate(
    run: str | Path,
    prompts: list[str] | tuple[str, ...],
    *,
    max_new_tokens: int = 200,
    applications: int | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
) -> list[str]: ...
@checked
def generate(
    run: str | Path,
    prompts: str | Sequence[str] = "",
    *,
    max_new_tokens: int = 200,
    applications: int | None = None,
    sampling: Sampling | None = None,
    stop: str | Sequence[str] = (),
) -> str | list[str]:
    """Continue one prompt or several; return the continuations without the prompts.

    A text ends before the first of the strings ``stop`` in it. ``applications`` are those of :func:`load`. A prompt is
    read in the form in which the run reads every text (``data.normalize``, ``data.line_ends``).
    """
    run = Path(run)
    many = as_read(run, [prompts] if isinstance(prompts, str) else prompts)
    model, tokenizer = load_any(run, applications=applications), load_tokenizer(run)
    written = generate_texts(model, tokenizer, many, max_new_tokens=max_new_tokens, sampling=sampling, stop=stop)
    return written[0] if isinstance(prompts, str) else written
