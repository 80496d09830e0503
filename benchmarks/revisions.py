"""Another revision of this repository beside the one at hand: its sources in a folder, its step in a process.

Both processes want the same cores. Threads that have done their work look for more for about a millisecond before they
sleep, so whoever begins waits until those of the other process are asleep.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.default_step import Batches, write_batches
from benchmarks.harness import Seconds
from benchmarks.machine import ROOT

ASLEEP = 0.01  # seconds, after which the threads of a process that has nothing to do sleep


class NoRevisionError(Exception):
    """There is no such revision here; the message says why in one sentence."""


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Give a folder with the sources of a revision, for as long as it is needed; the repository is only read."""
    try:
        # A name that looks like an option is none.
        found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        packed = _git("archive", "--format=tar", found.decode().strip(), "src")
    except OSError as error:
        raise NoRevisionError(f"--against needs git, which cannot be run here ({error}).") from error
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode(errors="replace").strip().splitlines()
        why = f" (git says: {told[-1]})" if told else ""
        raise NoRevisionError(f"There is no revision '{revision}' to measure against here{why}.") from error
    with tempfile.TemporaryDirectory(prefix="weft-revision-") as folder:
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


class StepProcess:
    """The default step in a process of its own, which takes steps when it is told to.

    ``tree`` is where the sources are, ``settings`` go to :func:`benchmarks.default_step.step_of_today`, and
    ``environment`` is added to this process's. RuntimeError where the process ends, with its last words.
    """

    def __init__(
        self,
        tree: Path,
        batches: Batches,
        settings: Mapping[str, Any],
        *,
        threads: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="weft-step-")
        path = Path(self._folder.name, "batches.npz")
        write_batches(path, batches)
        told = {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": str(threads)}
        orders = json.dumps({**settings, "threads": threads})
        self._log = Path(self._folder.name, "log")
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.default_step", str(path), orders],
                cwd=ROOT,
                env=os.environ | told | dict(environment or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        weft = Path(self._answer()["weft"])
        if not weft.is_relative_to(tree.resolve()):
            self.close()
            raise RuntimeError(f"the process imported {weft} and not the revision's")

    def take(self, steps: int) -> dict[str, list[float]]:
        """Take steps; return their ``losses`` and the ``seconds`` of each."""
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and the answer says why
        return self._answer()

    def __call__(self) -> Seconds:
        """Take one step as a contender of a race (:class:`benchmarks.harness.Race`)."""
        time.sleep(ASLEEP)
        told = self.take(1)
        time.sleep(ASLEEP)
        return Seconds(told["seconds"][0])

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        self._process.wait(timeout=60)
        self._folder.cleanup()

    def __enter__(self) -> StepProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self._process.wait()
        words = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        self.close()
        raise RuntimeError(f"its process ended: {' '.join(words) or 'without a word'}")
