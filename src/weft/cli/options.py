"""The options of commands that have many, and those that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from weft.cli.app import unescape
from weft.errors import UserError

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

# A run.
OutFolder = Annotated[Path, typer.Option("--out", help="Where the run goes.", show_default=False)]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]

# A model.
Architecture = Annotated[
    str | None,
    typer.Option(help="A named architecture; see 'weft describe --help'.", show_default="hybrid"),
]
Pattern = Annotated[str | None, typer.Option(help="A pattern of blocks instead, such as 'qfqfafqf' or '(af)6'.")]
Parameters = Annotated[
    str | None,
    typer.Option(help="Size, embeddings included, such as 2M.", show_default="fits the corpus and the time"),
]

# Training.
Minutes = Annotated[float | None, typer.Option(help="Budget: minutes of training alone.", show_default="10")]
Steps = Annotated[int | None, typer.Option(help="Budget: optimizer steps.")]
Tokens = Annotated[str | None, typer.Option(help="Budget: training tokens, such as 20M.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.", show_default="0")]
InitFrom = Annotated[
    Path | None,
    typer.Option(help="A run whose model and tokenizer to start from; omitted options then keep their defaults."),
]
InitBlock = Annotated[
    str | None,
    typer.Option(
        help="With --init-from and another --pattern: the first of that run's blocks to take, or 'best'.",
        show_default=False,
    ),
]
Teacher = Annotated[Path | None, typer.Option(help="A run to learn from, whose tokenizer is taken: distillation.")]
CompareWithCompressors = Annotated[
    bool,
    typer.Option(
        "--compressors/--no-compressors",
        help="Show beside the test figure what xz and PPMd need for the same text, after the training text (at "
        "most 8 MB of each).",
    ),
]

# Scoring.
ScoredFiles = Annotated[list[str] | None, typer.Argument(help="Text to score instead of a split.", show_default=False)]
ScoredSplit = Annotated[str, typer.Option(help="train, validation or test.")]
Window = Annotated[
    int | None,
    typer.Option(min=1, max=MANY, help="Tokens that attention reaches back, instead of the trained number."),
]
Steer = Annotated[
    list[str] | None,
    typer.Option(help="NAME=MULTIPLIER of a vector that 'weft steer' made; several add up.", show_default=False),
]
Memory = Annotated[
    bool | None,
    typer.Option(
        "--memory/--no-memory",
        help="Count what followed the same tokens in the run's memory of text.",
        show_default="where the run has one",
    ),
]
Applications = Annotated[
    int | None,
    typer.Option(min=1, max=MANY, help="How often blocks in '[ ]' are applied, instead of the trained number."),
]
Adapt = Annotated[
    bool,
    typer.Option(
        "--adapt",
        help="Dynamic evaluation: learn from what was scored, on copies, and count what it said; takes about ten "
        "times as long.",
    ),
]
ScoredTextKey = Annotated[
    str | None, typer.Option(help="The text's key in JSONL records, or its column.", show_default="the run's")
]
PrintTokens = Annotated[bool, typer.Option("--tokens", help="Print each token with its surprisal in bits.")]
Compressors = Annotated[
    bool,
    typer.Option(
        "--compressors",
        help="Show what xz and PPMd need for the same text, after the run's training text (8 MB at most of each).",
    ),
]


def model_values(architecture: str | None, pattern: str | None, parameters: str | None) -> dict[str, Any]:
    """Return the options about the model as the section ``model`` of a recipe has them."""
    if architecture and pattern:
        raise UserError("--architecture and --pattern exclude each other: keep one.")
    return {"architecture": architecture, "pattern": pattern, "parameters": parameters}


def start_values(init_block: str | None, teacher: Path | None) -> dict[str, Any]:
    """Return the options about other runs as the section ``training`` of a recipe has them."""
    values: dict[str, Any] = {}
    if init_block:
        values["start"] = {"block": int(init_block) if init_block.isdecimal() else init_block}
    if teacher:
        values["methods"] = {"distillation": {"run": str(teacher)}}
    return values


def data_values(**values: Any) -> dict[str, Any]:
    """Return the options about text as the section ``data`` of a recipe has them."""
    return values | {"document_separator": unescape(values["document_separator"])}


def multipliers(given: list[str] | None) -> dict[str, float]:
    """Return the multipliers by the names of vectors, from NAME=MULTIPLIER; UserError for anything else."""
    found: dict[str, float] = {}
    for text in given or ():
        name, equals, number = text.partition("=")
        try:
            multiplier = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise UserError(f"--steer takes a vector's name and a number, such as slovene=1.5, not '{text}'.")
        if name in found:
            raise UserError(f"--steer names '{name}' twice: give each vector once.")
        found[name] = multiplier
    return found
