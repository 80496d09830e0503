"""The command line: one command per verb. Each imports what it needs inside, so that ``weft --help`` is instant."""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from weft.cli import compare, export, inspect, lens, remember, serve, steer, trace, train, transform, use  # noqa: F401 - importing a module adds its commands
from weft.cli.app import app, err
from weft.errors import Interrupted, OldKeyWarning, UserError
from weft.files import UNNAMEABLE, unnameable
from weft.flags import with_flags
from weft.launch import is_main


def main() -> None:
    """Run the command line; tell a user's mistakes in one sentence, with exit code 2."""
    try:
        with _old_keys_as_lines():
            app()
    except UserError as mistake:
        _mistake(str(mistake))
    except Interrupted as stop:
        if is_main():
            err.print(with_flags(str(stop)), markup=False, highlight=False, soft_wrap=True)
        sys.exit(128 + stop.signal_number)
    except BrokenPipeError:  # the reader of a pipe has left
        sys.stderr.close()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in UNNAMEABLE:
            raise
        _mistake(unnameable(error))  # any argument may be a path


@contextmanager
def _old_keys_as_lines() -> Iterator[None]:
    """Print a warning of old keys as a line, by one of several processes; others are Python's as ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", OldKeyWarning)
        show = warnings.showwarning

        def show_line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, OldKeyWarning):
                show(message, category, *place, **more)
            elif is_main():
                err.print(str(message), markup=False, highlight=False, soft_wrap=True)

        warnings.showwarning = show_line
        yield


def _mistake(sentence: str) -> NoReturn:
    """Tell a user's mistake and exit."""
    if is_main():
        from weft import terminal

        terminal.error(err, sentence)
    sys.exit(2)
