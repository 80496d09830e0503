"""The text that a run is asked to read: files, or a part of its own corpus as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from weft.arguments import StrPath
from weft.data import DataConfig, SplitName, TokenizedSplit, Tokenizer, tokenize_sources
from weft.data.config import LINE_SEPARATOR
from weft.errors import UserError
from weft.records import RECIPE
from weft.training.recipe import load_recipe
from weft.training.run_folder import raw_recipe
from weft.training.texts import places_of, read_part, read_texts

Paths = StrPath | Sequence[StrPath]


def read_split(
    run: Path,
    tokenizer: Tokenizer,
    files: Paths,
    split: SplitName,
    *,
    text_key: str | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> TokenizedSplit:
    """Return the tokens of ``files``, or where there are none of a split of the run's corpus as it was.

    The text is read as the run's own was. Raises UserError where the corpus is another now
    (:mod:`weft.training.texts`).
    """
    names = names_of(files)
    if not names and not (run / RECIPE).is_file():
        raise UserError(f"'{run}' does not say what it was trained on: name files to evaluate.")
    data = data_of(run)
    remembered = read_texts(run)
    if names:
        if data.document_separator == LINE_SEPARATOR:
            tell("Each line is read as a document, as in the training text.")
        text = tokenize_sources(
            names,
            tokenizer,
            document_separator=data.document_separator,
            text_key=text_key or data.text_key,
            unify=data.unify,
            progress=tell,
        )
    else:
        places = places_of(raw_recipe(run))
        text = read_part(run, data, places, split, tokenizer, tell)
    if text.form:
        trained = remembered.form if remembered else None
        for line in text.form.facts() if trained is None else text.form.unlike(trained):
            tell(line)
    return text


def data_of(run: Path) -> DataConfig:
    """Return what the run's recipe says of its text."""
    if not (run / RECIPE).is_file():
        return DataConfig(sources=())
    raw_recipe(run)  # says what is wrong with a damaged one
    # Its methods of training may be registered nowhere here, and who reads its text needs none of them.
    return DataConfig.parse({"sources": (), **load_recipe(run / RECIPE).get("data", {})}, where="data")


def as_read(run: Path, prompts: Sequence[str]) -> list[str]:
    """Return prompts in the form in which the run reads every text; as they are where its recipe cannot be read."""
    try:
        unify = data_of(run).unify
    except UserError:
        return list(prompts)
    return [unify.text(prompt) for prompt in prompts]


def training_text(run: Path, data: DataConfig, tokenizer: Tokenizer) -> tuple[TokenizedSplit | None, str]:
    """Return the training text of ``run``, or None and why there is none to read."""
    why = "The compressors have read nothing before this text: "
    if not data.sources:
        return None, why + "the run does not say what it was trained on."
    if data.streamed:
        return None, why + "the training text streams and is not kept."
    try:
        return read_split(run, tokenizer, (), "train"), ""
    except UserError as error:
        return None, f"{why}the training text cannot be read. {error}"


def names_of(paths: Paths) -> tuple[str, ...]:
    """Return one path or several as strings."""
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    return tuple(os.fspath(path) for path in several)
