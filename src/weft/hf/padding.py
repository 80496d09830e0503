"""Attention masks, as transformers gives them, and what they mean to a model whose state reads every position.

Padding is moved before the tokens of its row and cut off by a reset at the first of them, so it has
no effect on any token, wherever it stood. Shapes: B batch, T positions of this call, S all
positions (T and those read before).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from weft.errors import UserError


class Alignment(NamedTuple):
    """How a piece is read: ``place_BT`` is where each position is read, ``order_BT`` the position that is read at each
    place; None where nothing moves.

    ``start_BT`` is True at the first token of each row that read none before.
    """

    place_BT: Tensor | None
    order_BT: Tensor | None
    start_BT: Tensor

    def arrange(self, x: Tensor) -> Tensor:
        """Bring (B, T) or (B, T, D) into the order in which it is read."""
        return _gather(x, self.order_BT)

    def restore(self, x: Tensor) -> Tensor:
        """Bring (B, T) or (B, T, D) back into the order of the input."""
        return _gather(x, self.place_BT)


def align(mask_BS: Tensor | None, *, rows: int, time: int, seen: int, device: torch.device) -> Alignment:
    """Return how to read a piece of ``time`` positions under a mask that is 1 at tokens and 0 at padding.

    While a graph is made, which looks at no value, everything is moved, if only to where it is.
    Raises UserError for a mask of another shape, and where padding follows tokens that an earlier
    call has read (a graph does not notice).
    """
    if mask_BS is None:
        return Alignment(None, None, torch.zeros(rows, time, dtype=torch.bool, device=device))
    if torch.compiler.is_compiling():
        seen = mask_BS.shape[1] - time  # not what it was when the graph was made
    if mask_BS.shape != (rows, seen + time):
        raise UserError(
            f"attention_mask is {tuple(mask_BS.shape)}, but must be ({rows}, {seen + time}): "
            "one number for each token, those that the cache has read included."
        )
    mask_BS = mask_BS.to(device).bool()
    here_BT = mask_BS[:, seen:]
    began_B = mask_BS[:, :seen].any(1)  # rows that have read a token before
    if not torch.compiler.is_compiling():
        if bool(here_BT.all()):
            return Alignment(None, None, _start(here_BT, began_B))
        if bool((began_B & ~here_BT.all(1)).any()):
            raise UserError(
                "attention_mask hides tokens of a text that the cache has begun to read: pad before a text's "
                "first token, or read each text by itself."
            )
    # Padding first, then the tokens, each in the order that it has. A sum says where; a
    # sort would not go into ONNX.
    padded_BT = (~here_BT).long().cumsum(1)
    place_BT = torch.where(here_BT, padded_BT[:, -1:] + here_BT.long().cumsum(1), padded_BT) - 1
    positions_BT = torch.arange(time, device=device).expand(rows, time)
    order_BT = torch.zeros_like(place_BT).scatter(1, place_BT, positions_BT)
    return Alignment(place_BT, order_BT, _start(here_BT.gather(1, order_BT), began_B))


def _start(here_BT: Tensor, began_B: Tensor) -> Tensor:
    """Return where the first token of each row is that has not begun."""
    return here_BT & (here_BT.long().cumsum(1) == 1) & ~began_B[:, None]


def _gather(x: Tensor, order_BT: Tensor | None) -> Tensor:
    """Return the positions of ``x`` in that order; None is the order that they have."""
    if order_BT is None:
        return x
    if x.dim() == 2:
        return x.gather(1, order_BT)
    return x.gather(1, order_BT[..., None].expand_as(x))
