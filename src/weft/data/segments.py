"""What a training step reads: segments of text in ids, from a stream that has no end.

Legend: B lanes of this rank (its batch size), T tokens of a segment (the sequence length).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

IGNORED = -100  # the target that cross-entropy passes over


class Segment(NamedTuple):
    """What a training step reads: ids, the ids that follow (or -100), and where the past ends."""

    inputs_BT: NDArray[np.int64]
    targets_BT: NDArray[np.int64]
    reset_BT: NDArray[np.bool_]


class TrainingStream(Protocol):
    """What a trainer reads: segments without end, and where they stand."""

    def __next__(self) -> Segment:
        """Return the next segment of every lane of this rank."""
        ...

    @property
    def state(self) -> Any:
        """Where the stream stands, as JSON can hold it; see :func:`weft.data.stream.join_states` for several ranks."""
        ...

    @property
    def epoch(self) -> float:
        """The number of passes over the text, with the part of the present one."""
        ...
