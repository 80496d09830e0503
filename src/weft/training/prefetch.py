"""Segments on their way to the device: on a GPU the next one is made in a thread while the present one is trained on.

Shapes: B rows of the batch, T positions of a segment.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor

from weft.data import TrainingStream


class Batch(NamedTuple):
    """A segment as tensors."""

    tokens_BT: Tensor
    targets_BT: Tensor
    reset_BT: Tensor


class _Made(NamedTuple):
    """A segment, and where the stream stands behind it."""

    batch: Batch
    state: Any
    epoch: float


class Prefetcher:
    """The segments of a stream, on ``device``; :attr:`state` and :attr:`epoch` are those behind the last one given.

    ``ahead`` makes the next segment in a thread. That is for a GPU, which the host only has to keep busy: on
    a CPU the thread would take the time it saves from the step itself.
    """

    def __init__(self, stream: TrainingStream, device: torch.device, *, ahead: bool) -> None:
        self._stream = stream
        self._device = device
        self.state = stream.state
        self.epoch = stream.epoch
        self._thread = ThreadPoolExecutor(1, "weft-prefetch") if ahead else None
        self._next: Future[_Made] | None = None

    def __iter__(self) -> Prefetcher:
        """Return itself."""
        return self

    def __next__(self) -> Batch:
        """Return the next segments of this process's rows of the batch."""
        made = self._next.result() if self._next else self._make()
        self._next = self._thread.submit(self._make) if self._thread else None
        self.state = made.state
        self.epoch = made.epoch
        return Batch(*(part.to(self._device, non_blocking=True) for part in made.batch))

    def _make(self) -> _Made:
        batch = Batch(*map(torch.from_numpy, next(self._stream)))
        if self._device.type == "cuda":  # only pinned memory is copied while the GPU works
            batch = Batch(*(part.pin_memory() for part in batch))
        return _Made(batch, self._stream.state, self._stream.epoch)

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._thread:
            self._thread.shutdown(cancel_futures=True)
