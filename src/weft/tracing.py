"""What stands at the sites of a stack while a text is read, a piece at a time.

Shapes: as the sites say (:meth:`weft.model.WeftModel.sites`); B batch, T time.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from weft.errors import UserError
from weft.layers.sites import Edits, Watch

PIECE = 512  # positions


class Site(NamedTuple):
    """A place in the stack: its name and depth, the shape of what stands there, and the letter of its block."""

    name: str
    depth: int
    shape: str
    block: str

    def __str__(self) -> str:
        return f"{self.name}.{self.depth}"


class Piece(NamedTuple):
    """Positions ``start`` to ``stop`` of a text: what stands there by site, and the state after them.

    Values have storage of their own: who keeps one keeps nothing else.
    """

    start: int
    stop: int
    values: dict[str, Tensor]
    state: Any


class Readable(Protocol):
    """What can be traced."""

    training: bool

    def sites(self) -> list[Site]:
        """Its sites."""

    def hidden(
        self, tokens: Tensor, state: Any, reset: Tensor | None, *, watch: Watch | None, edits: Edits | None
    ) -> tuple[Tensor, Any]:
        """Read tokens."""

    def eval(self) -> Any:
        """Evaluation mode."""

    def train(self, mode: bool) -> Any:
        """The mode ``mode``."""


class Collected:
    """Keeps copies of what stands at the sites that are wanted."""

    def __init__(self, wanted: Sequence[Site]) -> None:
        self._wanted = {(site.name, site.depth): str(site) for site in wanted}
        self.values: dict[str, Tensor] = {}

    def wants(self, name: str, depth: int) -> bool:
        """Tell whether a site is among those."""
        return (name, depth) in self._wanted

    def see(self, name: str, depth: int, value: Tensor) -> None:
        """Keep a copy."""
        self.values[self._wanted[name, depth]] = value.detach().clone(memory_format=torch.contiguous_format)


def trace(
    model: Readable,
    tokens: Tensor,
    state: Any,
    reset: Tensor | None,
    *,
    sites: Sequence[str],
    piece: int,
    edits: Edits | None,
) -> Iterator[Piece]:
    """Do what :meth:`weft.model.WeftModel.trace` says."""
    wanted = chosen_sites(model.sites(), sites)
    if isinstance(piece, bool) or not isinstance(piece, int) or piece < 1:
        raise UserError(f"'piece' is {piece!r}: give a number of positions from 1 on.")
    if edits is not None and edits.mask_BT is not None:
        raise UserError("A trace reads a text in pieces, and the edits' mask is of one call: leave the mask out.")
    return _pieces(model, tokens, state, reset, wanted, piece, edits)


def _pieces(
    model: Readable,
    tokens: Tensor,
    state: Any,
    reset: Tensor | None,
    wanted: Sequence[Site],
    piece: int,
    edits: Edits | None,
) -> Iterator[Piece]:
    time = tokens.shape[1]
    for start in range(0, time, piece):
        stop = min(start + piece, time)
        reset_BT = None if reset is None else reset[:, start:stop]
        watch = Collected(wanted)
        # The mode is put back before anything is yielded, as a generator may never be gone on with.
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                _, state = model.hidden(tokens[:, start:stop], state, reset_BT, watch=watch, edits=edits)
        finally:
            model.train(training)
        values = {str(site): watch.values[str(site)] for site in wanted}
        yield Piece(start, stop, values, state)


def chosen_sites(known: Sequence[Site], asked: Sequence[str]) -> list[Site]:
    """Return the sites of ``known`` that are ``asked`` for, by a name alone or with a depth; UserError for another.

    A piece's values stand in the order of the stack.
    """
    if isinstance(asked, str):
        asked = (asked,)
    by_name: dict[str, list[Site]] = {}
    for site in known:
        by_name.setdefault(site.name, []).append(site)
    chosen: set[Site] = set()
    for text in asked:
        name, dot, depth = str(text).partition(".")
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UserError(f"This model has no site '{text}': there are {', '.join(by_name)}.{hint}")
        found = by_name[name]
        if dot:
            found = [site for site in found if str(site.depth) == depth]
        if not found:
            depths = ", ".join(str(site.depth) for site in by_name[name])
            raise UserError(f"This model has no site '{text}': {name} stands at the depths {depths}.")
        chosen.update(found)
    return [site for site in known if site in chosen]
