"""Runs as processes of their own, a few at a time, so that none inherits another's memory or threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from weft.errors import Interrupted
from weft.files import json_object
from weft.records import METRICS
from weft.signals import SIGNALS, stop_signals

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 60.0  # that an interrupted run has to save itself
# The signal that an exit code tells of: Python says it as a negative number, a shell adds 128.
STOPPED = {-number: number for number in SIGNALS} | {128 + number: number for number in SIGNALS}


@dataclass
class Job:
    """A run to train: the folder it leaves, and the command's options."""

    name: str
    run: Path
    options: Sequence[str]
    threads: int
    process: subprocess.Popen[str] | None = field(default=None, init=False)
    log: IO[str] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start the command; what it prints goes to a log beside the run's folder."""
        command = [sys.executable, "-m", "weft", "train", "--out", str(self.run), "--no-compressors", *self.options]
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.log = self.log_path.open("w", encoding="utf-8")
        threads = str(self.threads)
        self.process = subprocess.Popen(
            command,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            start_new_session=True,  # a Ctrl-C comes to us, who pass it on
        )

    @property
    def log_path(self) -> Path:
        """Where the command's words go."""
        return self.run.with_name(f"{self.run.name}.log")

    def progress(self) -> dict[str, Any]:
        """Return the last record of training in the run's metrics; empty before the first."""
        try:
            lines = (self.run / METRICS).read_bytes().rstrip().split(b"\n")
        except OSError:
            return {}
        # The last line may be half written, and a few of other events may stand behind the one that is wanted.
        for line in reversed(lines[-10:]):
            record = json_object(line) or {}
            if record.get("event") == "train":
                return record
        return {}

    def complaint(self, code: int) -> str:
        """Return in one line why the command failed, as it said it; ``code`` is its exit code."""
        if code < 0:
            why = " (memory may have run out)" if code == -signal.SIGKILL else ""
            return f"Ended by {signal.Signals(-code).name}{why}; the log is '{self.log_path}'."
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").strip().split("\n")
        for line in reversed(lines):
            if line.startswith("Error: "):
                return line.removeprefix("Error: ")
        return lines[-1] or f"Ended with exit code {code} and without a word."


def run_jobs(
    jobs: Sequence[Job], at_once: int, ended: Callable[[Job, int], None], tick: Callable[[list[Job]], None]
) -> None:
    """Run all jobs, ``at_once`` at a time; call ``ended`` with each exit code, and ``tick`` every so often.

    A signal to stop, to us or to a job, stops all: the running jobs save themselves, then :class:`Interrupted` is
    raised.
    """
    waiting = list(jobs)
    running: list[Job] = []
    with stop_signals() as received:
        try:
            while (waiting or running) and not received:
                while waiting and len(running) < at_once:
                    running.append(waiting.pop(0))
                    running[-1].start()
                tick(running)
                time.sleep(POLL_SECONDS)
                for job, code in _over(running):
                    running.remove(job)
                    if code in STOPPED:
                        received.append(STOPPED[code])
                    else:
                        ended(job, code)
        finally:  # whatever went wrong, nobody trains on unwatched
            _stop(running)
        check_stopped(received)


def check_stopped(received: Sequence[int]) -> None:
    """Raise :class:`Interrupted` where a signal was received."""
    if received:
        raise Interrupted("Stopped; what is trained is kept: give the same command again to go on.", received[0])


def _over(running: list[Job]) -> Iterator[tuple[Job, int]]:
    """Yield the jobs that have ended, with their exit codes."""
    for job in list(running):
        assert job.process is not None
        code = job.process.poll()
        if code is not None:
            _close(job)
            yield job, code


def _stop(running: list[Job]) -> None:
    """Ask all jobs to stop, wait until they have saved themselves, and kill those that take too long."""
    for job in running:
        assert job.process is not None
        job.process.terminate()  # not SIGINT, which a shell lets its background jobs ignore
    for job in running:
        assert job.process is not None
        try:
            job.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            job.process.kill()
            job.process.wait()
        _close(job)


def _close(job: Job) -> None:
    if job.log:
        job.log.close()
