"""The options that say what text to read, and those of recipes, as several commands take them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from weft.cli.app import unescape

MANY = 10**9  # the most that an option takes which has no bounds of a recipe's

Sources = Annotated[
    list[str] | None,
    typer.Argument(
        help="Files, folders or globs: .txt, .jsonl, also .gz .xz .bz2 .zst; .csv and .tsv by name. Or one of enwik8, "
        "text8, wikitext-103 and wikitext-2, or a Hugging Face dataset, hf:NAME.",
        show_default=False,
    ),
]
Tokenizer = Annotated[
    str | None, typer.Option(help="bytes, characters, words, bpe, unigram or closed-words.", show_default="bpe")
]
VocabSize = Annotated[int | None, typer.Option(help="Vocabulary size.", show_default="fits the corpus")]
Validation = Annotated[list[str] | None, typer.Option(help="Text to validate on, instead of a split.")]
Test = Annotated[list[str] | None, typer.Option(help="Text to test on, instead of a split.")]
Split = Annotated[
    str | None,
    typer.Option(
        help="documents, blocks, tail, bytes or numbered: how the text is cut into three parts (docs/texts.md).",
        show_default="what suits the text",
    ),
]
DocumentSeparator = Annotated[
    str | None, typer.Option(help="What parts documents in a file ('' for nothing).", show_default=r"\n\n\n")
]
CorpusPath = Annotated[
    str | None,
    typer.Option("--path", help="Where a published corpus is (file, archive, folder), instead of downloading it."),
]
TextKey = Annotated[
    str | None, typer.Option(help="The text's key in JSONL records, its column in tables.", show_default="text")
]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="A recipe (YAML); options go over it.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Any value of the recipe: training.optimizer.learning_rate=2e-3.")
]


def data_values(**values: Any) -> dict[str, Any]:
    """Return the options about text as the section ``data`` of a recipe has them."""
    return values | {"document_separator": unescape(values["document_separator"])}
