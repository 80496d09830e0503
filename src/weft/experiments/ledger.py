"""What the trials of a search have come to: one JSON file that is written as each ends."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from weft.errors import DamagedError, UserError
from weft.experiments.runner import Outcome, Runner
from weft.files import json_object, remove, write_atomic
from weft.training.result import TrainingResult


class Ledger:
    """Records of trials by their names, in ``runs`` of a JSON file; ``told`` is the whole file.

    What it holds is not trained again, even where the run directories are gone.
    """

    def __init__(self, path: Path, told: Mapping[str, Any] | None = None) -> None:
        self.path = path
        saved: dict[str, Any] = {}
        if path.is_file():
            found = json_object(path.read_bytes())
            if found is None:
                raise DamagedError(f"'{path}' is damaged: restore it, or move it away to train its runs anew.")
            saved = found
        self.told: dict[str, Any] = {"runs": {}, **saved, **(told or {})}

    @property
    def runs(self) -> dict[str, Any]:
        """The record of each trial that has ended."""
        runs: dict[str, Any] = self.told["runs"]
        return runs

    def write(self) -> None:
        """Write the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, json.dumps(self.told, indent=1, ensure_ascii=False) + "\n")

    def train(
        self,
        runner: Runner,
        recipes: Mapping[str, Mapping[str, Any]],
        record: Callable[[str, TrainingResult], Mapping[str, Any]],
        keep: Container[str] = (),
    ) -> None:
        """Train the trials of ``recipes``, values by name, that are not in the ledger, and write the record of each.

        ``record`` makes it of a trial's name and result, while the run is still there; then the run goes, unless
        ``keep`` has its name. Raises UserError where a run fails.
        """
        folders = {}
        for name in recipes:
            if name not in self.runs:
                folders[folder_name(name)] = name

        def ended(folder: str, outcome: Outcome) -> None:
            name = folders[folder]
            if outcome.result is None:
                raise UserError(f"'{name}' failed: {outcome.failure} (delete '{outcome.run}' to try it again)")
            self.runs[name] = dict(record(name, outcome.result))
            self.write()
            if name not in keep:
                remove(outcome.run)

        # First those that ended, while nobody was there to write it.
        for folder in folders:
            outcome = runner.outcome(folder)
            if outcome is not None:
                ended(folder, outcome)
        waiting = {}
        for folder, name in folders.items():
            if name not in self.runs:
                waiting[folder] = recipes[name]
        runner.train(waiting, ended)


def folder_name(name: str) -> str:
    """Return ``name`` as that of a folder; one that does not fit has a checksum, as '(qf)2' and '[qf]2' differ."""
    plain = re.sub("[^A-Za-z0-9.-]+", "_", name)[:80]
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"
