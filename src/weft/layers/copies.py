"""Copies of weights in bfloat16, for products: cast once a step, by who changes them, and not at every use.

Training keeps its weights in float32 and multiplies in bfloat16. Autocast casts a weight whenever a map is
applied. An optimizer that promises to (:func:`keep_copies`) writes the copy in the pass in which it changes the
weight, and says so by :func:`renewed`. A copy is used for as long as its weight counts no other change: weights
that somebody else changes in place are cast anew. Without such an optimizer nothing is kept at all, since who
writes to ``weight.data`` leaves no trace.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, MutableMapping, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from weft.layers.versions import versions


class _Copy:
    """A copy, who keeps it, and what its weight was when it was written (None: not yet)."""

    def __init__(self, owner: object) -> None:
        self.owner = weakref.ref(owner)
        self.written: list[object] | None = None
        self.numbers: Tensor | None = None
        self.stack: Tensor | None = None  # of several copies below each other, one of which this is


_kept: MutableMapping[Tensor, _Copy] = WeakIdKeyDictionary()  # by identity


def keep_copies(weights: Iterable[Tensor], owner: object) -> None:
    """Keep a copy of each weight that is used, for as long as ``owner`` lives, which renews it with each change."""
    for weight in weights:
        _kept[weight] = _Copy(owner)


@torch.no_grad()
def bf16_copy(weight: Tensor) -> Tensor:
    """Return ``weight`` rounded to bfloat16."""
    copy = _copy_of(weight)
    if copy is None:
        return weight.detach().to(torch.bfloat16)
    with torch.inference_mode(mode=False):  # training goes on with it
        if copy.numbers is None:
            copy.numbers = torch.empty_like(weight, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
            copy.written = None
        _bring_up_to_date(weight, copy, copy.numbers)
    return copy.numbers


@torch.no_grad()
def bf16_copies(weights: Sequence[Tensor]) -> Tensor:
    """Return weights (M, N), of which each has its own M, rounded to bfloat16 and below each other."""
    if len(weights) == 1:
        return bf16_copy(weights[0])
    copies = [copy for copy in map(_copy_of, weights) if copy is not None]
    if len(set(map(id, copies))) < len(weights):  # some are not kept, or are the same
        return torch.cat([weight.detach().to(torch.bfloat16) for weight in weights])
    with torch.inference_mode(mode=False):
        stack = copies[0].stack
        if stack is None or any(copy.stack is not stack for copy in copies):
            # From now on they are kept in one tensor, of which each copy is a part.
            rows = [weight.shape[0] for weight in weights]
            stack = torch.empty(sum(rows), weights[0].shape[1], dtype=torch.bfloat16)
            for copy, part in zip(copies, torch.split(stack, rows), strict=True):
                copy.numbers = part
                copy.written = None
                copy.stack = stack
        for weight, copy in zip(weights, copies, strict=True):
            assert copy.numbers is not None
            _bring_up_to_date(weight, copy, copy.numbers)
    return stack


def _copy_of(weight: Tensor) -> _Copy | None:
    """Return the copy that somebody keeps of ``weight``."""
    copy = _kept.get(weight)
    if copy is not None and copy.owner() is None:
        del _kept[weight]
        return None
    return copy


def _bring_up_to_date(weight: Tensor, copy: _Copy, numbers: Tensor) -> None:
    """Write the copy anew if its weight has changed since it was written."""
    now = versions([weight])
    if copy.written != now:
        numbers.copy_(weight.detach())
        copy.written = now


def copy_to_renew(weight: Tensor) -> Tensor | None:
    """Return the copy that is to be written with the next change of ``weight``; None where nobody uses one."""
    copy = _copy_of(weight)
    return None if copy is None else copy.numbers


def renewed(weight: Tensor) -> None:
    """Say that the copy was written after the last change of ``weight``."""
    _kept[weight].written = versions([weight])
