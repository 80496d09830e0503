"""Attention masks, as transformers gives them, and what they mean to a model whose state reads every position.

Padding is moved before the tokens of its row and cut off by a reset at the first of them, so it has no effect on any
token, wherever it stood. Shapes: B batch, T positions of this call, S all positions (T and those read before).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from weft.errors import UserError


class Alignment(NamedTuple):
    """How a piece is read: ``order_BT`` names the position that is read at each place; None where nothing moves.

    ``start_BT`` is True at the first token of each row that read none before.
    """

    order_BT: Tensor | None
    start_BT: Tensor

    def arrange(self, x: Tensor) -> Tensor:
        """Bring (B, T) or (B, T, D) into the order in which it is read."""
        return x if self.order_BT is None else _gather(x, self.order_BT)

    def restore(self, x: Tensor) -> Tensor:
        """Bring (B, T) or (B, T, D) back into the order of the input."""
        return x if self.order_BT is None else _gather(x, self.order_BT.argsort(1))


def align(mask_BS: Tensor | None, *, rows: int, time: int, seen: int, device: torch.device) -> Alignment:
    """Return how to read a piece of ``time`` positions under a mask that is 1 at tokens and 0 at padding.

    Raises UserError for a mask of another shape, and where padding follows tokens that an earlier call has read.
    """
    start_BT = torch.zeros(rows, time, dtype=torch.bool, device=device)
    if mask_BS is None:
        return Alignment(None, start_BT)
    if mask_BS.shape != (rows, seen + time):
        raise UserError(
            f"attention_mask is {tuple(mask_BS.shape)}, but must be ({rows}, {seen + time}): "
            "one number for each token, those that past_key_values has read included."
        )
    mask_BS = mask_BS.to(device).bool()
    here_BT, began_B = mask_BS[:, seen:], mask_BS[:, :seen].any(1)
    padded = not bool(here_BT.all())
    if padded and bool((began_B & ~here_BT.all(1)).any()):
        raise UserError(
            "attention_mask hides tokens of a text that past_key_values has begun to read: pad before a text's first "
            "token, or read each text by itself."
        )
    order_BT = here_BT.to(torch.uint8).argsort(dim=1, stable=True) if padded else None
    placed_BT = here_BT if order_BT is None else here_BT.gather(1, order_BT)
    start_BT = placed_BT & (placed_BT.cumsum(1) == 1) & ~began_B[:, None]
    return Alignment(order_BT, start_BT)


def _gather(x: Tensor, order_BT: Tensor) -> Tensor:
    return x.gather(1, order_BT) if x.dim() == 2 else x.gather(1, order_BT[..., None].expand_as(x))
