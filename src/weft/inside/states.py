"""A change of the recurrent state, between two calls of a model.

Shapes: B texts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from weft.errors import UserError
from weft.layers.state import shiftable_fields
from weft.model import ModelState


def shift_state(
    state: ModelState, delta: ModelState, multiplier: float = 1.0, *, depths: Collection[int] | None = None
) -> ModelState:
    """Return ``state`` with ``multiplier`` times ``delta`` added, at ``depths`` (None: all); both stay as they are.

    What can be shifted are vectors: a recurrence's cells, its window of inputs, and a token shift's last input
    (:func:`weft.layers.state.shiftable`). Keys, values, what is valid and ids of bigrams stay those of ``state``, and
    those of ``delta`` are not read: so it may be a state of one text (B = 1), or a difference of states. UserError
    where they are of two models.
    """
    if len(state.blocks) != len(delta.blocks):
        raise UserError(f"The states are of two models: one has {len(state.blocks)} blocks, one {len(delta.blocks)}.")
    blocks = []
    for depth, (block, of_delta) in enumerate(zip(state.blocks, delta.blocks, strict=True)):
        wanted = depths is None or depth in depths
        blocks.append(_shifted(block, of_delta, multiplier, depth) if wanted else block)
    return state._replace(blocks=tuple(blocks))


def _shifted(state: Any, delta: Any, multiplier: float, depth: int) -> Any:
    if type(state) is not type(delta):
        raise UserError(
            f"The states are of two models: at depth {depth} one is {type(state).__name__}, one {type(delta).__name__}."
        )
    changed = {}
    for name in shiftable_fields(state):
        part, more = getattr(state, name), getattr(delta, name)
        if not isinstance(part, Tensor):
            changed[name] = _shifted(part, more, multiplier, depth)
            continue
        if part.shape[1:] != more.shape[1:] or len(more) not in (1, len(part)):
            raise UserError(
                f"The states are of two models or batches: {name} of depth {depth} is {tuple(part.shape)} in one and "
                f"{tuple(more.shape)} in the other."
            )
        changed[name] = part + multiplier * more.to(part)
    return state._replace(**changed)


def vectors_of(state: ModelState) -> dict[str, Tensor]:
    """Return the vectors of a state that :func:`shift_state` adds to, by their places, such as ``2.mixer.cell_BC``."""
    found: dict[str, Tensor] = {}
    for depth, block in enumerate(state.blocks):
        _collect(block, str(depth), found)
    return found


def _collect(state: Any, place: str, found: dict[str, Tensor]) -> None:
    for name in shiftable_fields(state):
        part = getattr(state, name)
        if isinstance(part, Tensor):
            found[f"{place}.{name}"] = part
        else:
            _collect(part, f"{place}.{name}", found)


def with_vectors(state: ModelState, vectors: Mapping[str, Tensor]) -> ModelState:
    """Return ``state`` with these vectors in their places; KeyError for a missing one, ValueError for a wrong size."""
    blocks = [_filled(block, str(depth), vectors) for depth, block in enumerate(state.blocks)]
    return state._replace(blocks=tuple(blocks))


def _filled(state: Any, place: str, vectors: Mapping[str, Tensor]) -> Any:
    changed = {}
    for name in shiftable_fields(state):
        part = getattr(state, name)
        if not isinstance(part, Tensor):
            changed[name] = _filled(part, f"{place}.{name}", vectors)
            continue
        given = vectors[f"{place}.{name}"]
        if given.shape != part.shape:
            raise ValueError(f"{place}.{name}")
        changed[name] = given.to(part)
    return state._replace(**changed) if changed else state
