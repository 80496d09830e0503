"""Evaluate a model on a split: frozen weights, or dynamic evaluation beside them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from weft.data import TokenizedSplit, Tokenizer
from weft.evaluation.adaptation import Adapt, Adaptation, score_dynamically
from weft.evaluation.metrics import Metrics, compute_metrics
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import score
from weft.language_model import LanguageModel

Nats = NDArray[np.float32]
LEARNING = 10  # what a token costs a learner, in tokens that are scored with frozen weights; about


def evaluate_split(
    model: LanguageModel,
    tokenizer: Tokenizer,
    split: TokenizedSplit,
    *,
    adapt: Adapt | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> Metrics:
    """Return the metrics of ``split``: every byte is scored, with state carried through each document.

    With ``adapt``, the metrics are those of dynamic evaluation, by one learner or several, and
    ``bits_per_byte_frozen`` tells the other; the model's weights are left as they were. ``progress`` is
    called with the number of tokens done since the last call, ``watch`` with how far the whole is.
    """
    if adapt is None:
        learners = 0
    elif isinstance(adapt, Adaptation):
        learners = 1
    else:
        learners = len(adapt)
    far = Progress(split.scored_tokens * (1 + LEARNING * learners), watch or (lambda _: None))

    def done(weight: int) -> Callable[[int], None]:
        def hear(tokens: int) -> None:
            far(weight * tokens)
            if progress:
                progress(tokens)

        return hear

    started = time.perf_counter()
    ends = np.full(split.documents, np.nan, dtype=np.float32)
    frozen = score(model, split, boundary_id=tokenizer.boundary_id, progress=done(1), ends=ends)
    per_end = _bits_per_end(ends)
    if adapt is None:
        seconds = time.perf_counter() - started
        new = _bits_of_new(frozen, split)
        return compute_metrics(total_nats(frozen), split, seconds, new=new, per_end=per_end)
    if isinstance(adapt, Adaptation):  # alone: the frozen model's scores are not in it
        started = time.perf_counter()
    adapted = score_dynamically(
        model, split, adapt, boundary_id=tokenizer.boundary_id, frozen_N=frozen, progress=done(LEARNING)
    )
    seconds = time.perf_counter() - started
    bits = compute_metrics(total_nats(frozen), split, seconds).bits_per_byte
    new = _bits_of_new(adapted, split)
    return compute_metrics(total_nats(adapted), split, seconds, frozen=bits, new=new, per_end=per_end)


def _bits_per_end(nats_D: Nats) -> float | None:
    """Return the mean bits of the documents' ends, of which those that are not known are NaN."""
    known = nats_D[~np.isnan(nats_D)]
    if not len(known):
        return None
    return total_nats(known) / math.log(2) / len(known)


def _bits_of_new(nats_N: Nats, split: TokenizedSplit) -> float | None:
    """Return the bits per byte of the lines that are not in the training text; None if none or all are."""
    new_bytes = split.bytes - split.repeated_bytes
    if split.repeated is None or not split.repeated_bytes or not new_bytes:
        return None
    return total_nats(nats_N[~split.repeated]) / math.log(2) / new_bytes


def total_nats(nats: Nats) -> float:
    """Return the sum, in float64."""
    return float(nats.sum(dtype=np.float64))
