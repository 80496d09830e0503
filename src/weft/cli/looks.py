"""What the commands that look inside a model begin with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from weft.cli.app import tell
from weft.errors import UserError

if TYPE_CHECKING:
    from weft.data import SplitName, TokenizedSplit
    from weft.model import WeftModel
    from weft.run import Run


class Opened(NamedTuple):
    """A run that can be looked into, and its model."""

    run: Run
    model: WeftModel

    def text(self, files: Sequence[str] | None, split: str, text_key: str | None) -> TokenizedSplit:
        """Return the text of ``files``, or a split of the run's own; UserError for one that there is not."""
        from weft.reading import read_split

        if split not in ("train", "validation", "test"):
            raise UserError(f"There is no split '{split}': choose train, validation or test.")
        name = cast("SplitName", split)
        return read_split(self.run.folder, self.run.tokenizer, files or (), name, text_key=text_key, tell=tell)


def open_run(run: Path) -> Opened:
    """Return the run in a folder; UserError for a baseline, inside which nothing can be looked at."""
    from weft.inside.lens import check_traceable
    from weft.run import Run

    opened = Run(run)
    return Opened(opened, check_traceable(opened.model, opened.folder))
