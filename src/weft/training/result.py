"""What a run has come to: its ``results.json``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weft.errors import DamagedError, UserError
from weft.evaluation.metrics import Metrics, metrics_from_json
from weft.files import json_object
from weft.records import RESULTS


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """What a run has come to. ``tokens_per_second`` and ``seconds`` are of training alone.

    ``text`` says how the text was cut and how large its parts are, as :meth:`weft.data.PreparedData.told` does.
    """

    run: Path
    parameters: int
    body_parameters: int
    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    best_step: int
    validation: Metrics
    test: Metrics
    text: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``results.json``."""
        return {
            "parameters": self.parameters,
            "body_parameters": self.body_parameters,
            "training_steps": self.steps,
            "training_tokens": self.tokens,
            "training_seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
            "best_step": self.best_step,
            "validation": self.validation.to_json(),
            "test": self.test.to_json(),
            "text": self.text,
        }


def read_result(run: Path) -> TrainingResult:
    """Return the result of a finished run; UserError where there is none, DamagedError where it cannot be read."""
    path = run / RESULTS
    if not path.is_file():
        raise UserError(f"'{run}' has no results yet: finish its training with resume=True.")
    told = json_object(path.read_bytes()) or {}
    try:
        return TrainingResult(
            run=run,
            parameters=int(told["parameters"]),
            body_parameters=int(told["body_parameters"]),
            steps=int(told["training_steps"]),
            tokens=int(told["training_tokens"]),
            seconds=float(told["training_seconds"]),
            tokens_per_second=float(told["tokens_per_second"]),
            best_step=int(told["best_step"]),
            validation=metrics_from_json(told["validation"]),
            test=metrics_from_json(told["test"]),
            text=dict(told.get("text") or {}),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DamagedError(f"The results in '{path}' are damaged.") from None
