"""What every depth of a model would say of the next token: ``weft lens``."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli import options
from weft.cli.app import Json, Run, app, err, out, print_json, tell
from weft.cli.looks import open_run
from weft.errors import UserError


@app.command()
def lens(
    run: Run,
    files: options.ScoredFiles = None,
    split: options.ScoredSplit = "test",
    text: Annotated[
        str | None, typer.Option(help="A text: what each depth says of each of its tokens.", show_default=False)
    ] = None,
    text_key: options.ScoredTextKey = None,
    as_json: Json = False,
) -> None:
    """Show what every depth of a model would say of the next token, if its stack ended there.

    In bits per byte, by the logit lens and by a tuned lens, which is trained when it is first asked for and kept
    in the run.
    """
    from weft import terminal
    from weft.inside import lens as lenses

    if text is not None and (files or not text):
        raise UserError("--text is a text of its own: give some, and leave the files out.")
    opened = open_run(run)
    model, folder, tokenizer = opened.model, opened.run.folder, opened.run.tokenizer
    scored = opened.text(files, split, text_key) if text is None else None

    found = lenses.load_lens(folder, model, tell)
    if found is None:
        lenses.make_folder(folder)
        tell("Training the lens ...")
        train, validation = (opened.text(None, part, None) for part in ("train", "validation"))
        with terminal.scoring(err, "training text for the lens") as watch:
            found = lenses.train_lens(model, tokenizer, train, validation, watch=watch)
        lenses.save_lens(found, folder)

    if scored is None:
        assert text is not None
        rows = lenses.lens_grid(model, found, tokenizer, text)
        if as_json:
            print_json([{"token": row.token, "depths": [guess._asdict() for guess in row.guesses]} for row in rows])
        else:
            out.print(terminal.lens_grid(rows))
        return
    with terminal.scoring(err) as watch:
        figures = lenses.lens_figures(model, found, scored, boundary_id=tokenizer.boundary_id, watch=watch)
    if as_json:
        print_json(figures.to_json())
    else:
        out.print(terminal.lens_table(figures))
