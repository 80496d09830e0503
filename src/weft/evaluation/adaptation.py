"""Dynamic evaluation: go on learning from what was just scored (Krause et al. 2018, arXiv 1709.07432).

The text is read in order, in segments. Each segment is scored with the weights as they stand; only
then are they moved by its gradient and pulled back towards the trained weights: nothing is learned
from text that is still to be scored.

    theta <- theta - rate * g / (sqrt(m) + mean(sqrt(m))) + decay * (theta_trained - theta)

with m the running mean of squared gradients of this text, and the mean over the parameters of a tensor. Without that
mean a parameter that seldom has a gradient moves furthest, as an embedding of a rare token does. Krause et al. take m
from the training data; beside the mean that brings 0.1 % (docs/research/dynamic-evaluation.md).

The best rate differs from text to text, fourfold among those of docs/research/dynamic-evaluation.md, and
nobody knows it before the text is read. So a learner is mixed with the frozen model (and with learners of
other rates, if wanted): every token gets the mean of their probabilities, weighted by how well each
predicted the last ones (:func:`mix`). That also makes a high rate the best one: where it errs, the frozen
model is there. Beside them counts what followed the last tokens before, in this text and in the run's memory of
its training text (:mod:`weft.recall`): that knows at once what a learner learns after seeing it some times.

Where the vocabulary is a tree of bytes, all that is mixed below the token instead (:mod:`weft.evaluation.below`).

Shapes: L scorers, N tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from weft.data import TokenizedSplit
from weft.evaluation.below import score_below
from weft.evaluation.learner import Adaptation as Adaptation
from weft.evaluation.learner import adapted
from weft.evaluation.learner import check_adaptable as check_adaptable
from weft.evaluation.scoring import score
from weft.language_model import LanguageModel
from weft.mixing import Tree
from weft.recall import TextMemory, first_guess, look_back, mix_in
from weft.recall.constants import LONGEST

Adapt = Adaptation | Sequence[Adaptation]  # one learner alone, or those that are mixed with the frozen model
LEARNERS: Adapt = (Adaptation(rate=5e-4),)  # the default: docs/research/dynamic-evaluation.md
# Share of the weight that is dealt out anew after each token: which scorer is best changes all the time.
SWITCH = 0.05
# Tokens that a share is worth which was fitted before the text, at most: docs/research/memory.md.
FITTED_WEIGHT = 100.0


def score_dynamically(
    model: LanguageModel,
    split: TokenizedSplit,
    adapt: Adapt,
    *,
    boundary_id: int,
    frozen_N: NDArray[np.float32] | None = None,
    memory: TextMemory | None = None,
    tree: Tree | None = None,
    warm_up: TokenizedSplit | None = None,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return the nats (N,) of every token, by one learner alone or by several with what was said before.

    Several are mixed with the frozen model; what followed the last tokens in ``memory`` and in the text so far counts
    beside them. With a ``tree`` of the vocabulary they are mixed below the token
    (:func:`weft.evaluation.below.score_below`), after ``warm_up``; else token by token, and ``frozen_N`` are the frozen
    model's own, where they are known. Works on copies: ``model`` is left untouched. UserError for a model that carries
    no state.
    """
    if isinstance(adapt, Adaptation):
        return score_adaptively(model, split, adapt, boundary_id=boundary_id, progress=progress)
    if tree is not None and len(adapt):
        return score_below(model, split, adapt, tree, memory=memory, warm_up=warm_up, progress=progress)
    if frozen_N is None:
        frozen_N = score(model, split, boundary_id=boundary_id, progress=progress)
    scored = [frozen_N]
    for how in adapt:
        scored.append(score_adaptively(model, split, how, boundary_id=boundary_id, progress=progress))
    mixed_N = mix(np.stack(scored))

    found = look_back(split.tokens, boundary_id, LONGEST, memory.found(split) if memory else None)
    shares = memory.shares.remembered(FITTED_WEIGHT) if memory else first_guess()
    is_text_N = np.asarray(split.tokens) != boundary_id
    counted_N = mix_in(mixed_N, is_text_N, found, shares, learn=True)
    if memory:
        return counted_N
    # Without a memory a text begins with nothing to count, and what it says may mislead.
    return mix(np.stack([mixed_N, counted_N]))


def mix(nats_LN: NDArray[np.float32], switch: float = SWITCH) -> NDArray[np.float32]:
    """Return the nats (N,) of the scorers' weighted mean: fixed share (Herbster and Warmuth 1998).

    A scorer's weight goes with the probability that it gave to the tokens before; a share ``switch`` is
    dealt out evenly each time. Over all tokens that is at most ``log K - N log(1 - switch)`` nats more
    than the best of them, and mostly fewer. A learner that diverges (infinite, or not a number) counts
    as having given no chance at all.
    """
    nats_LN = np.where(np.isnan(nats_LN), np.inf, nats_LN)
    # Chances are relative to the best scorer's of each token, so that the sum of a very
    # unlikely one is not 0.
    least_N = nats_LN.min(axis=0)
    chances_NL = np.exp((least_N - nats_LN).T.astype(np.float64))
    totals_N = np.empty(len(chances_NL))
    weights = np.full(len(nats_LN), 1 / len(nats_LN))
    for place, chances in enumerate(chances_NL):
        joint = weights * chances
        total = joint.sum()
        totals_N[place] = total
        weights = (1 - switch) * joint / total + switch / len(weights)
    mixed_N: NDArray[np.float64] = least_N - np.log(totals_N)
    return mixed_N.astype(np.float32)


def score_adaptively(
    model: LanguageModel,
    split: TokenizedSplit,
    adaptation: Adaptation,
    *,
    boundary_id: int,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return the nats of every token of ``split`` as :func:`weft.evaluation.scoring.score` does, adapting.

    Works on a copy: ``model`` is left untouched.
    """
    nats = np.zeros(len(split.tokens), dtype=np.float32)
    for segment, learner, hidden_BTD in adapted(model, split, adaptation, boundary_id=boundary_id):
        cost_BT = learner.embedding.surprisal(hidden_BTD, segment.targets_BT)
        scored = segment.places_BT >= 0
        nats[segment.places_BT[scored]] = cost_BT.float().cpu().numpy()[scored]
        if progress:
            progress(int(scored.sum()))
    return nats
