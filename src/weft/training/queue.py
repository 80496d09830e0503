"""The steps that the device may not have taken yet: how many there may be, and the clock that they run by."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from torch import Tensor

FRESH = 1.0  # seconds after which somebody who watches wants to hear of something


class StepResult(NamedTuple):
    """What a step has come to."""

    loss: float
    gradient_norm: float
    skipped: bool  # because loss or gradient was not finite


def longest_queue(device: torch.device, log_every: int) -> int:
    """Return after how many steps to look.

    A GPU works through a queue, and to look is to wait until it is empty. A CPU has done what it was told.
    """
    return log_every if device.type == "cuda" else 1


class Queue:
    """Results of at most ``most`` steps that nobody has looked at, on the device that computes them.

    ``seconds_per_step`` is what a step took before the last look, by which the time of queued ones is estimated.
    """

    def __init__(self, most: int) -> None:
        self.seconds_per_step = 0.0
        self._most = most
        self._results: list[Tensor] = []
        self._started = time.perf_counter()

    def __len__(self) -> int:
        return len(self._results)

    @property
    def full(self) -> bool:
        """Whether it is time to look: so many steps, or another one would take longer than a second."""
        if len(self) >= self._most or self.seconds_per_step == 0:  # 0: nobody knows yet how long a step takes
            return True
        return (len(self) + 1) * self.seconds_per_step > FRESH

    @property
    def expected_seconds(self) -> float:
        """An estimate of the time that the queued steps take."""
        return len(self) * self.seconds_per_step

    def add(self, result_3: Tensor) -> None:
        """Add what :func:`weft.training.step.train_step` returned."""
        self._results.append(result_3)

    def start_clock(self) -> None:
        """Count the time from now on."""
        self._started = time.perf_counter()

    def read(self) -> tuple[list[StepResult], float]:
        """Wait for the device; return the results since the last look and the seconds since the clock was started."""
        told = torch.stack(self._results).tolist()
        self._results.clear()
        seconds = time.perf_counter() - self._started
        return [StepResult(loss, norm, skipped > 0) for loss, norm, skipped in told], seconds
