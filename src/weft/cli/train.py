"""``weft train`` and ``weft demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from weft.cli.app import Json, app, err, given, out, print_json, unescape
from weft.errors import UserError


@app.command()
def train(
    sources: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads it at run time
        typer.Argument(
            help="Files, folders or globs: .txt, .jsonl, also .gz .xz .bz2 .zst. Or one of enwik8, text8, wikitext-103 "
            "and wikitext-2, or a Hugging Face dataset, hf:NAME.",
            show_default=False,
        ),
    ] = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Where the run goes.", show_default=False)] = ...,  # type: ignore[assignment]
    architecture: Annotated[
        str | None,
        typer.Option(help="A named architecture; see 'weft describe --help'.", show_default="hybrid"),
    ] = None,
    pattern: Annotated[
        str | None, typer.Option(help="A pattern of blocks instead, such as 'qfqfafqf' or '(af)6'.")
    ] = None,
    parameters: Annotated[
        str | None,
        typer.Option(help="Size, embeddings included, such as 2M.", show_default="fits the corpus"),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="bytes, characters, words, bpe, unigram or closed-words.", show_default="bpe"),
    ] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Vocabulary size.", show_default="fits the corpus")] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget: minutes of training alone.", show_default="10")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget: optimizer steps.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Budget: training tokens, such as 20M.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", show_default="0")] = None,
    validation: Annotated[list[str] | None, typer.Option(help="Text to validate on, instead of a split.")] = None,
    test: Annotated[Optional[list[str]], typer.Option(help="Text to test on, instead of a split.")] = None,  # noqa: UP045
    split: Annotated[str | None, typer.Option(help="documents, lines or bytes.", show_default="auto")] = None,
    document_separator: Annotated[
        str | None,
        typer.Option(help="What parts documents in a file ('' for nothing).", show_default=r"\n\n\n"),
    ] = None,
    path: Annotated[
        str | None,
        typer.Option(help="Where a published corpus is (file, archive, folder), instead of downloading it."),
    ] = None,
    text_key: Annotated[str | None, typer.Option(help="The text's key in JSONL records.", show_default="text")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A recipe (YAML); options go over it.")] = None,
    set_values: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any value of the recipe: training.learning_rate=2e-3."),
    ] = None,
    init_from: Annotated[Path | None, typer.Option(help="A run whose model and tokenizer to start from.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model on a folder of text.

    Everything has a default that fits the corpus. The run directory holds the best model, its numbers and a report.
    `WEFT_MAX_STEPS=20` in the environment cuts any budget short, to try things out.
    """
    from weft import api, terminal
    from weft.config import merge
    from weft.study.finish import finish_run
    from weft.training.parallel import is_main
    from weft.training.recipe import parse_settings

    if architecture and pattern:
        raise UserError("--architecture and --pattern exclude each other: keep one.")
    values = given(
        model={"architecture": architecture, "pattern": pattern, "parameters": parameters},
        data={
            "tokenizer": tokenizer,
            "vocab_size": vocab_size,
            "validation": validation,
            "test": test,
            "split": split,
            "document_separator": unescape(document_separator),
            "text_key": text_key,
            "path": path,
        },
        training={"minutes": minutes, "steps": steps, "tokens": tokens, "seed": seed},
    )
    values = merge(values, parse_settings(set_values or []))
    result = api.train(
        sources or (),
        out=out_folder,
        recipe=recipe,
        settings=values,
        init_from=init_from,
        resume=resume,
        overwrite=overwrite,
        listener=terminal.listener(err if as_json else out),
    )
    if not is_main():  # of several processes one speaks and writes
        return
    report = finish_run(out_folder)
    if as_json:
        print_json({"run": str(out_folder), "report": str(report)} | result.to_json())
        return
    out.print(terminal.figures_table(result.test, "Test text, frozen weights"))
    out.print(f"{result.parameters:,} parameters, {result.tokens_per_second:,.0f} tokens per second; report: {report}")


@app.command()
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="Where the run goes.")] = Path("runs/demo"),
    minutes: Annotated[float | None, typer.Option(help="Minutes of training.", show_default="1.3M tokens")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo.")] = False,
    as_json: Json = False,
) -> None:
    """Train, evaluate and generate on the bundled Northern Sami corpus, beside xz and PPMd."""
    from weft import terminal
    from weft.demo import run_demo

    shown = run_demo(out_folder, minutes, overwrite, terminal.listener(err if as_json else out))
    if as_json:
        print_json(shown.to_json())
    else:
        shown.print(out)
