"""Vectors that turn a model's writing: ``weft steer``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from weft.cli.app import Json, Run, app, out, print_json, tell
from weft.cli.looks import open_run
from weft.errors import UserError

MULTIPLIERS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)


@app.command()
def steer(
    run: Run,
    pairs: Annotated[
        Path | None,
        typer.Option(help="JSON records of two texts each (docs/inside.md); without, the vectors are listed."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The vector's name in the run.", show_default=False)] = None,
    test: Annotated[
        Path | None, typer.Option(help="Other pairs: what the vector does to them, by multiplier.", show_default=False)
    ] = None,
    sites: Annotated[str, typer.Option(help="residual, state or both: what is steered.")] = "residual",
    at: Annotated[str, typer.Option(help="last or mean: the last token of each text, or all of them.")] = "last",
    method: Annotated[str, typer.Option(help="mean (difference of means) or lda.")] = "mean",
    as_json: Json = False,
) -> None:
    """Make a vector that turns a model's writing from one kind of text to another, from pairs of texts.

    `weft generate RUN --steer NAME=1.5` writes with it.
    """
    from weft import terminal
    from weft.inside import vectors
    from weft.inside.pairs import read_pairs
    from weft.run import Run

    opened = Run(run)
    if pairs is None:
        if name or test:
            raise UserError("Give the pairs that the vector is made from: --pairs.")
        names = vectors.vector_names(opened.folder)
        if as_json:
            print_json(names)
        else:
            out.print("\n".join(names) or "No vectors: make one with --pairs and --name.", highlight=False)
        return
    for option, value, known in (
        ("--sites", sites, vectors.Sites),
        ("--at", at, vectors.Place),
        ("--method", method, vectors.Method),
    ):
        if value not in get_args(known):
            raise UserError(f"There is no {option} '{value}': choose from {', '.join(get_args(known))}.")
    if name is None:
        raise UserError("Name the vector: --name.")
    vectors.check_name(name)
    read = read_pairs(pairs)
    tested = read_pairs(test) if test else []
    if shared := len(set(read) & set(tested)):
        tell(f"{shared} pair{'s' * (shared != 1)} of '{test}' stand in '{pairs}', too.")
    model = open_run(run).model
    vector = vectors.make_vector(
        model,
        opened.tokenizer,
        read,
        name,
        sites=cast("vectors.Sites", sites),
        at=cast("vectors.Place", at),
        method=cast("vectors.Method", method),
    )
    path = vectors.save_vector(vector, opened.folder)
    figures = vectors.figures(model, opened.tokenizer, vector, tested, MULTIPLIERS) if tested else []
    if as_json:
        print_json({"name": name, "file": str(path), "depth": vector.depth, "pairs": len(read), "test": figures})
        return
    out.print(
        f"'{name}', from {len(read)} pairs, added at depth {vector.depth} of {model.depth}: {path}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if figures:
        out.print(terminal.steering_table(figures))
