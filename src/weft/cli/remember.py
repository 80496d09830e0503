"""Give a run a memory of text, or more of it: ``weft remember``."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli import options
from weft.cli.app import Json, Run, app, err, out, print_json, tell


@app.command()
def remember(
    run: Run,
    files: Annotated[
        list[str] | None,
        typer.Argument(help="More text to remember; without, the run's training text.", show_default=False),
    ] = None,
    only: Annotated[bool, typer.Option("--only", help="Remember these files alone.")] = False,
    text_key: options.ScoredTextKey = None,
    as_json: Json = False,
) -> None:
    """Let a run remember text word for word, without training: its training text, or newer text beside it.

    What followed the same words there counts when the run scores and writes.
    """
    from weft import api, terminal, words

    with terminal.scoring(err) as watch:
        made = api.remember(run, files or (), only=only, text_key=text_key, watch=watch, tell=tell)
    if as_json:
        print_json(made.to_json())
        return
    names = ", ".join(part.name for part in made.parts)
    out.print(
        f"{made.run} remembers {made.tokens:,} tokens ({names}), {words.size(made.bytes)}, made in "
        f"{made.seconds:.1f} seconds.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if bits := made.validation_bits_per_byte:
        out.print(
            f"Validation text: {bits[0]:.4f} bits per byte with the weights alone, {bits[1]:.4f} with the memory.",
            highlight=False,
        )
