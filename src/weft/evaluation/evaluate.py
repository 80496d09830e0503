"""Evaluate a model on a split: frozen weights, a memory of text beside them, or dynamic evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.data import TokenizedSplit, Tokenizer
from weft.evaluation.adaptation import Adapt, Adaptation, score_dynamically
from weft.evaluation.below import MOST_WARM
from weft.evaluation.metrics import Metrics, compute_metrics
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import score
from weft.language_model import LanguageModel
from weft.mixing import Tree, tree_of
from weft.recall import TextMemory

Nats = NDArray[np.float32]
LEARNING = 10  # what a token costs a learner, in tokens that are scored with frozen weights; about


class Scores(NamedTuple):
    """The nats (N) of every token of a text by the weights alone, with a memory, and adaptively, as far as asked for.

    ``ends`` are those of the documents' ends (NaN where not known), by the weights alone; ``seconds`` is the time of
    the best of the three.
    """

    frozen_N: Nats
    memory_N: Nats | None
    adaptive_N: Nats | None
    ends: Nats
    seconds: float

    @property
    def best(self) -> Nats:
        """The nats (N) by all that was asked for."""
        if self.adaptive_N is not None:
            return self.adaptive_N
        return self.frozen_N if self.memory_N is None else self.memory_N


def score_split(
    model: LanguageModel,
    split: TokenizedSplit,
    *,
    boundary_id: int,
    adapt: Adapt | None = None,
    memory: TextMemory | None = None,
    fitted_to: bool = False,
    tree: Tree | None = None,
    warm_up: TokenizedSplit | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> Scores:
    """Score every token of ``split``, with state carried through each document.

    ``fitted_to`` says that the memory's shares were fitted to this very text: each half is then scored by a fit to the
    other. With ``adapt`` by dynamic evaluation as well, by one learner or several; the model's weights are left as they
    were. With ``tree`` several learners are mixed below the token, after the beginning of ``warm_up``
    (:func:`weft.evaluation.below.score_below`). ``progress`` is called with the number of tokens done since the last
    call, ``watch`` with how far the whole is.
    """
    if adapt is None:
        learners = 0
    elif isinstance(adapt, Adaptation):
        learners = 1
    else:
        learners = len(adapt)
    before = min(warm_up.scored_tokens, MOST_WARM) if tree and warm_up else 0
    total = split.scored_tokens + LEARNING * learners * (split.scored_tokens + before)
    far = Progress(total, watch or (lambda _: None))

    def done(weight: int) -> Callable[[int], None]:
        def hear(tokens: int) -> None:
            far(weight * tokens)
            if progress:
                progress(tokens)

        return hear

    started = time.perf_counter()
    ends = np.full(split.documents, np.nan, dtype=np.float32)
    frozen_N = score(model, split, boundary_id=boundary_id, progress=done(1), ends=ends)
    memory_N = None
    if memory and fitted_to:
        memory_N = memory.cross_fitted(frozen_N, split)
    elif memory:
        memory_N = memory.mix(frozen_N, split)
    adaptive_N = None
    if adapt is not None:
        if isinstance(adapt, Adaptation):  # alone: the frozen model's scores are not in it
            started = time.perf_counter()
        adaptive_N = score_dynamically(
            model,
            split,
            adapt,
            boundary_id=boundary_id,
            frozen_N=frozen_N,
            memory=memory,
            tree=tree,
            warm_up=warm_up,
            progress=done(LEARNING),
        )
    return Scores(frozen_N, memory_N, adaptive_N, ends, time.perf_counter() - started)


def evaluate_split(
    model: LanguageModel,
    tokenizer: Tokenizer,
    split: TokenizedSplit,
    *,
    adapt: Adapt | None = None,
    memory: TextMemory | None = None,
    fitted_to: bool = False,
    warm_up: TokenizedSplit | None = None,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> Metrics:
    """Return the metrics of ``split`` by the best that is asked for, and those of the others; see :func:`score_split`.

    The best is ``adapt``, then ``memory``, then the weights alone.
    """
    scores = score_split(
        model,
        split,
        boundary_id=tokenizer.boundary_id,
        adapt=adapt,
        memory=memory,
        fitted_to=fitted_to,
        tree=tree_of(tokenizer) if adapt else None,
        warm_up=warm_up,
        progress=progress,
        watch=watch,
    )
    return metrics_of(scores, split)


def metrics_of(scores: Scores, split: TokenizedSplit) -> Metrics:
    """Return the metrics of ``split`` from its scores."""
    best_N = scores.best
    frozen = None
    with_memory = None
    if best_N is not scores.frozen_N:
        frozen = bits_per_byte(scores.frozen_N, split)
    if scores.memory_N is not None:
        with_memory = bits_per_byte(scores.memory_N, split)
    return compute_metrics(
        total_nats(best_N),
        split,
        scores.seconds,
        frozen=frozen,
        memory=with_memory,
        new=_bits_of_new(best_N, split),
        per_end=_bits_per_end(scores.ends),
    )


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


def bits_per_byte(nats_N: Nats, split: TokenizedSplit) -> float:
    """Return the bits per byte of ``split`` whose tokens cost ``nats_N``."""
    return total_nats(nats_N) / math.log(2) / split.bytes


def total_nats(nats: Nats) -> float:
    """Return the sum, in float64."""
    return float(nats.sum(dtype=np.float64))
