"""Score a text by a sliding window, for models that see no more than their context at once.

Every token but the first ones of a document has at least half of the context before it.
Shapes: B windows, T positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from weft.data import TokenizedSplit
from weft.language_model import Scorer

SCORED_AT_ONCE = 8192  # tokens


@dataclass(frozen=True)
class Window:
    """Inputs [start, stop) of a split's tokens, by which the targets [scored, stop] are scored."""

    start: int
    stop: int
    scored: int


def score_by_windows(
    model: Scorer,
    split: TokenizedSplit,
    context: int,
    *,
    boundary_id: int,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return the nats of every token of ``split`` (boundaries 0), by windows of ``context`` over each document.

    ``progress`` is called with the number of tokens done since the last call.
    """
    nats = np.zeros(len(split.tokens), dtype=np.float32)
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    for batch in _batches(windows(split, context), SCORED_AT_ONCE):
        width = max(window.stop - window.start for window in batch)
        tokens = np.full((len(batch), width + 1), boundary_id, dtype=np.int64)
        for row, window in zip(tokens, batch, strict=True):
            row[: window.stop - window.start + 1] = split.tokens[window.start : window.stop + 1]
        # What stands behind a shorter window is scored too, and dropped: nothing before it has seen it.
        inputs_BT = torch.from_numpy(tokens[:, :-1]).to(device)
        targets_BT = torch.from_numpy(tokens[:, 1:]).to(device)
        cost_BT, _ = model.surprisal(inputs_BT, targets_BT)
        for cost_T, window in zip(cost_BT.float().cpu().numpy(), batch, strict=True):
            first = window.scored - window.start - 1
            nats[window.scored : window.stop + 1] = cost_T[first : window.stop - window.start]
            if progress:
                progress(window.stop + 1 - window.scored)
    model.train(training)
    return nats


def windows(split: TokenizedSplit, context: int) -> Iterator[Window]:
    """Yield windows of at most ``context`` inputs that score each token of a document but its boundary once.

    From the second window of a document on, each scored token has at least ``context // 2`` tokens
    before it.
    """
    for begin, end in zip(split.offsets[:-1].tolist(), split.offsets[1:].tolist(), strict=True):
        start = begin
        scored = begin + 1
        while scored < end:
            stop = min(start + context, end - 1)
            yield Window(start, stop, scored)
            scored = stop + 1
            # Half a context is read again, for the tokens after it.
            start = max(begin, scored - 1 - context // 2)


def _batches(found: Iterator[Window], most: int) -> Iterator[list[Window]]:
    """Group windows of like lengths, about ``most`` inputs together."""
    batch: list[Window] = []
    for window in sorted(found, key=lambda window: window.stop - window.start):
        # The longest of a batch, to which the others are padded, is the last one.
        if batch and (len(batch) + 1) * (window.stop - window.start) > most:
            yield batch
            batch = []
        batch.append(window)
    if batch:
        yield batch
