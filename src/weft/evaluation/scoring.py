"""Score every token of a split with frozen weights, state carried through each document.

Documents are laid end to end in a few lanes, each with a reset at its boundary, so that many short documents
are scored at once and one long document as a stream. Shapes: B lanes, T positions.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weft.data import IGNORED, TokenizedSplit, Tokenizer
from weft.evaluation.windows import score_by_windows
from weft.language_model import Module, Scorer
from weft.recall import TextMemory

LANES = 16
SEGMENT = 512
PLACES = 64  # of a spread part, at most
PIECE = 1024  # tokens of each place, at least


class ScoredSegment(NamedTuple):
    """A segment of every lane, on the model's device.

    ``places_BT`` index the targets that are text in ``split.tokens`` (-1: none), ``ends_BT`` the documents
    that end before the target (-1: none does).
    """

    inputs_BT: Tensor
    targets_BT: Tensor
    reset_BT: Tensor
    places_BT: NDArray[np.int64]
    ends_BT: NDArray[np.int64]


def score(
    model: Scorer,
    split: TokenizedSplit,
    *,
    boundary_id: int,
    progress: Callable[[int], None] | None = None,
    ends: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return the nats of every token of ``split``, aligned to ``split.tokens``; boundary tokens have 0.

    ``ends`` (a number for each document) takes in the nats of the boundary behind each
    document, which is where a text ends; those of documents that were cut, and all where the
    model carries no state, stay as they are.

    State is carried through each document. A model that carries none is scored by a sliding window over its
    context. ``progress`` is called with the number of tokens done since the last call.
    """
    if model.context is not None:
        return score_by_windows(model, split, model.context, boundary_id=boundary_id, progress=progress)
    nats = np.full(len(split.tokens), np.nan, dtype=np.float32)  # a token that nobody scored would show
    nats[split.offsets[:-1]] = 0.0
    state: Any = None
    training = model.training
    model.eval()
    for segment in segments(
        split,
        lanes=LANES,
        length=SEGMENT,
        boundary_id=boundary_id,
        device=device_of(model),
        score_ends=ends is not None,
    ):
        cost_BT, state = model.surprisal(segment.inputs_BT, segment.targets_BT, state, segment.reset_BT)
        cost = cost_BT.float().cpu().numpy()
        scored = segment.places_BT >= 0
        nats[segment.places_BT[scored]] = cost[scored]
        if ends is not None:
            ended = segment.ends_BT >= 0
            ends[segment.ends_BT[ended]] = cost[ended]
        if progress:
            progress(int(scored.sum()))
    model.train(training)
    return nats


def text_bits(
    model: Scorer, tokenizer: Tokenizer, texts: Sequence[str], *, memory: TextMemory | None = None
) -> list[float]:
    """Return the bits that each of ``texts`` costs, each a document of its own whose end is not counted."""
    documents = []
    for text in texts:
        documents.append(np.append(tokenizer.boundary_id, tokenizer.encode(text)))
    if not documents:
        return []
    offsets = np.cumsum([0, *map(len, documents)])
    size = sum(len(text.encode()) for text in texts)
    split = TokenizedSplit(np.concatenate(documents), offsets, size, None, None)
    nats = score(model, split, boundary_id=tokenizer.boundary_id)
    if memory:
        nats = memory.mix(nats, split)
    nats = nats.astype(np.float64)
    return [float(nats[begin:end].sum() / np.log(2)) for begin, end in pairwise(offsets)]


def segments(
    split: TokenizedSplit,
    *,
    lanes: int,
    length: int,
    boundary_id: int,
    device: torch.device,
    in_order: bool = False,
    score_ends: bool = False,
) -> Iterator[ScoredSegment]:
    """Yield the documents, dealt to ``lanes`` lanes and cut into segments of ``length``.

    Lanes are filled evenly, longest document first, unless ``in_order`` (which takes one lane); there are
    fewer where one document is longer than a lane would be. With ``score_ends`` the boundary behind a
    document is a target too, but where the document was cut.
    """
    # Of each lane, the places of its tokens in the text.
    if in_order:
        order = [np.arange(len(split.tokens))]
    else:
        order = [np.concatenate(documents) for documents in _deal(split, lanes)]
    longest = max(map(len, order))
    for start in range(0, longest, length):
        # One place more than the width: the last token is a target here, and the first
        # input of the next segment.
        width = min(length, longest - start)
        places = np.full((len(order), width + 1), -1, dtype=np.int64)
        for row, lane in zip(places, order, strict=True):
            part = lane[start : start + width + 1]
            row[: len(part)] = part
        # Behind the end of a lane stand boundaries, which reset the state and are no
        # targets, as all boundaries are.
        tokens = np.where(places >= 0, np.asarray(split.tokens)[places], boundary_id).astype(np.int64)
        first = tokens == boundary_id
        targets = np.where(first, IGNORED, tokens)[:, 1:]
        scored = np.where(targets != IGNORED, places[:, 1:], -1)
        ends = np.full_like(scored, -1)
        if score_ends:
            # A boundary, also one behind the lane, ends the document of the token before it.
            at_end = first[:, 1:] & (places[:, :-1] >= 0)
            document = np.searchsorted(split.offsets, places[:, :-1][at_end], side="right") - 1
            ends[at_end] = np.where(split.ends[document], document, -1)
            targets = np.where(ends >= 0, boundary_id, targets)
        yield ScoredSegment(
            torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])).to(device),
            torch.from_numpy(np.ascontiguousarray(targets)).to(device),
            torch.from_numpy(np.ascontiguousarray(first[:, :-1])).to(device),
            scored,
            ends,
        )


def device_of(model: Module) -> torch.device:
    """Return the device that the model's parameters are on."""
    return next(model.parameters()).device


def _deal(split: TokenizedSplit, lanes: int) -> list[list[NDArray[np.int64]]]:
    """Deal the documents' places to lanes, longest first to the shortest lane, so that lanes end together.

    No lane ends before the longest document does, so there are at most so many as fill that time:
    others would compute on padding alone.
    """
    lengths = np.diff(split.offsets)
    filled_by_longest = -(-int(lengths.sum()) // int(lengths.max()))
    dealt: list[list[NDArray[np.int64]]] = [[] for _ in range(min(lanes, filled_by_longest))]
    heap = [(0, lane) for lane in range(len(dealt))]
    for document in np.argsort(-lengths, kind="stable"):
        filled, lane = heapq.heappop(heap)
        dealt[lane].append(np.arange(split.offsets[document], split.offsets[document + 1]))
        heapq.heappush(heap, (filled + int(lengths[document]), lane))
    return dealt


def first_part(split: TokenizedSplit, tokens: int, tokenizer: Tokenizer) -> TokenizedSplit:
    """Return the first ``tokens`` tokens of ``split`` as a split of its own, for quick looks while training.

    A document may be cut; where the last token would be a boundary, one more is taken. ``bytes`` are those
    of these tokens; characters and words are not counted.
    """
    if tokens >= len(split.tokens):
        return split
    tokens += int(tokens - 1 in split.offsets)  # no document without text
    offsets = np.append(split.offsets[split.offsets < tokens], tokens)
    part = split.tokens[:tokens]
    return TokenizedSplit(part, offsets, len(tokenizer.decode_bytes(part)), None, None)


def spread_part(split: TokenizedSplit, tokens: int, tokenizer: Tokenizer) -> TokenizedSplit:
    """Return about ``tokens`` tokens of ``split``, from places all over it, as a split of its own.

    Texts drift: their beginning says little about the rest. The text is divided evenly, and a piece is taken
    from each division, from the first document that begins in it on; where none does in time, from its start
    on, after a boundary of its own. Documents may be cut. The same part every time; ``bytes`` are those of
    its tokens, characters and words are not counted.
    """
    if tokens >= len(split.tokens):
        return split
    places = min(PLACES, max(1, tokens // PIECE))
    length = max(3, tokens // places)
    borders = np.linspace(0, len(split.tokens), places + 1).astype(np.int64)
    segments = [_piece(split, start, stop, length) for start, stop in pairwise(borders.tolist())]
    part = np.concatenate(segments)
    offsets = np.append(np.flatnonzero(part == split.tokens[0]), len(part))
    return TokenizedSplit(part, offsets, len(tokenizer.decode_bytes(part)), None, None)


def _piece(split: TokenizedSplit, start: int, stop: int, length: int) -> NDArray[Any]:
    """Return at most ``length`` tokens of the division [start, stop), beginning and not ending with a boundary."""
    boundary = split.tokens[:1]
    begin = int(split.offsets[np.searchsorted(split.offsets, start)])
    if begin + length <= stop:
        segment = split.tokens[begin : begin + length]
    else:
        segment = np.concatenate([boundary, split.tokens[start : start + length - 1]])
        if segment[1] == boundary[0]:  # a document begins right there: it has its own boundary
            segment = segment[1:]
    if segment[-1] == boundary[0]:  # no document without text
        segment = segment[:-1]
    return segment
