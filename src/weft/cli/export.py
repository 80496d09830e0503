"""``weft export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from weft.cli.app import Json, Run, app, err, out, print_json


@app.command()
def export(
    run: Run,
    format: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Where the files go.", show_default="RUN/onnx")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a model as files that run without Weft and torch, checked against the model.

    `step.onnx` reads one token at a time, `sequence.onnx` any number of them; both take the state and give it back.
    """
    from weft.export import export as export_run

    with err.status("Loading") as status:
        exported = export_run(run, out_folder, format=format, progress=lambda what: status.update(f"{what} ..."))
    if as_json:
        print_json(exported.to_json())
        return
    table = Table("program", "texts", "tokens", "read", "largest difference", title="Logits, onnxruntime and weft")
    for check in exported.checks:
        table.add_row(
            check.program, str(check.batch), f"{check.tokens:,}", check.what, f"{check.largest_difference:.1e}"
        )
    out.print(table)
    size = sum(exported.files.values())
    out.print(f"{exported.folder}: {size:,} bytes in {len(exported.files)} files", highlight=False, soft_wrap=True)
