"""What each block of a model is worth, and how far back it looks: ``weft inspect``."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli import options
from weft.cli.app import Json, Run, app, err, out, print_json, tell
from weft.errors import UserError


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
    from weft.inside.lens import check_traceable
    from weft.reading import read_split
    from weft.run import Run

    if split not in ("train", "validation", "test"):
        raise UserError(f"There is no split '{split}': choose train, validation or test.")
    opened = Run(run)
    model = check_traceable(opened.model, opened.folder)
    tokenizer = opened.tokenizer
    text = read_split(opened.folder, tokenizer, files or (), split, text_key=text_key, tell=tell)  # type: ignore[arg-type]
    with terminal.scoring(err) as watch:
        found = inspected(model, first_part(text, tokens, tokenizer), boundary_id=tokenizer.boundary_id, watch=watch)
    if as_json:
        print_json(found.to_json())
        return
    for table in terminal.inspection_tables(found):
        out.print(table)
