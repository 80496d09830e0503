"""Training segments from a tokenized split: endless, shuffled, and resumable to the token.

A lane is a row of the batch from one step to the next: it reads its part of the text from end to end.

Legend: B lanes of this rank (its batch size), T tokens of a segment (the sequence length).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from weft.data.prepared import TokenizedSplit
from weft.data.segments import IGNORED, Segment
from weft.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class StreamState(NamedTuple):
    """The segment that comes next; two whole numbers, so that any format can keep it."""

    epoch: int
    segment: int


class TokenStream(Iterator[Segment]):
    """Segments of ``batch_size`` contiguous lanes of the training text, without end.

    In every epoch the documents are put in a new order (by ``seed`` and the epoch), the whole is rotated by
    a random amount (so that a corpus of one huge document also begins elsewhere) and cut into ``world_size *
    batch_size`` lanes of equal length; this ``rank`` reads ``batch_size`` of them. Segment k of a lane is
    its tokens [kT, (k + 1)T), so that state can be carried from one to the next; what is left at the end of
    a lane, less than T tokens, waits for another epoch.

    The target is the next token of the text; -100 at the very end and where that is a boundary, unless
    ``predict_boundary``: then the boundary behind each document that ends, and is not cut there, is a
    target. ``reset`` marks boundaries and the first token of a lane in an epoch. ``state`` goes on where
    :attr:`state` of another stream with the same arguments was. Raises UserError where the text is too
    short.
    """

    def __init__(
        self,
        split: TokenizedSplit,
        *,
        batch_size: int,
        sequence_length: int,
        seed: int,
        boundary_id: int,
        predict_boundary: bool = False,
        rank: int = 0,
        world_size: int = 1,
        state: StreamState | None = None,
    ) -> None:
        assert 0 <= rank < world_size
        assert min(batch_size, sequence_length) > 0
        most = split.lanes_that_fit(sequence_length)
        if batch_size * world_size > most:
            raise UserError(
                f"{len(split.tokens):,} training tokens make at most {most} lanes of {sequence_length} tokens, not "
                f"{batch_size * world_size}: use a smaller batch, shorter segments or more text."
            )
        self._split = split
        self._batch_size = batch_size
        self._sequence_length = sequence_length
        self._seed = seed
        self._boundary_id = boundary_id
        self._predict_boundary = predict_boundary
        self._lane_length = len(split.tokens) // (batch_size * world_size)
        self._first_lane = rank * batch_size
        self.segments_per_epoch = self._lane_length // sequence_length
        self._epoch = 0
        self._segment = 0
        if state:
            self._epoch, self._segment = StreamState(*state)
        self._shuffle()

    @property
    def state(self) -> StreamState:
        """Where the stream stands: the segment that comes next."""
        return StreamState(self._epoch, self._segment)

    @property
    def epoch(self) -> float:
        """The number of epochs that have been read, with the part of the present one."""
        return self._epoch + self._segment / self.segments_per_epoch

    def __next__(self) -> Segment:
        segment = self._gather(self._segment)
        self._segment += 1
        if self._segment == self.segments_per_epoch:
            self._epoch += 1
            self._segment = 0
            self._shuffle()
        return segment

    def _shuffle(self) -> None:
        """Draw the order of the documents and the rotation of this epoch."""
        random = np.random.default_rng((self._seed, self._epoch))
        order = random.permutation(self._split.documents)
        lengths = np.diff(self._split.offsets)[order]
        self._ends = np.cumsum(lengths)  # of the documents in the shuffled text
        self._cut = ~self._split.ends[order]
        # From a position in the shuffled text to one in the stored text, for each document.
        self._shift = self._split.offsets[order] - (self._ends - lengths)
        self._rotation = int(random.integers(len(self._split.tokens)))

    def _gather(self, index: int) -> Segment:
        """Return segment ``index`` of each lane."""
        lanes = self._first_lane + np.arange(self._batch_size)
        starts_B = lanes * self._lane_length + index * self._sequence_length
        positions = starts_B[:, None] + np.arange(self._sequence_length + 1)
        tokens, documents = self._read(positions)
        inputs_BT = tokens[:, :-1]
        targets_BT = tokens[:, 1:].copy()
        reset_BT = inputs_BT == self._boundary_id
        if index == 0:
            reset_BT[:, 0] = True  # what stands before it is another lane's
        # At the end of the text the next token would be that of its beginning, where the rotation has gone
        # round.
        targets_BT[positions[:, 1:] == len(self._split.tokens)] = IGNORED
        passed_over = targets_BT == self._boundary_id
        if self._predict_boundary:
            passed_over &= self._cut[documents[:, :-1]]
        targets_BT[passed_over] = IGNORED
        return Segment(np.ascontiguousarray(inputs_BT), targets_BT, reset_BT)

    def _read(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return tokens of the shuffled and rotated text, which is never laid out, and their documents."""
        rotated = (positions + self._rotation) % len(self._split.tokens)
        document = np.searchsorted(self._ends, rotated, side="right")
        tokens = self._split.tokens[rotated + self._shift[document]].astype(np.int64)
        return tokens, document
