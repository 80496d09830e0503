"""A run as a thing: the folder that training leaves, with its files, its recipe, its numbers, and what it can do.

>>> run = weft.Run("runs/mine")
>>> run.results.test.bits_per_byte
>>> run.generate("Once")

A :class:`Run` reads from the folder and writes nothing there. It is a path, too (``os.PathLike``), so it goes wherever
a folder does. Its room is above training's: it reads the recipe, the results and the texts as training writes them, and
training itself needs a folder only, which is not a whole run yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, cast, overload

import numpy as np

from weft.arguments import StrPath, checked, told
from weft.baselines import load_any
from weft.data import TokenizedSplit, Tokenizer
from weft.data.config import DEFAULT_SEPARATOR
from weft.description import Description, describe
from weft.errors import UserError
from weft.evaluation.adaptation import LEARNERS, Adapt, Adaptation, check_adaptable
from weft.evaluation.compressors import Packed
from weft.evaluation.compressors import pack as pack_text
from weft.evaluation.evaluate import evaluate_split, score_split
from weft.evaluation.metrics import Metrics
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import text_bits
from weft.evaluation.steered import Steered
from weft.generation import Precision, Sampling, generate
from weft.generation.steering import Steering
from weft.language_model import LanguageModel
from weft.layers.sites import Edits
from weft.mixing import tree_of
from weft.model import WeftModel
from weft.pretrained import check_folder, load_config, load_tokenizer
from weft.reading import Paths, as_read, data_of, names_of, read_split, training_text
from weft.recall import MEMORY, TextMemory, load_memory
from weft.records import CARD, METRICS, RECIPE, REPORT, RESULTS, Event, read_events
from weft.training.recipe import Recipe
from weft.training.result import TrainingResult, read_result
from weft.training.run_folder import saved_recipe

Split = Literal["train", "validation", "test"]
Tell = Callable[[str], None]


class Run(os.PathLike[str]):
    """The run in ``folder``.

    The model and the tokenizer are loaded when they are first used, and then kept: for a run that was trained on
    meanwhile, make another ``Run``. All else is read each time. UserError where there is no such folder, and, when it
    is asked for, for what the folder does not hold or what is damaged.
    """

    @checked
    def __init__(self, folder: StrPath) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"There is no run directory '{self.folder}': give the folder that 'weft train' wrote.")

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"weft.Run('{self.folder}')"

    # The files that people look at. Each is where it would be, whether it is there or not.

    @property
    def recipe_file(self) -> Path:
        """The recipe as it was resolved, in YAML."""
        return self.folder / RECIPE

    @property
    def events_file(self) -> Path:
        """The log of training, a JSON object in a line for each event."""
        return self.folder / METRICS

    @property
    def results_file(self) -> Path:
        """What training has come to, in JSON."""
        return self.folder / RESULTS

    @property
    def report(self) -> Path:
        """The report, a page in HTML."""
        return self.folder / REPORT

    @property
    def card(self) -> Path:
        """The model card."""
        return self.folder / CARD

    # What is in them.

    @property
    def recipe(self) -> Recipe:
        """The recipe with every value that it left to the corpus and the machine."""
        return saved_recipe(self.folder)

    @property
    def results(self) -> TrainingResult:
        """What training has come to; UserError where it has not ended."""
        return read_result(self.folder)

    @property
    def events(self) -> list[Event]:
        """The events of training in the order of their steps: ``train``, ``validation``, ``sample``, ``skipped``."""
        return read_events(self.folder)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, loaded once."""
        return load_tokenizer(self.folder)

    @cached_property
    def model(self) -> LanguageModel:
        """The best model by validation, loaded once, in evaluation mode on the CPU."""
        return load_any(self.folder)

    @cached_property
    def memory(self) -> TextMemory | None:
        """The memory of text beside the model, loaded once; None where there is none, UserError for a damaged one."""
        return load_memory(self.folder, self.tokenizer)

    # What it can do.

    def describe(self) -> Description:
        """Describe the model without loading it: its blocks, their shapes, parameters, operations and state."""
        return describe(load_config(self.folder))

    @checked
    def evaluate(
        self,
        files: Paths = (),
        *,
        split: Split = "test",
        window: int | None = None,
        applications: int | None = None,
        adapt: bool | Adapt = False,
        memory: bool | None = None,
        edits: Edits | None = None,
        text_key: str | None = None,
        progress: Callable[[int], None] | None = None,
        watch: Callable[[Progress], None] | None = None,
        tell: Tell = lambda _: None,
    ) -> Metrics:
        """Score ``files``, or a split of the run's own corpus as it was; with ``adapt``, by dynamic evaluation.

        True for ``adapt`` takes a learner mixed with the frozen model, by how well each has told the text so far, and
        what was said before (:mod:`weft.evaluation.adaptation`); an ``Adaptation`` is one learner alone, a sequence of
        them others to mix. ``memory`` says whether the run's memory of text counts beside its weights: None where there
        is one, and never for the training text, which it holds. ``window`` and ``applications`` are those of
        :func:`weft.load`; ``edits`` change what flows through the stack (:class:`weft.inside.Edits`), not beside
        ``adapt``; ``text_key`` names the text in records or the column of tables, where it is not that of the
        run's texts. ``progress`` is called with the number of tokens done since the last call, ``watch`` with how far
        the whole is (:class:`weft.evaluation.progress.Progress`). ``tell``
        hears what is to be known of the text: which files are read, and in what its form is another than that of the
        training text.
        """
        check_folder(self.folder)
        text = read_split(self.folder, self.tokenizer, files, split, text_key=text_key, tell=tell)
        model = self.model_with(window, applications)
        how = _learners(adapt, model)
        remembered = self._memory_for(memory, files, split, tell)
        scorer = model
        if edits is not None:
            if how or not isinstance(model, WeftModel):
                raise UserError("'edits' are for a model of Weft's own with frozen weights: leave them or 'adapt' out.")
            scorer = cast("LanguageModel", Steered(model, edits))  # of which only scoring is asked
        return evaluate_split(
            scorer,
            self.tokenizer,
            text,
            adapt=how,
            memory=remembered,
            fitted_to=split == "validation" and not names_of(files),
            warm_up=self._warm_up(how, files, split),
            progress=progress,
            watch=watch,
        )

    @checked
    def token_bits(
        self,
        files: Paths = (),
        *,
        split: Split = "test",
        window: int | None = None,
        applications: int | None = None,
        adapt: bool | Adapt = False,
        memory: bool | None = None,
        text_key: str | None = None,
        tell: Tell = lambda _: None,
    ) -> list[tuple[str, float]]:
        """Return every token of the text that :meth:`evaluate` scores, as text, with its surprisal in bits."""
        tokenizer = self.tokenizer
        model = self.model_with(window, applications)
        text = read_split(self.folder, tokenizer, files, split, text_key=text_key, tell=tell)
        how = _learners(adapt, model)
        boundary = tokenizer.boundary_id
        remembered = self._memory_for(memory, files, split, tell)
        scores = score_split(
            model,
            text,
            boundary_id=boundary,
            adapt=how,
            memory=remembered,
            fitted_to=split == "validation" and not names_of(files),
            tree=tree_of(tokenizer) if how else None,
            warm_up=self._warm_up(how, files, split),
        )
        tokens = np.asarray(text.tokens)
        shown = tokens != boundary
        bits = scores.best[shown] / np.log(2)
        return [(tokenizer.decode([token]), float(cost)) for token, cost in zip(tokens[shown], bits, strict=True)]

    @overload
    def score(self, texts: str, *, memory: bool | None = None) -> float: ...
    @overload
    def score(self, texts: list[str] | tuple[str, ...], *, memory: bool | None = None) -> list[float]: ...
    @checked
    def score(self, texts: str | Sequence[str], *, memory: bool | None = None) -> float | list[float]:
        """Return the bits that a text costs, or each of several; each is a document, whose end is not counted.

        A text is read in the form in which the run reads every text (``data.normalize``, ``data.line_ends``).
        ``memory`` says whether the run's memory of text counts beside its weights: None where there is one.
        """
        several = [texts] if isinstance(texts, str) else texts
        remembered = self.asked_memory(memory)
        bits = text_bits(self.model, self.tokenizer, as_read(self.folder, several), memory=remembered)
        return bits[0] if isinstance(texts, str) else bits

    @overload
    def generate(
        self,
        prompts: str = "",
        *,
        max_new_tokens: int = 200,
        applications: int | None = None,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] = (),
        precision: Precision = "auto",
        memory: bool | None = None,
        steer: Steering | None = None,
    ) -> str: ...
    @overload
    def generate(
        self,
        prompts: list[str] | tuple[str, ...],
        *,
        max_new_tokens: int = 200,
        applications: int | None = None,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] = (),
        precision: Precision = "auto",
        memory: bool | None = None,
        steer: Steering | None = None,
    ) -> list[str]: ...
    @checked
    def generate(
        self,
        prompts: str | Sequence[str] = "",
        *,
        max_new_tokens: int = 200,
        applications: int | None = None,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] = (),
        precision: Precision = "auto",
        memory: bool | None = None,
        steer: Steering | None = None,
    ) -> str | list[str]:
        """Continue one prompt or several; return the continuations without the prompts.

        A text ends before the first of the strings ``stop`` in it. ``applications`` are those of :func:`weft.load`. A
        prompt is read in the form in which the run reads every text (``data.normalize``, ``data.line_ends``).

        ``precision`` is that of the weights on a CPU, where reading them is most of what a token takes: ``bf16``
        halves the bytes by rounding them to eight significant bits, ``fp32`` takes the model's own, ``auto`` is
        ``bf16`` where the processor widens it cheaply. The prompt is read by the model itself.

        ``memory`` says whether the run's memory of text counts beside its weights: None where there is one. ``steer``
        turns the text (:mod:`weft.generation.steering`); :func:`weft.generate` takes vectors by their names.
        """
        several = [prompts] if isinstance(prompts, str) else prompts
        written = generate(
            self.model_with(applications=applications),
            self.tokenizer,
            as_read(self.folder, several),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=stop,
            precision=precision,
            memory=self.asked_memory(memory),
            steer=steer,
        )
        return written[0] if isinstance(prompts, str) else written

    @checked
    def pack(
        self,
        files: Paths = (),
        *,
        split: Split = "test",
        text_key: str | None = None,
        progress: Callable[[str, float], None] | None = None,
    ) -> Packed:
        """Return what xz and PPMd need for the text that :meth:`evaluate` scores, after the run's training text.

        Where that text cannot be read, the compressors begin with nothing, and a note says so. ``progress`` is called
        with the name of a compressor and the share that it has done. Raises UserError for the training split itself.
        """
        check_folder(self.folder)
        if split == "train" and not names_of(files):
            raise UserError("Compressors read the training text first: choose another split, or name files.")
        text = read_split(self.folder, self.tokenizer, files, split, text_key=text_key)
        data = data_of(self.folder)
        training, why = training_text(self.folder, data, self.tokenizer)
        separator = data.document_separator or DEFAULT_SEPARATOR
        return pack_text(training, text, self.tokenizer, separator=separator, unprimed=why, progress=progress)

    def asked_memory(self, asked: bool | None) -> TextMemory | None:
        """Return the memory if it is to count; UserError where it is asked for and there is none."""
        if asked is False:
            return None
        if asked and self.memory is None:
            raise UserError(f"'{self.folder}' has no memory of text: make one with weft.remember('{self.folder}').")
        return self.memory

    def _memory_for(self, asked: bool | None, files: Paths, split: Split, tell: Tell) -> TextMemory | None:
        """Return the memory if it is to count for a text; the training text stands in it, so there it never does."""
        if split == "train" and not names_of(files):
            if asked is not False and (self.folder / MEMORY).exists():
                tell("The memory holds the training text, so this is the figure of the weights alone.")
            return None
        return self.asked_memory(asked)

    def _warm_up(self, how: Adapt | None, files: Paths, split: Split) -> TokenizedSplit | None:
        """Return the validation text, on which several learners learn what to trust.

        None where it is what is scored, or is not to be read.
        """
        if not how or isinstance(how, Adaptation) or (split == "validation" and not names_of(files)):
            return None
        try:
            return read_split(self.folder, self.tokenizer, (), "validation")
        except UserError:
            return None

    def model_with(self, window: int | None = None, applications: int | None = None) -> LanguageModel:
        """Return the model, or for another window or number of applications one that is loaded for the occasion."""
        if window is None and applications is None:
            return self.model
        return load_any(self.folder, window=window, applications=applications)


def _learners(adapt: bool | Adapt, model: LanguageModel) -> Adapt | None:
    """Return how ``model`` is to learn; one that cannot is refused here, before its text is scored for nothing."""
    if isinstance(adapt, bool):
        how: Adapt | None = LEARNERS if adapt else None
    else:
        how = adapt
    each = [how] if how is None or isinstance(how, Adaptation) else how
    if not isinstance(each, list | tuple) or not all(one is None or isinstance(one, Adaptation) for one in each):
        raise UserError(f"'adapt' is {told(adapt)}: give True, a weft.Adaptation, or a list of them.")
    if how:
        check_adaptable(model)
    return how
