"""The command line: one command per verb. Each imports what it needs inside, so that ``weft --help`` is instant."""

from __future__ import annotations

import signal
import sys

from weft.cli import compare, export, serve, train, transform, use  # noqa: F401 - importing a module adds its commands
from weft.cli.app import app, err
from weft.errors import Interrupted, UserError
from weft.launch import is_main


def main() -> None:
    """Run the command line; tell a user's mistakes in one sentence, with exit code 2."""
    try:
        app()
    except UserError as mistake:
        if is_main():
            from weft import terminal

            terminal.error(err, str(mistake))
        sys.exit(2)
    except Interrupted as stop:
        if is_main():
            err.print(str(stop), markup=False, highlight=False, soft_wrap=True)
        sys.exit(128 + stop.signal_number)
    except BrokenPipeError:  # the reader of a pipe has left
        sys.stderr.close()
        sys.exit(128 + signal.SIGPIPE)
