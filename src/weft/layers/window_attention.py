"""Causal attention over a window of past positions, with explicit state.

Every position sees itself and at most the ``memory`` positions before it, in its own document, in training as in
streaming (Transformer-XL's same-length rule), so pieces of a text give what the whole gives. Queries are worked
through in blocks, so the work and the memory of a long text are those of its window.

Shapes: B batch, T time, M remembered positions, S = M + T, H heads, G key-value heads, K head width,
C queries in a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.layers.positions import rotary_tables, rotate

QUERY_BLOCK = 128
# Gives the additive scores (B, H, C, S) of a block of queries (B, H, C, K) over its last S keys.
PositionScores = Callable[[Tensor, int], Tensor]


class AttentionState(NamedTuple):
    """Keys and values of the last positions, before any rotation, and which of them are of the current document."""

    keys_BMGK: Tensor
    values_BMGK: Tensor
    valid_BM: Tensor


def window_attention(
    query_BTHK: Tensor,
    key_BTGK: Tensor,
    value_BTGK: Tensor,
    state: AttentionState | None,
    reset_BT: Tensor | None,
    *,
    memory: int,
    rotary: bool = False,
    position_scores: PositionScores | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, AttentionState]:
    """Return the attended values (B, T, H, K) and the state after the last position.

    ``position_scores`` adds position-dependent scores to the content scores (relative positions). G must divide H.
    """
    free = state is None and reset_BT is None  # nothing but order decides what is seen
    if state is None:
        state = _empty(key_BTGK)
    keys_BSGK = torch.cat([state.keys_BMGK, key_BTGK], dim=1)
    values_BSGK = torch.cat([state.values_BMGK, value_BTGK], dim=1)
    documents_BS = _documents(state, key_BTGK, reset_BT)
    after = _remember(keys_BSGK, values_BSGK, documents_BS, memory)

    time, past, heads = query_BTHK.shape[1], state.keys_BMGK.shape[1], query_BTHK.shape[2]
    turned_BSGK = keys_BSGK
    if rotary:
        cos, sin = rotary_tables(past + time, query_BTHK.shape[-1], query_BTHK)
        query_BTHK = rotate(query_BTHK, cos[past:], sin[past:])
        turned_BSGK = rotate(keys_BSGK, cos, sin)
    keys_BHSK, values_BHSK = (_by_head(x, heads) for x in (turned_BSGK, values_BSGK))
    query_BHTK = query_BTHK.transpose(1, 2)

    blocks = []
    for start in range(0, time, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, time)
        window = slice(max(0, past + start - memory), past + stop)
        query_BHCK = query_BHTK[:, :, start:stop]
        mask = _mask(past + start, past + stop, window, memory, None if free else documents_BS, query_BHCK)
        if position_scores is not None:
            scores = position_scores(query_BHCK, window.stop - window.start)
            mask = scores.masked_fill(~mask, float("-inf"))
        blocks.append(_attend(query_BHCK, keys_BHSK[:, :, window], values_BHSK[:, :, window], mask, dropout))
    attended_BHTK = torch.cat(blocks, dim=2) if blocks else query_BHTK
    return attended_BHTK.transpose(1, 2), after


def state_bytes(context: int, memory: int, kv_heads: int, head_dim: int, itemsize: int) -> int:
    """Return the bytes of one sequence's state after ``context`` tokens."""
    return min(context, memory) * (2 * kv_heads * head_dim * itemsize + 1)


def _empty(key_BTGK: Tensor) -> AttentionState:
    nothing = key_BTGK[:, :0]
    return AttentionState(nothing, nothing, torch.ones(nothing.shape[:2], dtype=torch.bool, device=key_BTGK.device))


def _documents(state: AttentionState, key_BTGK: Tensor, reset_BT: Tensor | None) -> Tensor:
    """Number the documents: 0 for the one that the state was in, -1 for remembered positions of older ones."""
    past_BM = state.valid_BM.to(torch.int32) - 1
    if reset_BT is None:
        now_BT = torch.zeros(key_BTGK.shape[:2], dtype=torch.int32, device=key_BTGK.device)
    else:
        now_BT = reset_BT.to(torch.int32).cumsum(1, dtype=torch.int32)
    return torch.cat([past_BM, now_BT], dim=1)


def _remember(keys_BSGK: Tensor, values_BSGK: Tensor, documents_BS: Tensor, memory: int) -> AttentionState:
    kept = slice(max(0, keys_BSGK.shape[1] - memory), None)
    valid_BS = documents_BS == documents_BS[:, -1:].clamp(min=0)
    return AttentionState(keys_BSGK[:, kept], values_BSGK[:, kept], valid_BS[:, kept])


def _by_head(x_BSGK: Tensor, heads: int) -> Tensor:
    """Move heads forward, repeating grouped ones."""
    x_BGSK = x_BSGK.transpose(1, 2)
    repeats = heads // x_BGSK.shape[1]
    return x_BGSK if repeats == 1 else x_BGSK.repeat_interleave(repeats, dim=1)


def _attend(query_BHCK: Tensor, key_BHSK: Tensor, value_BHSK: Tensor, mask: Tensor, dropout: float) -> Tensor:
    """Attend under a boolean mask, or with additive scores.

    On a CPU in bfloat16 torch's fused attention is slow backwards with a mask (three times the plain products).
    """
    if not (query_BHCK.device.type == "cpu" and query_BHCK.dtype == torch.bfloat16):
        return F.scaled_dot_product_attention(query_BHCK, key_BHSK, value_BHSK, attn_mask=mask, dropout_p=dropout)
    scores = torch.matmul(query_BHCK * query_BHCK.shape[-1] ** -0.5, key_BHSK.transpose(-1, -2)).float()
    scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    weights = F.dropout(scores.softmax(-1), dropout).to(value_BHSK.dtype)
    return torch.matmul(weights, value_BHSK)


def _mask(start: int, stop: int, window: slice, memory: int, documents_BS: Tensor | None, like: Tensor) -> Tensor:
    """Return the boolean mask (B or 1, 1, C, keys) of what the queries at [start, stop) see within ``window``."""
    query_C = torch.arange(start, stop, device=like.device)[:, None]
    key_S = torch.arange(window.start, window.stop, device=like.device)[None, :]
    mask = ((key_S <= query_C) & (query_C - key_S <= memory))[None, None]
    if documents_BS is None:
        return mask
    same = documents_BS[:, start:stop, None] == documents_BS[:, None, window]
    return mask & same[:, None]
