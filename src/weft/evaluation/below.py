"""Dynamic evaluation mixed below the token: frozen model, learners, memory, and what the text itself says in bytes.

All read the text side by side, piece by piece; no distributions but those of a piece are held. Shapes: S sources, P
tokens of a piece, V vocabulary, U tokens with bytes, N tokens of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from weft.data import TokenizedSplit
from weft.evaluation.learner import Adaptation, adapted, check_adaptable
from weft.evaluation.scoring import device_of, segments
from weft.language_model import LanguageModel
from weft.layers.state import detach
from weft.mixing import ByteMixer, Tree
from weft.mixing.constants import SEPARATOR
from weft.mixing.mixer import KERNELS
from weft.recall import Reader, TextMemory
from weft.recall.compiled import compiled

PIECE = 32  # tokens
MOST_WARM = 1 << 15  # tokens that are read before the text, to learn what to trust
MOST_PRIMED = 1 << 25  # bytes of a memory that are read, the last ones

Logits = NDArray[np.float32]


def score_below(
    model: LanguageModel,
    split: TokenizedSplit,
    adapt: Sequence[Adaptation],
    tree: Tree,
    *,
    memory: TextMemory | None = None,
    warm_up: TokenizedSplit | None = None,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return the nats (N) of every token by the frozen model and learners, mixed bit by bit with what the text says.

    The text of ``memory`` is read first. So is the beginning of ``warm_up``, to learn how far each voice is to be
    trusted; what it says is then forgotten. ``progress`` is called with the number of tokens done, those of
    ``warm_up`` among them.
    """
    check_adaptable(model)
    warm_up = _beginning(warm_up) if warm_up else None
    known = tree.text(memory.index.tokens_N, SEPARATOR)[-MOST_PRIMED:] if memory else b""
    longest = max(tree.size(text.tokens, SEPARATOR) for text in (split, warm_up) if text)
    mixer = ByteMixer(tree, _first_weights(len(adapt), memory is not None), len(known) + longest)
    mixer.prime(known)
    if warm_up:
        before = mixer.remember()
        _score(mixer, model, warm_up, adapt, tree, memory, progress)
        mixer.go_back(before)
    return _score(mixer, model, split, adapt, tree, memory, progress)


def _first_weights(learners: int, remembers: bool) -> NDArray[np.float64]:
    """Return the weights (S) of the frozen model, the learners, and the learners with the memory, in that order."""
    if not remembers:
        return np.array([0.3] + [0.7 / learners] * learners)
    return np.array([0.1] + [0.3 / learners] * learners + [0.6])


def _beginning(text: TokenizedSplit) -> TokenizedSplit:
    """Return the first tokens of a text."""
    count = min(len(text.tokens), MOST_WARM)
    offsets = np.append(text.offsets[text.offsets < count], count)
    return TokenizedSplit(text.tokens[:count], offsets, 0, None, None)


def _score(
    mixer: ByteMixer,
    model: LanguageModel,
    split: TokenizedSplit,
    adapt: Sequence[Adaptation],
    tree: Tree,
    memory: TextMemory | None,
    progress: Callable[[int], None] | None,
) -> NDArray[np.float32]:
    """Return the nats (N) of a text by a mixer that goes on."""
    tokens_N = np.asarray(split.tokens)
    nats_N = np.zeros(len(tokens_N), dtype=np.float32)
    reader = Reader(memory, split) if memory else None
    streams = [_pieces(_frozen(model, split, tree.boundary_id))]
    streams += [_pieces(_learning(model, split, how, tree.boundary_id)) for how in adapt]
    sources = len(streams) + int(reader is not None)
    # The first token is a boundary, for which nobody has any chances; those of each place are of the next token.
    mixer.score(tokens_N[:1], np.zeros((1, sources, len(tree.ids_U) + 1)))
    start = 1
    for logits in zip(*streams, strict=True):
        stop = min(start + len(logits[0]), len(tokens_N))
        cumulated_PSU = _cumulated([logits_PV[: stop - start] for logits_PV in logits], tree, reader, start)
        nats_N[start:stop] = mixer.score(tokens_N[start:stop], cumulated_PSU)
        if progress:
            progress(int((tokens_N[start:stop] != tree.boundary_id).sum()) * len(adapt))
        start = stop
    return nats_N


def _cumulated(logits: Sequence[Logits], tree: Tree, reader: Reader | None, start: int) -> NDArray[np.float64]:
    """Return the running sums (P, S, U + 1) of what each source gives to the tokens in order.

    A learner that has diverged, and says what is no number, gives what the frozen model does.
    """
    count, V = logits[0].shape
    sources = len(logits) + int(reader is not None)
    cumulated_PSU = np.empty((count, sources, len(tree.ids_U) + 1))
    given_PV = np.full((count, V), 1 / V)
    chances_PV = np.empty((count, V))
    together_PV = np.zeros((count, V))
    for s, logits_PV in enumerate(logits):
        compiled("cumulate", KERNELS)(logits_PV, given_PV, tree.ids_U, chances_PV, cumulated_PSU[:, s])
        if s == 0:
            given_PV = chances_PV.copy()
        else:
            together_PV += chances_PV / (len(logits) - 1)
    if reader:
        reader(together_PV, start)
        compiled("add_up_all", KERNELS)(together_PV, tree.ids_U, cumulated_PSU[:, -1])
    return cumulated_PSU


def _frozen(model: LanguageModel, split: TokenizedSplit, boundary_id: int) -> Iterator[Logits]:
    """Yield the frozen model's logits at the places of a text, some at a time."""
    state = None
    training = model.training
    model.eval()
    for segment in segments(
        split, lanes=1, length=PIECE, boundary_id=boundary_id, device=device_of(model), in_order=True
    ):
        with torch.no_grad():
            logits_BTV, state = model(segment.inputs_BT, state, segment.reset_BT)
        state = detach(state)
        yield logits_BTV[0].float().cpu().numpy()
    model.train(training)


def _learning(model: LanguageModel, split: TokenizedSplit, how: Adaptation, boundary_id: int) -> Iterator[Logits]:
    """Yield a learner's logits at the places of a text, some at a time."""
    for _, learner, hidden_BTD in adapted(model, split, how, boundary_id=boundary_id):
        for start in range(0, hidden_BTD.shape[1], PIECE):
            with torch.no_grad():
                logits_BTV = learner.embedding.logits(hidden_BTD[:, start : start + PIECE])
            yield logits_BTV[0].float().cpu().numpy()


def _pieces(parts: Iterator[Logits]) -> Iterator[Logits]:
    """Yield the rows of ``parts`` in pieces of PIECE; the last is as long as it comes."""
    waiting: list[Logits] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += len(part)
        while count >= PIECE:
            rows = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
            yield rows[:PIECE]
            waiting = [rows[PIECE:]]
            count -= PIECE
    if count:
        yield np.concatenate(waiting)
