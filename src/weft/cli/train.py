"""``weft train`` and ``weft demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli import options
from weft.cli.app import Json, app, err, given, out, print_json

if TYPE_CHECKING:
    from rich.console import Console

    from weft.evaluation.compressors import Packed
    from weft.run import Run


@app.command()
def train(
    sources: options.Sources = None,
    out_folder: options.OutFolder = ...,  # type: ignore[assignment]
    architecture: options.Architecture = None,
    pattern: options.Pattern = None,
    parameters: options.Parameters = None,
    tokenizer: options.Tokenizer = None,
    vocab_size: options.VocabSize = None,
    minutes: options.Minutes = None,
    steps: options.Steps = None,
    tokens: options.Tokens = None,
    seed: options.Seed = None,
    validation: options.Validation = None,
    test: options.Test = None,
    split: options.Split = None,
    document_separator: options.DocumentSeparator = None,
    path: options.CorpusPath = None,
    text_key: options.TextKey = None,
    recipe: options.RecipeFile = None,
    set_values: options.Settings = None,
    init_from: options.InitFrom = None,
    init_block: options.InitBlock = None,
    teacher: options.Teacher = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    compressors: options.CompareWithCompressors = True,
    as_json: Json = False,
) -> None:
    """Train a model on a folder of text.

    Everything has a default that fits the corpus and the time. The run directory holds the best model, its numbers and
    a report.
    `WEFT_MAX_STEPS=20` in the environment cuts any budget short, to try things out.
    """
    from weft import api, terminal
    from weft.config import merge
    from weft.training.recipe import parse_settings

    model = options.model_values(architecture, pattern, parameters)
    data = options.data_values(
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        validation=validation,
        test=test,
        split=split,
        document_separator=document_separator,
        text_key=text_key,
        path=path,
    )
    budget = {"minutes": minutes, "steps": steps, "tokens": tokens, "seed": seed}
    training = budget | options.start_values(init_block, teacher)
    values = given(model=model, data=data, training=training)
    console = err if as_json else out
    run = api.train(
        sources or (),
        out=out_folder,
        recipe=recipe,
        settings=merge(values, parse_settings(set_values or [])),
        init_from=init_from,
        resume=resume,
        overwrite=overwrite,
        listener=terminal.listener(console),
        finish=(lambda run: _compress(run, console)) if compressors else None,
    )
    _show(run, as_json)


def _compress(run: Run, console: Console) -> None:
    """Leave with the run's results what compressors need for its test text, unless that is known."""
    from weft import terminal
    from weft.reports.run.finish import read_compressors, save_compressors

    if read_compressors(run.folder) is not None:
        return
    terminal.listener(console).message(
        "Compressing the test text with xz and PPMd, for comparison (--no-compressors leaves it out) ..."
    )
    with terminal.packing(console) as progress:
        packed = run.pack(progress=progress)
    save_compressors(run.folder, packed)


def _show(run: Run, as_json: bool) -> None:
    """Show what a run has come to; of several processes one speaks."""
    from weft import terminal
    from weft.launch import is_main
    from weft.reports.run.finish import read_compressors

    if not is_main():
        return
    result = run.results
    beside: Packed | None = read_compressors(run.folder)
    if as_json:
        told = beside.to_json() if beside else {}
        print_json({"run": str(run.folder), "report": str(run.report)} | result.to_json() | told)
        return
    out.print(terminal.metrics_table(result.test, "Test text"))
    if beside:
        terminal.print_beside(out, beside, "Beside compressors", result.test)
    speed = f"{result.tokens_per_second:,.0f} tokens per second"
    out.print(f"{result.parameters:,} parameters, {speed}; report: {run.report}")


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
