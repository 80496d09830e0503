"""The command line, run in this process."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest

from weft.cli import main


class Ran(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    def json(self):
        assert self.code == 0, self.err
        return json.loads(self.out)


def run_weft(*arguments) -> Ran:
    """Run ``weft`` with these arguments in this process; anything but an exit is a failure."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["weft", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def assert_mistake(ran: Ran, *words: str) -> None:
    """One sentence on stderr, exit code 2."""
    assert ran.code == 2, ran
    assert "Traceback" not in ran.err + ran.out
    assert ran.err.startswith("Error: ")
    assert ran.err.count("\n") == 1, ran.err
    for word in words:
        assert word in ran.err, ran.err
