"""``weft train`` and ``weft demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from weft.cli.app import Json, app, err, given, out, print_json
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

if TYPE_CHECKING:
    from weft.evaluation.compressors import Packed


@app.command()
def train(
    sources: Sources = None,
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
        typer.Option(help="Size, embeddings included, such as 2M.", show_default="fits the corpus and the time"),
    ] = None,
    tokenizer: Tokenizer = None,
    vocab_size: VocabSize = None,
    minutes: Annotated[float | None, typer.Option(help="Budget: minutes of training alone.", show_default="10")] = None,
    steps: Annotated[int | None, typer.Option(help="Budget: optimizer steps.")] = None,
    tokens: Annotated[str | None, typer.Option(help="Budget: training tokens, such as 20M.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.", show_default="0")] = None,
    validation: Validation = None,
    test: Test = None,
    split: Split = None,
    document_separator: DocumentSeparator = None,
    path: CorpusPath = None,
    text_key: TextKey = None,
    recipe: RecipeFile = None,
    set_values: Settings = None,
    init_from: Annotated[
        Path | None,
        typer.Option(
            help="A run whose model and tokenizer to start from; what is not given is then as usual, not made to fit."
        ),
    ] = None,
    init_block: Annotated[
        str | None,
        typer.Option(
            help="With --init-from and another --pattern: the first of that run's blocks to take, or 'best'.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="A run to learn from, whose tokenizer is taken: distillation.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    compressors: Annotated[
        bool,
        typer.Option(
            "--compressors/--no-compressors",
            help="Show beside the test figure what xz and PPMd need for the same text, after the training text (at "
            "most 8 MB of each).",
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Train a model on a folder of text.

    Everything has a default that fits the corpus and the time. The run directory holds the best model, its numbers and
    a report.
    `WEFT_MAX_STEPS=20` in the environment cuts any budget short, to try things out.
    """
    from weft import api, terminal
    from weft.config import merge
    from weft.launch import is_main
    from weft.records import REPORT
    from weft.training.recipe import parse_settings

    if architecture and pattern:
        raise UserError("--architecture and --pattern exclude each other: keep one.")
    block = int(init_block) if init_block and init_block.isdecimal() else init_block
    values = given(
        model={"architecture": architecture, "pattern": pattern, "parameters": parameters},
        data=data_values(
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            validation=validation,
            test=test,
            split=split,
            document_separator=document_separator,
            text_key=text_key,
            path=path,
        ),
        training={
            "minutes": minutes,
            "steps": steps,
            "tokens": tokens,
            "seed": seed,
            "start": {"block": block} if init_block else None,
            "methods": {"distillation": {"run": str(teacher)}} if teacher else None,
        },
    )
    values = merge(values, parse_settings(set_values or []))
    console = err if as_json else out
    packed: list[Packed | None] = []
    result = api.train(
        sources or (),
        out=out_folder,
        recipe=recipe,
        settings=values,
        init_from=init_from,
        resume=resume,
        overwrite=overwrite,
        listener=terminal.listener(console),
        finish=lambda _: packed.append(_finish(out_folder, compressors, console)),
    )
    if not is_main():  # of several processes one speaks
        return
    report = out_folder / REPORT
    beside = packed[0]
    if as_json:
        told = beside.to_json() if beside else {}
        print_json({"run": str(out_folder), "report": str(report)} | result.to_json() | told)
        return
    out.print(terminal.metrics_table(result.test, "Test text, frozen weights"))
    if beside:
        terminal.print_beside(out, beside, "Beside compressors", result.test.bits_per_byte)
    out.print(f"{result.parameters:,} parameters, {result.tokens_per_second:,.0f} tokens per second; report: {report}")


def _finish(run: Path, compressors: bool, console: Console) -> Packed | None:
    """Write report and card; return what compressors need for the test text, measured here if that is asked for."""
    from weft import api, terminal
    from weft.reports.run.finish import finish_run, read_compressors, save_compressors

    packed = read_compressors(run)
    try:
        if compressors and packed is None:
            terminal.listener(console).message(
                "Compressing the test text with xz and PPMd, for comparison (--no-compressors leaves it out) ..."
            )
            with terminal.packing(console) as progress:
                packed = api.pack(run, progress=progress)
            save_compressors(run, packed)
    finally:  # the model and its figures stand, even if somebody does not wait for the compressors
        finish_run(run)
    return packed


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
