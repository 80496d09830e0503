"""Segments made in a thread are the same, and the place in the text is that of the last one given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from weft.data.segments import Segment
from weft.errors import UserError
from weft.training.prefetch import Prefetcher

CPU = torch.device("cpu")


class Counting:
    """Segments that hold their number."""

    def __init__(self, last: int = 100) -> None:
        self.number, self.last = 0, last

    def __next__(self) -> Segment:
        if self.number == self.last:
            raise UserError("There is no more text.")
        self.number += 1
        return Segment(*(np.full((2, 3), self.number, dtype) for dtype in (np.int64, np.int64, np.bool_)))

    @property
    def state(self) -> int:
        return self.number

    @property
    def epoch(self) -> float:
        return self.number / 10


@pytest.mark.parametrize("ahead", [False, True])
def test_each_segment_comes_with_its_own_place(ahead):
    stream = Counting()
    prefetcher = Prefetcher(stream, CPU, ahead=ahead)
    assert (prefetcher.state, prefetcher.epoch) == (0, 0.0)
    for number in range(1, 6):
        batch = next(prefetcher)
        assert batch.tokens_BT.unique().tolist() == batch.targets_BT.unique().tolist() == [number]
        assert batch.reset_BT.dtype == torch.bool
        assert (prefetcher.state, prefetcher.epoch) == (number, number / 10)
    prefetcher.close()
    assert stream.number in ((5, 6) if ahead else (5,))


@pytest.mark.parametrize("ahead", [False, True])
def test_an_error_comes_with_the_segment_that_it_is_about(ahead):
    prefetcher = Prefetcher(Counting(last=2), CPU, ahead=ahead)
    assert next(prefetcher).tokens_BT[0, 0] == 1
    assert next(prefetcher).tokens_BT[0, 0] == 2
    with pytest.raises(UserError, match="no more text"):
        next(prefetcher)
    prefetcher.close()


def test_nothing_is_made_before_somebody_asks():
    stream = Counting()
    Prefetcher(stream, CPU, ahead=True).close()
    assert stream.number == 0
