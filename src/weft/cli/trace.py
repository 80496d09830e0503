"""What stands inside a model while it reads a text, for other people's tools: ``weft trace``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from weft.cli import options
from weft.cli.app import Json, Run, app, err, out, print_json
from weft.cli.looks import open_run
from weft.errors import UserError


@app.command()
def trace(
    run: Run,
    files: options.ScoredFiles = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="A new folder, for the shards and their index.", show_default=False)
    ] = None,
    sites: Annotated[str, typer.Option(help="Names, also with depths: residual,cell.2 (docs/inside.md).")] = "residual",
    dtype: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
    tokens: Annotated[
        str | None, typer.Option(help="Most tokens that are read, such as 1M.", show_default="all")
    ] = None,
    split: options.ScoredSplit = "test",
    text_key: options.ScoredTextKey = None,
    as_json: Json = False,
) -> None:
    """Write what stands at the sites of a model while it reads a text, as safetensors."""
    from weft import terminal
    from weft.evaluation.scoring import first_part
    from weft.inside.lens import weights_identity
    from weft.inside.shards import write_trace
    from weft.pattern import parse_count

    if folder is None:
        raise UserError("Say where the shards go: --out.")
    opened = open_run(run)
    tokenizer = opened.run.tokenizer
    text = opened.text(files, split, text_key)
    if tokens is not None:
        text = first_part(text, int(parse_count(tokens)), tokenizer)
    with terminal.scoring(err) as watch:
        index = write_trace(
            opened.model,
            text,
            [name.strip() for name in sites.split(",") if name.strip()],
            folder,
            boundary_id=tokenizer.boundary_id,
            weights=weights_identity(opened.run.folder),
            dtype=dtype,
            watch=watch,
        )
    if as_json:
        print_json(index)
        return
    out.print(
        f"{index['tokens']:,} tokens, {len(index['sites'])} sites, {len(index['shards'])} shards: {folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
