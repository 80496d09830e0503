"""Causal attention over a window of past positions, with explicit state.

Every position sees itself and at most the ``window`` positions before it, in its own document, in training
as in streaming (Transformer-XL's same-length rule), so pieces of a text give what the whole gives. Queries
are worked through in blocks, so the work and the memory of a long text are those of its window; on a GPU,
where nothing but the window and the documents decides what is seen, a kernel does that
(:mod:`weft.layers.flex_window`).

Shapes: B batch, T time, M remembered positions, S = M + T, H heads, G key-value heads, K head
width, Q queries in a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.layers import flex_window
from weft.layers.positions import rotary_tables, rotate
from weft.layers.seen_attention import Seen, attend_seen
from weft.layers.sites import PATTERN, At
from weft.ops import cpu
from weft.ops.cpu import attention
from weft.ops.cpu.attention import Form, Norms

QUERY_BLOCK = 128
# Gives the additive scores (B, H, Q, S) of a block of queries (B, H, Q, K) over its last S keys.
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
    window: int,
    rotary: bool = False,
    position_scores: PositionScores | None = None,
    dropout: float = 0.0,
    at: At | None = None,
) -> tuple[Tensor, AttentionState]:
    """Return the attended values (B, T, H, K) and the state after the last position.

    ``position_scores`` adds position-dependent scores to the content scores (relative positions). G must
    divide H. Where ``at`` wants the pattern, the weights are made once more, to be seen.
    """
    free = state is None and reset_BT is None  # nothing but order decides what is seen
    if state is None:
        state = _empty(key_BTGK)
    keys_BSGK = torch.cat([state.keys_BMGK, key_BTGK], dim=1)
    values_BSGK = torch.cat([state.values_BMGK, value_BTGK], dim=1)
    documents_BS = _documents(state, key_BTGK, reset_BT)
    after = _remember(keys_BSGK, values_BSGK, documents_BS, window)

    how = _How(window, rotary, position_scores, dropout)
    if at is not None and at.wants(PATTERN):
        at.see(PATTERN, _pattern(query_BTHK, keys_BSGK, documents_BS, how))
    if torch.compiler.is_exporting() and isinstance(query_BTHK.shape[1], torch.SymInt):
        return _attend_folded(query_BTHK, keys_BSGK, values_BSGK, documents_BS, how), after
    if position_scores is None and dropout == 0 and flex_window.suits(query_BTHK):
        if rotary:
            query_BTHK, keys_BSGK = _turn(query_BTHK, keys_BSGK)
        return flex_window.attend_window(query_BTHK, keys_BSGK, values_BSGK, documents_BS, window), after
    return _attend_in_blocks(query_BTHK, keys_BSGK, values_BSGK, None if free else documents_BS, how), after


def can_attend_joined(x_BTD: Tensor, state: AttentionState | None, head_dim: int, window: int) -> bool:
    """Return whether :func:`joined_attention` takes what is made of ``x_BTD``: bfloat16 on a CPU, whole registers."""
    if x_BTD.dtype != torch.bfloat16 or not cpu.usable(x_BTD):
        return False
    time = x_BTD.shape[1]
    past = 0
    if state is not None:
        past = state.keys_BMGK.shape[1]
        tensors = (state.keys_BMGK, state.values_BMGK)
        if any(x.requires_grad or x.dtype != torch.bfloat16 for x in tensors):
            return False
    return all(attention.takes(head_dim, keys.stop - keys.start) for _, keys in _blocks(time, past, window))


def joined_attention(
    joined_BTJ: Tensor,
    state: AttentionState | None,
    reset_BT: Tensor | None,
    norms: Norms,
    *,
    heads: int,
    groups: int,
    window: int,
    rotary: bool,
) -> tuple[Tensor, AttentionState]:
    """Return the attended values (B, T, H K) and the state, of queries, keys and values side by side.

    J = (H + 2 G) K: the product before norms and rotation. Ask :func:`can_attend_joined` first.
    """
    batch, time, width = joined_BTJ.shape
    head_dim = width // (heads + 2 * groups)
    if state is None:
        state = _empty(joined_BTJ.new_empty(batch, 0, groups, head_dim))
    past = state.keys_BMGK.shape[1]
    documents_BS = _documents(state, joined_BTJ, reset_BT)
    form = Form(batch, time, past, min(past + time, window), heads, groups, head_dim)
    seen = Seen(documents_BS, window, tuple(_blocks(time, past, window)))
    angles = _angles(past + time, head_dim) if rotary else None
    y, keys, values = attend_seen(joined_BTJ, (state.keys_BMGK, state.values_BMGK), norms, angles, seen, form)
    valid_BS = _valid(documents_BS)
    return y, AttentionState(keys, values, valid_BS[:, past + time - form.kept :])


def _blocks(time: int, past: int, window: int) -> list[tuple[slice, slice]]:
    """Return blocks of queries, and the keys that any query of each may see."""
    blocks = []
    for start in range(0, time, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, time)
        blocks.append((slice(start, stop), slice(max(0, past + start - window), past + stop)))
    return blocks


class _How(NamedTuple):
    """What decides the weights beside queries, keys and documents."""

    window: int
    rotary: bool
    position_scores: PositionScores | None
    dropout: float


def _attend_in_blocks(
    query_BTHK: Tensor, keys_BSGK: Tensor, values_BSGK: Tensor, documents_BS: Tensor | None, how: _How
) -> Tensor:
    """Return the attended values (B, T, H, K), working through one block of queries after another."""
    time = query_BTHK.shape[1]
    past = keys_BSGK.shape[1] - time
    if how.rotary:
        query_BTHK, keys_BSGK = _turn(query_BTHK, keys_BSGK)
    query_BHTK = query_BTHK.transpose(1, 2)
    keys_BGSK = keys_BSGK.transpose(1, 2)
    values_BGSK = values_BSGK.transpose(1, 2)

    attended = []
    for queries, seen in _blocks(time, past, how.window):
        query_BHQK = query_BHTK[:, :, queries]
        mask = _mask(past + queries.start, past + queries.stop, seen, how.window, documents_BS, query_BHQK)
        mask = _with_positions(mask, query_BHQK, seen.stop - seen.start, how.position_scores)
        attended.append(_attend(query_BHQK, keys_BGSK[:, :, seen], values_BGSK[:, :, seen], mask, how.dropout))
    attended_BHTK = torch.cat(attended, dim=2) if attended else query_BHTK
    return attended_BHTK.transpose(1, 2)


def _pattern(query_BTHK: Tensor, keys_BSGK: Tensor, documents_BS: Tensor, how: _How) -> Tensor:
    """Return the weights (B, H, T, M + 1) of what each query sees, float32, by distance: 0 is the query's own place.

    By distance, not by key, those of pieces can be laid end to end.
    """
    time, heads, width = query_BTHK.shape[1:]
    past = keys_BSGK.shape[1] - time
    if how.rotary:
        query_BTHK, keys_BSGK = _turn(query_BTHK, keys_BSGK)
    keys_BHSK = keys_BSGK.repeat_interleave(heads // keys_BSGK.shape[2], dim=2).transpose(1, 2).float()
    distances_Z = torch.arange(how.window + 1, device=query_BTHK.device)
    patterns = []
    for queries, seen in _blocks(time, past, how.window):
        query_BHQK = query_BTHK[:, queries].transpose(1, 2)
        first = past + queries.start
        mask = _mask(first, past + queries.stop, seen, how.window, documents_BS, query_BHQK)
        scores_BHQS = query_BHQK.float() @ keys_BHSK[:, :, seen].mT * width**-0.5
        additive = _with_positions(mask, query_BHQK, seen.stop - seen.start, how.position_scores)
        if additive is not None:
            if additive.dtype == torch.bool:
                additive = _additive(additive, scores_BHQS.dtype)
            scores_BHQS = scores_BHQS + additive
        weights_BHQS = scores_BHQS.softmax(-1)
        # From keys to distances: that of key s to query q is first + q - s.
        places_Q = torch.arange(first, past + queries.stop, device=query_BTHK.device)
        keys_QZ = places_Q[:, None] - distances_Z - seen.start
        by_distance = weights_BHQS.gather(-1, keys_QZ.clamp(min=0).expand(*weights_BHQS.shape[:3], -1))
        patterns.append(by_distance.masked_fill(keys_QZ < 0, 0.0))
    return torch.cat(patterns, dim=2)


def _attend_folded(
    query_BTHK: Tensor, keys_BSGK: Tensor, values_BSGK: Tensor, documents_BS: Tensor, how: _How
) -> Tensor:
    """Return what :func:`_attend_in_blocks` returns, with no loop: the N blocks are further rows of the batch.

    Each block gets a copy of the keys it may see, so this is the slower form; but its graph is
    the same for every length, as a program of dynamic length needs. The last block is filled up
    with queries that are dropped.
    """
    # Block n has the queries from n C on and the keys from n C on, of a text with exactly a window of keys
    # before its first query: what is missing at either end is filled up.
    time = query_BTHK.shape[1]
    window = how.window
    block = QUERY_BLOCK
    count = (time + block - 1) // block
    before = window - (keys_BSGK.shape[1] - time)
    fill = count * block - time
    starts_N1 = torch.arange(count, device=query_BTHK.device)[:, None] * block
    places = (starts_N1 + torch.arange(window + block, device=query_BTHK.device)).flatten()

    def fold(x_BS: Tensor, value: int = 0) -> Tensor:
        padded = F.pad(x_BS, (0, 0) * (x_BS.dim() - 2) + (before, fill), value=value)
        return padded.index_select(1, places).reshape(-1, window + block, *x_BS.shape[2:])

    keys_BSGK = fold(keys_BSGK)
    values_BSGK = fold(values_BSGK)
    documents_BS = fold(documents_BS, value=-1)
    query_BQHK = F.pad(query_BTHK, (0, 0, 0, 0, 0, fill)).reshape(-1, block, *query_BTHK.shape[2:])
    if how.rotary:
        query_BQHK, keys_BSGK = _turn(query_BQHK, keys_BSGK)
    query_BHQK = query_BQHK.transpose(1, 2)
    keys_BGSK = keys_BSGK.transpose(1, 2)
    values_BGSK = values_BSGK.transpose(1, 2)
    mask = _mask(window, window + block, slice(0, window + block), window, documents_BS, query_BHQK)
    mask = _with_positions(mask, query_BHQK, window + block, how.position_scores)
    attended_BHQK = _attend(query_BHQK, keys_BGSK, values_BGSK, mask, how.dropout)
    return attended_BHQK.transpose(1, 2).reshape(-1, count * block, *query_BTHK.shape[2:])[:, :time]


def _turn(query_BTHK: Tensor, keys_BSGK: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys by their places; the queries stand at the last T of the S."""
    past = keys_BSGK.shape[1] - query_BTHK.shape[1]
    cos, sin = _tables(keys_BSGK.shape[1], query_BTHK)
    return rotate(query_BTHK, cos[past:], sin[past:]), rotate(keys_BSGK, cos, sin)


def _tables(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotary tables of the first ``length`` positions, made once: a text may be read token by token."""
    if torch.compiler.is_compiling() or type(like) is not Tensor:  # in a graph they belong to it
        return rotary_tables(length, like.shape[-1], like)
    cos, sin = _kept_tables(1 << (length - 1).bit_length(), like.shape[-1], like.dtype, like.device)
    return cos[:length], sin[:length]


@functools.cache  # for good: a recorded graph reads them where they are, and their lengths are powers of two
def _kept_tables(length: int, head_dim: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(mode=False), torch.no_grad():  # as training may use them too
        return rotary_tables(length, head_dim, torch.empty(0, dtype=dtype, device=device))


def _angles(length: int, head_dim: int) -> Tensor:
    """Return each position's cosines, then sines (length, head_dim), float32."""
    return _kept_angles(1 << (length - 1).bit_length(), head_dim)[:length]


@functools.cache
def _kept_angles(length: int, head_dim: int) -> Tensor:
    with torch.inference_mode(mode=False), torch.no_grad():
        return torch.cat(rotary_tables(length, head_dim, torch.empty(0)), dim=-1)


def _with_positions(
    mask: Tensor | None, query_BHQK: Tensor, keys: int, position_scores: PositionScores | None
) -> Tensor | None:
    """Turn the boolean mask into additive scores where positions have scores of their own."""
    if position_scores is None:
        return mask
    scores = position_scores(query_BHQK, keys)
    return scores if mask is None else scores + _additive(mask, scores.dtype)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where the boolean mask lets through, -inf elsewhere: filling costs more where heads share a mask."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))


def state_bytes(context: int, window: int, kv_heads: int, head_dim: int, itemsize: int) -> int:
    """Return the bytes of one sequence's state after ``context`` tokens."""
    return min(context, window) * (2 * kv_heads * head_dim * itemsize + 1)


def _empty(key_BTGK: Tensor) -> AttentionState:
    nothing = key_BTGK[:, :0]
    return AttentionState(nothing, nothing, torch.ones(nothing.shape[:2], dtype=torch.bool, device=key_BTGK.device))


def _documents(state: AttentionState, new_BT: Tensor, reset_BT: Tensor | None) -> Tensor:
    """Number the documents: 0 for the one that the state was in, -1 for remembered positions of older ones."""
    past_BM = state.valid_BM.to(torch.int32) - 1
    if reset_BT is None:
        now_BT = torch.zeros(new_BT.shape[:2], dtype=torch.int32, device=new_BT.device)
    else:
        now_BT = reset_BT.to(torch.int32).cumsum(1, dtype=torch.int32)
    return torch.cat([past_BM, now_BT], dim=1)


def _remember(keys_BSGK: Tensor, values_BSGK: Tensor, documents_BS: Tensor, window: int) -> AttentionState:
    kept = slice(max(0, keys_BSGK.shape[1] - window), None)
    return AttentionState(keys_BSGK[:, kept], values_BSGK[:, kept], _valid(documents_BS)[:, kept])


def _valid(documents_BS: Tensor) -> Tensor:
    """Return which positions are of the document of the last one."""
    return documents_BS == documents_BS[:, -1:].clamp(min=0)


def _attend(query_BHQK: Tensor, key_BGSK: Tensor, value_BGSK: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attend under a boolean mask, or with additive scores (B or 1, H or 1, Q, S).

    The H / G heads that share keys and values are further queries, so keys and values need not be repeated.
    """
    batch, heads, count, width = query_BHQK.shape
    groups = key_BGSK.shape[1]
    if groups == heads:
        return _attend_head(query_BHQK, key_BGSK, value_BGSK, mask, dropout)
    repeats = heads // groups
    query_BGQK = query_BHQK.reshape(batch, groups, repeats * count, width)
    # The mask grows with the queries: it has a row for each head, or one row for all heads.
    if mask is not None and mask.shape[1] == heads:
        mask = mask.reshape(mask.shape[0], groups, repeats * count, mask.shape[-1])
    elif mask is not None and count > 1:
        mask = mask.repeat(1, 1, repeats, 1)
    attended_BGQK = _attend_head(query_BGQK, key_BGSK, value_BGSK, mask, dropout)
    return attended_BGQK.reshape(batch, heads, count, value_BGSK.shape[-1])


def _attend_head(
    query_BHQK: Tensor, key_BHSK: Tensor, value_BHSK: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """Attend with keys and values for every head.

    On a CPU in bfloat16 torch's fused attention is slow backwards with a mask (more than twice the plain
    products). There scores are rounded by their product, so the softmax, which reckons in float32 inside,
    takes them as they are.
    """
    if not (query_BHQK.device.type == "cpu" and query_BHQK.dtype == torch.bfloat16):
        return F.scaled_dot_product_attention(query_BHQK, key_BHSK, value_BHSK, attn_mask=mask, dropout_p=dropout)
    scores = torch.matmul(query_BHQK * query_BHQK.shape[-1] ** -0.5, key_BHSK.transpose(-1, -2))
    if mask is not None:
        added = _additive(mask, scores.dtype) if mask.dtype == torch.bool else mask
        scores = scores + added
    weights = F.dropout(scores.softmax(-1), dropout).to(value_BHSK.dtype)
    return torch.matmul(weights, value_BHSK)


def _mask(start: int, stop: int, seen: slice, window: int, documents_BS: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the boolean mask (B or 1, 1, Q, keys) of what the queries at [start, stop) see within ``seen``.

    None says that they see all of it: a single query does, but for other documents.
    """
    same = None
    if documents_BS is not None:
        same = (documents_BS[:, start:stop, None] == documents_BS[:, None, seen])[:, None]
    if stop - start == 1:
        return same
    query_Q = torch.arange(start, stop, device=like.device)[:, None]
    key_S = torch.arange(seen.start, seen.stop, device=like.device)[None, :]
    near = ((key_S <= query_Q) & (key_S >= query_Q - window))[None, None]
    return near if same is None else near & same
