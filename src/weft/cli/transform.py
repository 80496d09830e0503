"""What makes one run of another without training: ``weft merge``, ``weft unshare``, ``weft tensorise``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weft.cli.app import Json, Run, app, out, print_json

if TYPE_CHECKING:
    from weft import api

OutFolder = Annotated[Path, typer.Option("--out", help="Where the new run goes.", show_default=False)]


@app.command()
def merge(run: Run, out_folder: OutFolder, as_json: Json = False) -> None:
    """Multiply structured maps out ('{ }' too): a run with dense maps that says the same.

    Dense maps are simpler to take elsewhere, and faster where a device is slowed by the number of its operations.
    """
    from weft import api

    _say(api.merge_factors(run, out_folder), as_json)


@app.command()
def unshare(run: Run, out_folder: OutFolder, as_json: Json = False) -> None:
    """Give each application of a shared block ('[ ]') a copy of its own: a run that says the same.

    Training on from it (--init-from) lets the copies part.
    """
    from weft import api

    _say(api.unshare(run, out_folder), as_json)


@app.command()
def tensorise(
    run: Run,
    out_folder: OutFolder,
    bond: Annotated[
        int | None, typer.Option(min=1, help="The largest bond: fewer parameters, and an error, which is told.")
    ] = None,
    adapter: Annotated[int, typer.Option(min=0, help="The rank of what each map can learn beside.")] = 0,
    as_json: Json = False,
) -> None:
    """Write dense maps as matrix products (MPO): exactly, or with smaller bonds.

    Training on with --set training.methods.only.parameters=auxiliary leaves the central tensors, most of the
    parameters, as they are.
    """
    from weft import api

    _say(api.tensorise(run, out_folder, bond=bond, adapter=adapter), as_json)


def _say(made: api.Made, as_json: bool) -> None:
    if as_json:
        print_json(made.to_json())
        return
    error = "" if made.error is None else f"; largest relative error of a map: {made.error:.2g}"
    out.print(
        f"{made.run}: {made.parameters:,} parameters, {made.before:,} before{error}", highlight=False, soft_wrap=True
    )
