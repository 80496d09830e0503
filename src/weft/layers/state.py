"""Recurrent state: NamedTuples of tensors, batch first, passed in and out; never an attribute of a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

from torch import Tensor

StateT = TypeVar("StateT")


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


def detach(state: StateT) -> StateT:
    """Cut the state from the autograd graph that made it."""
    return map_state(Tensor.detach, state)


def tensors(state: object) -> list[Tensor]:
    """Return the tensors of a state in a fixed order."""
    if isinstance(state, Tensor):
        return [state]
    assert isinstance(state, tuple), type(state)
    return [tensor for part in state for tensor in tensors(part)]
