"""Serve a run: an OpenAI-compatible API and a page."""

from __future__ import annotations

from typing import Annotated

import typer

from weft.cli.app import Run, app, err
from weft.cli.options import MANY, Memory


@app.command()
def serve(
    run: Run,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is open to the whole network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, max=MANY, help="Most tokens that a request may ask for.")
    ] = 4096,
    concurrent: Annotated[int, typer.Option(min=1, max=1024, help="Requests worked on at once; others wait.")] = 2,
    memory: Memory = None,
) -> None:
    """Serve a model: OpenAI-compatible completions, and a page that shows text with its surprisal."""
    from weft.serve import require_extra

    require_extra()
    from weft.serve.limits import Limits
    from weft.serve.server import serve as serve_run

    err.print(f"Loading {run} ...", markup=False, highlight=False, soft_wrap=True)
    limits = Limits(new_tokens=max_new_tokens, running=concurrent)
    serve_run(
        run,
        host=host,
        port=port,
        limits=limits,
        memory=memory,
        tell=lambda text: err.print(text, markup=False, highlight=False, soft_wrap=True),
    )
