"""Who hears of a run's progress: the metrics file always, a terminal or TensorBoard where there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from weft.errors import UserError
from weft.files import disk_errors, write_atomic


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

    def finish(self) -> None:
        """Hear that the loop has ended, however it ended."""


class Silent:
    """A listener that says nothing."""

    def message(self, text: str) -> None:
        """Say nothing."""

    def status(self, status: Status) -> None:
        """Say nothing."""

    def event(self, record: dict[str, Any]) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""


class Metrics:
    """``metrics.jsonl`` in the run directory, one record a line, and TensorBoard if asked for."""

    def __init__(self, run: Path, *, tensorboard: bool) -> None:
        self.path = run / "metrics.jsonl"
        self.writer = _tensorboard() if tensorboard else None
        self.board: Any = None

    def write(self, record: dict[str, Any]) -> None:
        """Append a record."""
        with disk_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
        if self.writer and "step" in record:
            self.board = self.board or self.writer(str(self.path.parent / "tensorboard"))
            for key, value in record.items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{record['event']}/{key}", value, record["step"])
            self.board.flush()

    def truncate(self, step: int) -> None:
        """Drop what was written after ``step``, and a half-written last line."""
        if not self.path.is_file():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").split("\n") if _upto(line, step)]
        write_atomic(self.path, "".join(f"{line}\n" for line in kept))


def _upto(line: str, step: int) -> bool:
    try:
        return int(json.loads(line).get("step", 0)) <= step
    except ValueError:
        return False


def _tensorboard() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard is not installed: install weft[track], or drop training.tensorboard.") from None
    return SummaryWriter
