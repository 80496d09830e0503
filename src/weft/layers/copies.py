"""Copies of weights in bfloat16, for products: cast once a step, by who changes them, and not at every use.

Training keeps its weights in float32 and multiplies in bfloat16. Autocast casts a weight whenever a map is
applied. An optimizer that promises to (:func:`keep_copies`) writes the copy in the pass in which it changes the
weight, and says so by :func:`renewed`. A copy is used for as long as its weight counts no other change: weights
that somebody else changes in place are cast anew. Without such an optimizer nothing is kept at all, since who
writes to ``weight.data`` leaves no trace.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, MutableMapping

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


_kept: MutableMapping[Tensor, _Copy] = WeakIdKeyDictionary()  # by identity


def keep_copies(weights: Iterable[Tensor], owner: object) -> None:
    """Keep a copy of each weight that is used, for as long as ``owner`` lives, which renews it with each change."""
    for weight in weights:
        _kept[weight] = _Copy(owner)


@torch.no_grad()
def bf16_copy(weight: Tensor) -> Tensor:
    """Return ``weight`` rounded to bfloat16."""
    copy = _kept.get(weight)
    if copy is None or copy.owner() is None:
        return weight.detach().to(torch.bfloat16)
    now = versions([weight])
    if copy.numbers is None:
        copy.numbers = weight.detach().to(torch.bfloat16)
        copy.written = now
    elif copy.written != now:
        copy.numbers.copy_(weight.detach())
        copy.written = now
    return copy.numbers


def copy_to_renew(weight: Tensor) -> Tensor | None:
    """Return the copy that is to be written with the next change of ``weight``; None where nobody uses one."""
    copy = _kept.get(weight)
    return None if copy is None else copy.numbers


def renewed(weight: Tensor) -> None:
    """Say that the copy was written after the last change of ``weight``."""
    _kept[weight].written = versions([weight])
