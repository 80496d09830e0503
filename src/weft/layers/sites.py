"""Sites: places in a stack where one can look at what flows through, and change it.

A site is named by what stands there and by its depth, the number of the block application: ``residual.3`` is what
application 3 reads. Watching and changing are arguments of the walk, as the state is; no module is hooked, so that two
threads can read with one model.
Shapes: B batch, T time, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from weft.errors import UserError

RESIDUAL = "residual"  # what an application reads; at the depth of the stack, what the last norm reads
ADDED = "added"  # what an application adds to it, behind dropout and the block's gate
GATE = "gate"  # the factor of a block's gate
# Of a recurrence, at every position: its gates and values, behind zoneout, and its cells.
FORGET = "forget"
UPDATE = "update"
VALUE = "value"
OUTPUT = "output"
CELL = "cell"
PATTERN = "pattern"  # the weights of attention, by distance: 0 is the position itself

Change = Callable[[Tensor], Tensor]


class Watch(Protocol):
    """Whoever looks."""

    def wants(self, name: str, depth: int) -> bool:
        """Tell whether the site is to be seen: what nobody wants may never be made."""

    def see(self, name: str, depth: int, value: Tensor) -> None:
        """Take what stands at a site: a tensor of the computation, not to be changed, of which little may be kept."""


@dataclass(frozen=True)
class Edits:
    """Changes of what flows through a stack, at all positions of a call or where ``mask_BT`` is True.

    Attributes:
        add: by depth, what is added to the residual stream that the application reads (at the depth of the stack: the
            last norm): a vector (D), one for each text (B, D) or place (B, T, D), or a function of what is read.
        added: by depth, what the application adds instead of what it would: 0, such a vector, or a function of what
            it would. Its state goes on.
        read: by depth, a function from the stream to what is read in its place; applied before ``add``.
        mask_BT: where the changes hold; None: everywhere.

    What is seen at a site is what was read there, changed.
    """

    add: Mapping[int, Tensor | Change] = field(default_factory=dict)
    added: Mapping[int, Tensor | float | Change] = field(default_factory=dict)
    read: Mapping[int, Change] = field(default_factory=dict)
    mask_BT: Tensor | None = None

    @property
    def depths(self) -> set[int]:
        """The depths at which something is changed."""
        return {*self.add, *self.added, *self.read}

    def of_residual(self, depth: int, x_BTD: Tensor) -> Tensor:
        """Return what is read at a depth."""
        changed_BTD = x_BTD
        if depth in self.read:
            changed_BTD = self.read[depth](changed_BTD)
        if depth in self.add:
            more = self.add[depth]
            changed_BTD = changed_BTD + (_broadcast(more, x_BTD) if isinstance(more, Tensor) else more(changed_BTD))
        return self._masked(changed_BTD, x_BTD)

    def of_added(self, depth: int, added_BTD: Tensor) -> Tensor:
        """Return what an application adds."""
        if depth not in self.added:
            return added_BTD
        instead = self.added[depth]
        if isinstance(instead, Tensor):
            changed_BTD = _broadcast(instead, added_BTD).expand_as(added_BTD)
        elif callable(instead):
            changed_BTD = instead(added_BTD)
        else:
            changed_BTD = torch.full_like(added_BTD, instead)
        return self._masked(changed_BTD, added_BTD)

    def rearranged(self, arrange: Change, rows: int, time: int) -> Edits:
        """Return these changes for positions that ``arrange`` brings into another order, of texts (rows, time).

        UserError for a mask or a vector for each place that is of another shape.
        """
        moved: dict[str, Any] = {}
        for name in ("add", "added"):
            values = dict(getattr(self, name))
            for depth, value in values.items():
                if isinstance(value, Tensor) and value.dim() == 3:
                    _check_places(value, rows, time)
                    values[depth] = arrange(value)
            moved[name] = values
        if self.mask_BT is not None:
            _check_places(self.mask_BT, rows, time)
            moved["mask_BT"] = arrange(self.mask_BT)
        return replace(self, **moved)

    def then(self, read: Mapping[int, Change]) -> Edits:
        """Return these changes, and behind them ``read``: functions from the stream to what is read, everywhere."""

        def one(depth: int) -> Change:
            return lambda x_BTD: read[depth](self.of_residual(depth, x_BTD))

        def other(depth: int) -> Change:
            return lambda added_BTD: self.of_added(depth, added_BTD)

        before = {depth: partial(self.of_residual, depth) for depth in {*self.read, *self.add} - read.keys()}
        return Edits(read=before | {depth: one(depth) for depth in read}, added={d: other(d) for d in self.added})

    def _masked(self, changed_BTD: Tensor, x_BTD: Tensor) -> Tensor:
        if self.mask_BT is None or changed_BTD is x_BTD:
            return changed_BTD
        return torch.where(self.mask_BT.to(x_BTD.device)[..., None], changed_BTD, x_BTD)


class At(NamedTuple):
    """One application of a block, for whoever looks at it or changes it."""

    depth: int
    watch: Watch | None = None
    edits: Edits | None = None

    def wants(self, *names: str) -> bool:
        """Tell whether any of the sites of these names is to be seen here."""
        return self.watch is not None and any(self.watch.wants(name, self.depth) for name in names)

    def see(self, name: str, value: Tensor) -> None:
        """Show what stands at a site, if somebody wants to see it."""
        if self.watch is not None and self.watch.wants(name, self.depth):
            self.watch.see(name, self.depth, value)

    @property
    def replaces(self) -> bool:
        """Whether what the application adds is replaced."""
        return self.edits is not None and self.depth in self.edits.added


def _check_places(value: Tensor, rows: int, time: int) -> None:
    if tuple(value.shape[:2]) != (rows, time):
        raise UserError(
            f"The edits are for {value.shape[0]} texts of {value.shape[1]} tokens, and {rows} of {time} are read: give "
            "what fits this call, or leave their mask out."
        )


def _broadcast(vector: Tensor, like_BTD: Tensor) -> Tensor:
    """Return a vector (D), one for each row (B, D), or (B, T, D), as what can be added to ``like_BTD``."""
    vector = vector.to(like_BTD)
    return vector[:, None] if vector.dim() == 2 else vector
