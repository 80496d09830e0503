"""Evaluate a model on a split: frozen weights, or dynamic evaluation beside them."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from weft.data import TokenizedSplit, Tokenizer
from weft.evaluation.adaptation import Adapt, Adaptation, score_dynamically
from weft.evaluation.figures import Figures, figures
from weft.evaluation.scoring import score
from weft.peers import LanguageModel


def evaluate_split(
    model: LanguageModel,
    tokenizer: Tokenizer,
    split: TokenizedSplit,
    *,
    adapt: Adapt | None = None,
    progress: Callable[[int], None] | None = None,
) -> Figures:
    """Return the figures of ``split``: every byte is scored, with state carried through each document.

    With ``adapt``, the figures are those of dynamic evaluation, by one learner or several, and ``bits_per_byte_frozen``
    tells the other; the model's weights are left as they were.
    """
    started = time.perf_counter()
    frozen = score(model, split, boundary_id=tokenizer.boundary_id, progress=progress)
    if adapt is None:
        return figures(total_nats(frozen), split, time.perf_counter() - started)
    if isinstance(adapt, Adaptation):  # alone: the frozen model's scores are not in it
        started = time.perf_counter()
    adapted = score_dynamically(
        model, split, adapt, boundary_id=tokenizer.boundary_id, frozen_N=frozen, progress=progress
    )
    seconds = time.perf_counter() - started
    bits = figures(total_nats(frozen), split, seconds).bits_per_byte
    return figures(total_nats(adapted), split, seconds, frozen=bits)


def total_nats(nats: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    """Return the sum, in float64."""
    return float(nats.sum(dtype=np.float64))
