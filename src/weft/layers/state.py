"""Recurrent state: NamedTuples of tensors, batch first, passed in and out; never an attribute of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar, cast

from torch import Tensor

StateT = TypeVar("StateT")
# Of a state: None for a tensor, else a list of the class of a tuple and its parts' structures.
Structure = list[Any] | None


_SHIFTABLE: dict[type, tuple[str, ...]] = {}


def shiftable(*fields: str) -> Callable[[type[StateT]], type[StateT]]:
    """Say of a state's class which fields are vectors to which another can be added, or states that have such."""

    def noted(kind: type[StateT]) -> type[StateT]:
        _SHIFTABLE[kind] = fields
        return kind

    return noted


def shiftable_fields(state: object) -> tuple[str, ...]:
    """Return what :func:`shiftable` says of a state; of others nothing."""
    return _SHIFTABLE.get(type(state), ())


class NoState(NamedTuple):
    """The state of a block that remembers nothing."""


def map_state(function: Callable[[Tensor], Tensor], state: StateT) -> StateT:
    """Apply ``function`` to every tensor of a (nested) state, keeping its structure."""
    if isinstance(state, Tensor):
        return cast("StateT", function(state))
    assert isinstance(state, tuple), type(state)
    parts = [map_state(function, part) for part in state]
    make = getattr(type(state), "_make", type(state))
    return cast("StateT", make(parts))


def zeros(state: StateT, batch_size: int) -> StateT:
    """Return zeros in the form of ``state``, for ``batch_size`` texts."""
    return map_state(lambda part: part.new_zeros(batch_size, *part.shape[1:]), state)


def detach(state: StateT) -> StateT:
    """Cut the state from the autograd graph that made it."""
    return map_state(Tensor.detach, state)


def tensors(state: object) -> list[Tensor]:
    """Return the tensors of a state in a fixed order."""
    if isinstance(state, Tensor):
        return [state]
    assert isinstance(state, tuple), type(state)
    found: list[Tensor] = []
    for part in state:
        found += tensors(part)
    return found


def structure(state: object) -> Structure:
    """Return what a state is beside its tensors, as plain lists, classes and None."""
    if isinstance(state, Tensor):
        return None
    assert isinstance(state, tuple), type(state)
    return [type(state), *(structure(part) for part in state)]


def build_state(shape: Structure, values: Iterator[Tensor]) -> Any:
    """Return the state of this :func:`structure` that holds ``values``, which are in the order of :func:`tensors`."""
    if shape is None:
        return next(values)
    parts = [build_state(part, values) for part in shape[1:]]
    make: Any = getattr(shape[0], "_make", shape[0])
    return make(parts)
