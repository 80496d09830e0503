"""``weft compare``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from weft.cli.app import Json, app, err, given, out, print_json, renamed_option
from weft.cli.options import (
    CorpusPath,
    DocumentSeparator,
    RecipeFile,
    Settings,
    Sources,
    Split,
    Test,
    TextKey,
    Tokenizer,
    Validation,
    VocabSize,
    data_values,
)
from weft.errors import UserError

Number = TypeVar("Number", int, float)
ALL = "transformer,transformer-xl,par,attn-qrnn,sha-qrnn,qrnn,hybrid"


@app.command()
def compare(
    sources: Sources = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Where the study goes.", show_default=False)] = ...,  # type: ignore[assignment]
    architectures: Annotated[
        str | None,
        typer.Option(help="Names or patterns, parted by commas.", show_default=f"{ALL}; none, with --variants"),
    ] = None,
    variants: Annotated[
        Path | None, typer.Option(help="A YAML file: names, and what each changes of the recipe.", show_default=False)
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="A baseline from outside the project as well: llama.", show_default=False)
    ] = None,
    parameters: Annotated[str, typer.Option(help="Size of each, embeddings included.")] = "2M",
    minutes: Annotated[float | None, typer.Option(help="Budget of each run: minutes of training alone.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Budget of each run: training tokens, such as 2M.")] = None,
    learning_rates: Annotated[str, typer.Option(help="Learning rates to try, parted by commas.")] = "2e-3,4e-3,8e-3",
    seeds: Annotated[str, typer.Option(help="Seeds, parted by commas; the first finds the learning rate.")] = "0",
    top: Annotated[int | None, typer.Option(min=1, help="Give the other seeds to the best N only.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, with --tokens.")] = 1,
    tokenizer: Tokenizer = None,
    vocab_size: VocabSize = None,
    validation: Validation = None,
    test: Test = None,
    split: Split = None,
    document_separator: DocumentSeparator = None,
    path: CorpusPath = None,
    text_key: TextKey = None,
    recipe: RecipeFile = None,
    set_values: Settings = None,
    peer: Annotated[list[str] | None, typer.Option(hidden=True)] = None,  # the name of --baseline in 0.1.0
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the study in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Compare architectures at equal parameters and equal budget, each at its best learning rate.

    Given again, the command goes on where it was stopped. The study holds a table, a report and every run.
    """
    from weft import api, terminal
    from weft.config import merge
    from weft.training.recipe import parse_settings

    if peer:
        baseline = renamed_option("--peer", peer, "--baseline", baseline)
    settings = merge(
        given(
            data=data_values(
                tokenizer=tokenizer,
                vocab_size=vocab_size,
                validation=validation,
                test=test,
                split=split,
                document_separator=document_separator,
                text_key=text_key,
                path=path,
            )
        ),
        parse_settings(set_values or []),
    )
    comparison = api.compare(
        sources or (),
        out=out_folder,
        architectures=_names(("" if variants else ALL) if architectures is None else architectures),
        variants=variants,
        baselines=baseline or (),
        parameters=parameters,
        minutes=minutes,
        tokens=tokens,
        learning_rates=_numbers(learning_rates, float, "--learning-rates takes numbers"),
        seeds=_numbers(seeds, int, "--seeds takes whole numbers"),
        top=top,
        jobs=jobs,
        recipe=recipe,
        settings=settings,
        overwrite=overwrite,
        listener=terminal.study_listener(err if as_json else out),
    )
    if as_json:
        print_json({"report": str(comparison.report)} | comparison.results)
        return
    out.print(terminal.comparison_table(comparison.results))
    out.print(f"report: {comparison.report}", highlight=False, soft_wrap=True)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str, kind: Callable[[str], Number], rule: str) -> list[Number]:
    """Read numbers parted by commas; UserError, which begins with ``rule``, where one is none."""
    numbers = []
    for part in text.split(","):
        try:
            numbers.append(kind(part))
        except ValueError:
            raise UserError(f"{rule} parted by commas, not '{part.strip()}'.") from None
    return numbers
