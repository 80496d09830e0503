"""What each block of a model is worth, and how far back it looks: ``weft inspect``."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli import options
from weft.cli.app import Json, Run, app, err, out, print_json
from weft.cli.looks import open_run


@app.command()
def inspect(
    run: Run,
    files: options.ScoredFiles = None,
    split: options.ScoredSplit = "test",
    tokens: Annotated[int, typer.Option(min=1, max=options.MANY, help="Most tokens that are read.")] = 20_000,
    text_key: options.ScoredTextKey = None,
    as_json: Json = False,
) -> None:
    """Show what each block is worth, how far back it looks, and how much of the past the model uses."""
    from weft import terminal
    from weft.evaluation.scoring import first_part
    from weft.inside.inspect import inspect as inspected

    opened = open_run(run)
    tokenizer = opened.run.tokenizer
    text = opened.text(files, split, text_key)
    with terminal.scoring(err) as watch:
        found = inspected(
            opened.model, first_part(text, tokens, tokenizer), boundary_id=tokenizer.boundary_id, watch=watch
        )
    if as_json:
        print_json(found.to_json())
        return
    for table in terminal.inspection_tables(found):
        out.print(table)
