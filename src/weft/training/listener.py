"""Who hears of a run's progress: the metrics file always, a terminal or TensorBoard where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from weft.errors import UserError
from weft.evaluation.progress import Progress
from weft.files import disk_errors, json_object, set_aside, write_atomic
from weft.records import METRICS, TENSORBOARD


class Status(NamedTuple):
    """Where a run stands. ``done`` is the used part of the budget, ``seconds`` training time."""

    step: int
    done: float
    seconds: float
    tokens_per_second: float
    train: float  # bits per byte, mean since the last log line
    validation: float  # bits per byte, NaN before the first
    best: float


class Listener(Protocol):
    """What a caller of the training loop may want to hear."""

    def message(self, text: str) -> None:
        """Hear of something in words."""

    def status(self, status: Status) -> None:
        """Hear where the run stands: after every step, or on a GPU every second or ``log_every`` steps."""

    def event(self, record: dict[str, Any]) -> None:
        """Hear of everything that is written to ``metrics.jsonl``."""

    def scoring(self, text: str, progress: Progress) -> None:
        """Hear how far the scoring of the validation or the test ``text`` is, when the training is done."""

    def finish(self) -> None:
        """Hear that the loop has ended, however it ended, or the scoring of a text."""


class Silent:
    """A listener that says nothing."""

    def message(self, text: str) -> None:
        """Say nothing."""

    def status(self, status: Status) -> None:
        """Say nothing."""

    def event(self, record: dict[str, Any]) -> None:
        """Say nothing."""

    def scoring(self, text: str, progress: Progress) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""


class MetricsWriter:
    """``metrics.jsonl`` in the run directory, one record a line, and TensorBoard if asked for."""

    def __init__(self, run: Path, *, tensorboard: bool) -> None:
        self.path = run / METRICS
        self.writer = _tensorboard() if tensorboard else None
        self.board: Any = None

    def write(self, record: dict[str, Any]) -> None:
        """Append a record."""
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        if self.writer and "step" in record:
            self.board = self.board or self.writer(str(self.path.parent / TENSORBOARD))
            for key, value in record.items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{record['event']}/{key}", value, record["step"])
            self.board.flush()

    def truncate(self, step: int) -> list[str]:
        """Drop what was written after ``step``, and lines that are no records; return what there is to tell of these.

        A last line that is half written is not told: that is what a kill leaves.
        """
        if not self.path.is_file():
            return []
        log = read_metrics(self.path)
        news = []
        if log.damaged:
            place = set_aside(self.path)
            news.append(
                f"{METRICS} had damaged lines ({log.damaged}), which were left out; as it was it is '{place.name}'."
            )
        kept = [record for record in log.records if _step(record) <= step]
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
        write_atomic(self.path, "".join(lines))
        return news


class MetricsLog(NamedTuple):
    """What a log holds: its records, and how many lines are none (but for a last one that is half written)."""

    records: list[dict[str, Any]]
    damaged: int


def read_metrics(path: Path) -> MetricsLog:
    """Read a log of metrics; one that is missing is empty."""
    if not path.is_file():
        return MetricsLog([], 0)
    *lines, last = path.read_bytes().split(b"\n")
    if last:  # no newline behind it: the process may have been killed while it wrote
        half_written = last.startswith(b"{") and json_object(last) is None
        if not half_written:
            lines.append(last)
    records = []
    for line in lines:
        record = json_object(line)
        if record is not None and _step(record) >= 0:
            records.append(record)
    return MetricsLog(records, damaged=len(lines) - len(records))


def _step(record: dict[str, Any]) -> int:
    """Return the step of a record, 0 where it has none, -1 where it has none that can be."""
    step = record.get("step", 0)
    if not isinstance(step, int) or isinstance(step, bool):
        return -1
    return step


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "TensorBoard is not installed: pip install 'weft-lm[track]', or leave out training.logging.tensorboard."
        ) from None
    return SummaryWriter
