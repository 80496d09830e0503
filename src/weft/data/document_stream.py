"""Training segments of documents that are read as needed: shuffled, dealt to lanes, resumable to the token.

A lane is a row of the batch from one step to the next: it reads the documents that are dealt to it.

Legend: B lanes of this rank (its batch size), L lanes of all ranks, T tokens of a segment (the sequence
length).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from weft.data.documents import whole_documents
from weft.data.pieces import cut_documents
from weft.data.segments import IGNORED, Segment
from weft.data.streamed import StreamedSplit
from weft.data.tokenizers import Tokenizer
from weft.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Place(NamedTuple):
    """A document of a lane: the block it came in, and its number among the lane's documents of that block."""

    block: int
    number: int


class _Document(NamedTuple):
    """A document, or a piece of one; it ``ends`` unless it was cut there."""

    place: _Place
    data: bytes
    ends: bool


class _Read(NamedTuple):
    """A document that has become tokens, its boundary first."""

    place: _Place
    tokens: NDArray[np.int32]
    ends: bool


class _Mark(NamedTuple):
    """All that is needed to deal again from the beginning of a block on; plain JSON."""

    block: int
    epoch: int
    place: dict[str, Any] | None
    loads_L: list[int]


@dataclass
class _Lane:
    """What was dealt to a lane and not trained on yet; ``offset`` tokens of the first document are done."""

    begin: _Place
    offset: int
    texts: deque[_Document] = field(default_factory=deque)
    read: deque[_Read] = field(default_factory=deque)

    @property
    def available(self) -> int:
        return sum(len(document.tokens) for document in self.read) - self.offset

    def first(self, block: int) -> _Place:
        """Return the document that the lane stands in, or will when ``block`` is dealt."""
        if self.read:
            return self.read[0].place
        if self.texts:
            return self.texts[0].place
        # Nothing waits. After a resume ``begin`` may still lie ahead of what is dealt again.
        return max(_Place(block, 0), self.begin)

    def peek(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the next ``count`` tokens, and which of them come right behind a document that was cut."""
        parts = []
        start = self.offset
        missing = count
        behind_a_cut = np.zeros(count, dtype=np.bool_)
        for document in self.read:
            part = document.tokens[start : start + missing]
            parts.append(part)
            start = 0
            missing -= len(part)
            if not missing:
                break
            behind_a_cut[count - missing] = not document.ends
        return np.concatenate(parts).astype(np.int64), behind_a_cut

    def advance(self, count: int) -> None:
        """Be done with ``count`` tokens."""
        self.offset += count
        while self.read and self.offset >= len(self.read[0].tokens):
            self.offset -= len(self.read.popleft().tokens)


class DocumentStream(Iterator[Segment]):
    """Segments of ``batch_size`` lanes of a training text that streams, without end.

    The documents come in blocks of some thousand, each put in an order of its own (by ``seed`` and the
    block's number) and dealt to G = ``world_size * batch_size`` lanes: each document to the lane that was
    given the fewest bytes so far. So what a lane reads depends on G and the seed, not on how the lanes are
    spread over processes, and a process makes tokens only of its own lanes' documents. A lane reads whole
    documents one after another, each behind its boundary; a segment is its next T tokens, so that state can
    be carried from one to the next.

    The target is the next token of the lane; -100 where that is a boundary, unless ``predict_boundary``:
    then the boundary behind each document that ends, and is not cut there, is a target. ``reset`` marks
    boundaries. ``state`` goes on where :attr:`state` was, or those of all ranks joined
    (:func:`weft.data.stream.join_states`), which is needed where lanes change their rank. With another G,
    the blocks that were being read are dealt anew. Only blocks that are not wholly used are read again when
    a state is taken up.
    """

    def __init__(
        self,
        split: StreamedSplit,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        sequence_length: int,
        seed: int,
        predict_boundary: bool = False,
        rank: int = 0,
        world_size: int = 1,
        state: dict[str, Any] | None = None,
    ) -> None:
        assert 0 <= rank < world_size
        assert min(batch_size, sequence_length) > 0
        self._split = split
        self._tokenizer = tokenizer
        self._sequence_length = sequence_length
        self._seed = seed
        self._predict_boundary = predict_boundary
        self._boundary = np.array([tokenizer.boundary_id], np.int32)
        total = batch_size * world_size
        begin, cursors = _begin(state, total)
        self._own: dict[int, _Lane] = {}
        for lane in range(rank * batch_size, (rank + 1) * batch_size):
            block, number, offset = cursors.get(str(lane), (begin.block, 0, 0))
            self._own[lane] = _Lane(_Place(block, number), offset)
        self._block = begin.block  # the number of the next block
        self._epoch = begin.epoch
        # The bytes that each lane was given, less those that all were given.
        self._loads_L = list(begin.loads_L)
        self._reader = split.read(begin.place)
        self._marks: deque[_Mark] = deque([begin])
        # The blocks that were being read are dealt again; what the lanes were done with is left out.
        while state and self._block < state["dealt"]:
            self._deal()

    @property
    def state(self) -> dict[str, Any]:
        """Where this rank's lanes stand, as plain JSON."""
        cursors: dict[str, list[int]] = {}
        for lane, own in self._own.items():
            block, number = own.first(self._block)
            cursors[str(lane)] = [block, number, own.offset]
        return {"mark": list(self._marks[0]), "dealt": self._block, "cursors": cursors}

    @property
    def epoch(self) -> float:
        """The number of passes over the text that have been dealt, the part of the present one estimated."""
        return self._epoch + min(self._reader.read_bytes / max(self._split.bytes, 1), 1.0)

    def __next__(self) -> Segment:
        self._fill()
        peeked = [lane.peek(self._sequence_length + 1) for lane in self._own.values()]
        tokens = np.stack([read for read, _ in peeked])
        for lane in self._own.values():
            lane.advance(self._sequence_length)
        self._forget()
        inputs_BT = np.ascontiguousarray(tokens[:, :-1])
        targets_BT = tokens[:, 1:].copy()
        passed_over = targets_BT == self._tokenizer.boundary_id
        if self._predict_boundary:
            passed_over &= np.stack([cut for _, cut in peeked])[:, 1:]
        targets_BT[passed_over] = IGNORED
        return Segment(inputs_BT, targets_BT, inputs_BT == self._tokenizer.boundary_id)

    def _fill(self) -> None:
        """Make every lane hold a segment and the token after it."""
        while short := [lane for lane in self._own.values() if lane.available <= self._sequence_length]:
            while not all(lane.texts for lane in short):
                self._deal()
            self._read(short)

    def _read(self, lanes: Sequence[_Lane]) -> None:
        """Make tokens of the next document of each of ``lanes``, together."""
        documents = [lane.texts.popleft() for lane in lanes]
        parts: list[list[NDArray[np.int32]]] = []
        pieces = self._tokenizer.cut(whole_documents(document.data for document in documents))
        for piece, ids in self._tokenizer.encode_stream(pieces):
            if piece.first:
                parts.append([self._boundary])
            parts[-1].append(ids)
        for lane, document, whole in zip(lanes, documents, parts, strict=True):
            lane.read.append(_Read(document.place, np.concatenate(whole), document.ends))

    def _deal(self) -> None:
        """Read a block and deal it, long documents in pieces; at the end of the text begin again."""
        # Read the next block, of this pass over the text or of the next one.
        documents = self._reader.block()
        if not documents:
            if not self._reader.read_bytes:
                raise UserError("The dataset has no text to train on any more: look at its files.")
            self._epoch += 1
            self._reader = self._split.read()
            documents = self._reader.block()
        pieces = list(cut_documents(whole_documents(documents), self._split.cut_above))

        # Deal each document to the lane with the fewest bytes, the first of equals. Every rank deals to all
        # lanes, so that all ranks agree, but keeps the documents of its own lanes alone.
        heap = [(load, lane) for lane, load in enumerate(self._loads_L)]
        heapq.heapify(heap)
        numbers_L = [0] * len(self._loads_L)
        order = np.random.default_rng((self._seed, self._block)).permutation(len(pieces))
        for index in order:
            data = pieces[index].data
            load, lane = heapq.heappop(heap)
            heapq.heappush(heap, (load + len(data), lane))
            place = _Place(self._block, numbers_L[lane])
            numbers_L[lane] += 1
            own = self._own.get(lane)
            if own and place >= own.begin:
                own.texts.append(_Document(place, data, ends=not pieces[index].cut))

        # Remember where the next block begins, to deal from there again when a run is resumed.
        least = heap[0][0]  # only differences matter
        loads_L = [0] * len(heap)
        for load, lane in heap:
            loads_L[lane] = load - least
        self._loads_L = loads_L
        self._block += 1
        self._marks.append(_Mark(self._block, self._epoch, self._reader.place, self._loads_L))

    def _forget(self) -> None:
        """Drop the marks of blocks that no lane needs any more."""
        oldest = min(lane.first(self._block).block for lane in self._own.values())
        while len(self._marks) > 1 and self._marks[0].block < oldest:
            self._marks.popleft()


def join_document_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the state of all ranks: the earliest block that a lane needs, and every lane's place."""
    mark = min((state["mark"] for state in states), key=lambda mark: _Mark(*mark).block)
    cursors: dict[str, list[int]] = {}
    for state in states:
        cursors.update(state["cursors"])
    return {"mark": mark, "dealt": states[0]["dealt"], "cursors": cursors}


def _begin(state: dict[str, Any] | None, lanes: int) -> tuple[_Mark, dict[str, list[int]]]:
    """Return where to begin dealing, and the lanes' places after it (none where the lanes are others)."""
    if not state:
        return _Mark(0, 0, None, [0] * lanes), {}
    mark = _Mark(*state["mark"])
    if len(mark.loads_L) == lanes:
        return mark, state["cursors"]
    return mark._replace(loads_L=[0] * lanes), {}  # another G: nobody's place means anything any more
