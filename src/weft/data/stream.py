"""The training segments of a prepared corpus, whichever kind it is of: tokenized, or read as it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from weft.data.document_stream import DocumentStream, join_document_states
from weft.data.prepared import PreparedData
from weft.data.segments import TrainingStream
from weft.data.streamed import StreamedSplit
from weft.data.token_stream import StreamState, TokenStream


def open_stream(
    prepared: PreparedData,
    *,
    batch_size: int,
    sequence_length: int,
    seed: int,
    predict_boundary: bool = False,
    rank: int = 0,
    world_size: int = 1,
    state: Any = None,
) -> TrainingStream:
    """Return the training segments of a prepared corpus, tokenized or streaming, from where ``state`` stands.

    ``state`` is what :attr:`TrainingStream.state` said in one process, or :func:`join_states` of all ranks.
    """
    if isinstance(prepared.train, StreamedSplit):
        return DocumentStream(
            prepared.train,
            prepared.tokenizer,
            lanes=batch_size,
            length=sequence_length,
            seed=seed,
            predict_boundary=predict_boundary,
            rank=rank,
            world_size=world_size,
            state=state,
        )
    return TokenStream(
        prepared.train,
        lanes=batch_size,
        length=sequence_length,
        seed=seed,
        boundary_id=prepared.tokenizer.boundary_id,
        predict_boundary=predict_boundary,
        rank=rank,
        world_size=world_size,
        state=None if state is None else StreamState(*state),
    )


def join_states(states: Sequence[Any]) -> Any:
    """Return one state for all ranks, given those of each in order; any rank of any number of them can take it up."""
    if not isinstance(states[0], dict):
        return states[0]  # all ranks stand at the same segment
    return join_document_states(states)
