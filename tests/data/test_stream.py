from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data.prepare import TokenizedSplit
from weft.data.segments import IGNORED, Segment
from weft.data.token_stream import StreamState, TokenStream
from weft.errors import UserError

BOUNDARY = 1000


def split_of(lengths: list[int]) -> TokenizedSplit:
    """A split whose every text token is unique and tells its place: 2000, 2001, ..."""
    counter = itertools.count(2000)
    documents = [[BOUNDARY, *itertools.islice(counter, length)] for length in lengths]
    tokens = np.array([token for document in documents for token in document], dtype=np.uint16)
    offsets = np.cumsum([0, *(len(document) for document in documents)]).astype(np.int64)
    return TokenizedSplit(tokens, offsets, bytes=sum(lengths), characters=None, words=None)


def stream_of(split: TokenizedSplit, **settings: Any) -> TokenStream:
    return TokenStream(split, **{"batch_size": 2, "sequence_length": 4, "seed": 1, "boundary_id": BOUNDARY, **settings})


def epoch_of(stream: TokenStream) -> list[Segment]:
    return [next(stream) for _ in range(stream.segments_per_epoch)]


def same(one: Segment, other: Segment) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def laid_out(split: TokenizedSplit, seed: int, epoch: int) -> list[int]:
    """The slow truth: the shuffled, rotated text of an epoch as a list."""
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(split.documents)
    text = [token for index in order for token in split.document(index).tolist()]
    start = int(random.integers(len(text)))
    return text[start:] + text[:start]


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=20).filter(lambda lengths: sum(lengths) >= 30)


@given(LENGTHS, st.integers(1, 3), st.integers(1, 5), st.booleans(), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_lanes_are_the_text_laid_out(
    lengths: list[int], lanes: int, length: int, predict_boundary: bool, seed: int
) -> None:
    split = split_of(lengths)
    stream = stream_of(split, batch_size=lanes, sequence_length=length, seed=seed, predict_boundary=predict_boundary)
    for epoch in range(2):
        text = np.array(laid_out(split, seed, epoch))
        following = np.append(text[1:], IGNORED)
        if not predict_boundary:
            following[following == BOUNDARY] = IGNORED
        segments = epoch_of(stream)
        lane_length = len(text) // lanes
        for lane in range(lanes):
            used = slice(lane * lane_length, lane * lane_length + len(segments) * length)
            inputs, targets, reset = (
                np.concatenate([part[lane] for part in parts]) for parts in zip(*segments, strict=True)
            )
            assert np.array_equal(inputs, text[used])
            assert np.array_equal(targets, following[used])
            assert np.array_equal(reset, (inputs == BOUNDARY) | (np.arange(len(inputs)) == 0))


def test_segments_are_ready_for_a_model() -> None:
    segment = next(stream_of(split_of([50] * 4), batch_size=3, sequence_length=5))
    for array, dtype in zip(segment, (np.int64, np.int64, np.bool_), strict=True):
        assert array.shape == (3, 5)
        assert array.dtype == dtype
        assert array.flags.c_contiguous


def test_an_epoch_reads_every_token_once_but_for_the_ends_of_lanes() -> None:
    split = split_of([5, 9, 30, 2, 17])
    inputs = np.concatenate([segment.inputs_BT.ravel() for segment in epoch_of(stream_of(split))])
    text = inputs[inputs != BOUNDARY]
    assert len(set(text.tolist())) == len(text)
    assert len(split.tokens) - len(inputs) < 2 * 4 + 2


def test_the_tokens_an_epoch_leaves_out_come_in_another() -> None:
    split = split_of([7, 8, 9])
    stream = stream_of(split)
    seen = {int(token) for _ in range(20) for segment in epoch_of(stream) for token in segment.inputs_BT.ravel()}
    assert seen == set(split.tokens.tolist())


@given(st.integers(0, 40), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_stream_goes_on_from_its_state_to_the_token(steps: int, seed: int) -> None:
    split = split_of([12, 30, 4, 21])
    stream = stream_of(split, seed=seed)
    for _ in range(steps):
        next(stream)
    state = StreamState(*json.loads(json.dumps(stream.state)))
    again = stream_of(split, seed=seed, state=state)
    assert again.epoch == stream.epoch
    for _ in range(stream.segments_per_epoch + 2):
        assert same(next(again), next(stream))
    assert again.state == stream.state


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_together_are_one_process_with_all_lanes(world_size: int) -> None:
    split = split_of([40, 3, 25, 60, 11])
    whole = stream_of(split, batch_size=2 * world_size)
    ranks = [stream_of(split, batch_size=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    for _ in range(2 * whole.segments_per_epoch):
        parts = [next(stream) for stream in ranks]
        assert same(Segment(*map(np.concatenate, zip(*parts, strict=True))), next(whole))


def test_epochs_and_seeds_differ_and_repeat_exactly() -> None:
    split = split_of([10] * 12)
    first, second = stream_of(split), stream_of(split)
    one, two = epoch_of(first), epoch_of(first)
    assert all(map(same, one, epoch_of(second)))
    assert all(map(same, two, epoch_of(second)))
    assert not any(map(same, one, two))
    assert not any(map(same, one, epoch_of(stream_of(split, seed=2))))


def test_one_huge_document_begins_elsewhere_in_each_epoch() -> None:
    stream = stream_of(split_of([5000]), batch_size=1)
    starts = {int(epoch_of(stream)[0].inputs_BT[0, 0]) for _ in range(4)}
    assert len(starts) == 4


def test_epoch_tells_how_far_it_is() -> None:
    stream = stream_of(split_of([31]), batch_size=1, sequence_length=4)
    seen = [stream.epoch for _ in zip(range(9), stream, strict=False)]
    assert seen == [(i + 1) / 8 for i in range(9)]


def test_more_lanes_than_the_text_fills_is_an_error() -> None:
    split = split_of([30])
    most = split.lanes_that_fit(4)
    assert most == 7
    next(stream_of(split, batch_size=most))
    with pytest.raises(UserError, match="at most 7 lanes of 4 tokens, not 8"):
        stream_of(split, batch_size=4, world_size=2)
    assert split.lanes_that_fit(32) == 0
