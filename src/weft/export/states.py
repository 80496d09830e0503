"""The state of a model as a flat list of named tensors of fixed shape, which is how an exported program carries it.

The fixed form is that of :meth:`WeftModel.empty_state`: no tensor of it changes its shape.
A text starts with zeros everywhere (False for booleans), which every block reads as
"nothing happened yet". Shapes: B batch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weft.layers.state import map_state, tensors
from weft.layers.token_shift import ShiftedState
from weft.model import ModelState, WeftModel


@dataclass(frozen=True)
class StateTensor:
    """One tensor of the state: ``name`` is the number of the block application and the field, such as ``3.cell``."""

    name: str
    shape: tuple[int, ...]  # without the batch
    dtype: torch.dtype

    def start(self, batch: int) -> Tensor:
        """Return its value at the start of a text (B, ...)."""
        return torch.zeros(batch, *self.shape, dtype=self.dtype)


class StateLayout:
    """Which tensors a model's state has, and the way from the flat list to the blocks' NamedTuples and back."""

    def __init__(self, model: WeftModel) -> None:
        self._template = model.empty_state(1, torch.device("cpu"))
        # Latent bigrams have the number after the last block application.
        by_number = (*self._template.blocks, self._template.embedding)
        carried = []
        for name, x in zip(_names(by_number), tensors(by_number), strict=True):
            if x.numel():  # a QRNN of kernel size 1 remembers no inputs: what has no elements is not carried
                carried.append(StateTensor(name, tuple(x.shape[1:]), x.dtype))
        self.tensors = tuple(carried)

    def start(self, batch: int) -> tuple[Tensor, ...]:
        """Return the state at the start of ``batch`` texts."""
        return tuple(tensor.start(batch) for tensor in self.tensors)

    def nest(self, flat: Sequence[Tensor], batch: int) -> ModelState:
        """Return the state that the blocks take."""
        carried = iter(flat)

        def value(template: Tensor) -> Tensor:
            if template.numel():
                return next(carried)
            return torch.zeros(batch, *template.shape[1:], dtype=template.dtype)

        return map_state(value, self._template)

    def flatten(self, state: ModelState) -> tuple[Tensor, ...]:
        """Return the carried tensors of a state that the blocks gave, in the order of :attr:`tensors`."""
        pairs = zip(tensors(state), tensors(self._template), strict=True)
        return tuple(tensor for tensor, template in pairs if template.numel())


def _names(state: Any, prefix: str = "") -> Iterator[str]:
    """Yield the name of each tensor: the path through the NamedTuples, their fields without the shape suffix."""
    if isinstance(state, Tensor):
        yield prefix
        return
    fields = getattr(state, "_fields", range(len(state)))
    for field, part in zip(fields, state, strict=True):
        if isinstance(state, ShiftedState) and field == "mixer":  # it keeps the names that it has by itself
            yield from _names(part, prefix)
            continue
        name = re.sub("_[A-Z]+$", "", str(field))
        yield from _names(part, f"{prefix}.{name}" if prefix else name)
