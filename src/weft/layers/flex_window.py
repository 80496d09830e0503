"""Window attention on a GPU: flex_attention over the blocks of the window, with no mask of queries by keys.

What a query sees is a function that the kernel evaluates where it needs it; which blocks of 128 queries by
128 keys it visits at all is a table, made from the bounds of each block: its first and last position, and the
lowest and highest number of its documents. So the work is that of the window, however long the text is.

Shapes: B batch, T time, M remembered positions, S = M + T, H heads, G key-value heads, K head width,
Q blocks of queries, N blocks of keys.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from weft.ops import triton

BLOCK = 128
NARROWEST = 16  # heads: the least that the kernels' products take
WIDEST = 256  # heads: the most that fits the kernels' memory
# Both are settled on import, as a compiler that traces the caller cannot ask. A kernel is compiled by means
# of Triton; WEFT_FLEX_ATTENTION=0 goes without, should torch fail to make one.
USABLE = importlib.util.find_spec("triton") is not None and os.environ.get("WEFT_FLEX_ATTENTION") != "0"
Attend = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int], Tensor]


def suits(query_BTHK: Tensor) -> bool:
    """Say whether the kernels take these queries, and are worth it: a shorter piece is one block for SDPA."""
    return (
        USABLE
        and query_BTHK.device.type == "cuda"
        and query_BTHK.shape[1] >= BLOCK
        and NARROWEST <= query_BTHK.shape[3] <= WIDEST
        and query_BTHK.dtype in (torch.bfloat16, torch.float16, torch.float32)
        and triton.available()
    )


def attend_window(
    query_BTHK: Tensor, keys_BSGK: Tensor, values_BSGK: Tensor, documents_BS: Tensor, window: int
) -> Tensor:
    """Return the attended values (B, T, H, K); the queries stand at the last T of the S positions.

    ``documents_BS`` numbers the documents; a query sees its own. The kernel is compiled on the first call,
    unless the caller is being compiled itself.
    """
    past = torch.full((), keys_BSGK.shape[1] - query_BTHK.shape[1], dtype=torch.int32, device=query_BTHK.device)
    attend = _attend if torch.compiler.is_compiling() else _compiled()
    return attend(query_BTHK, keys_BSGK, values_BSGK, documents_BS, past, window)


@functools.cache
def _compiled() -> Attend:
    return torch.compile(_attend)


def _attend(
    query_BTHK: Tensor, keys_BSGK: Tensor, values_BSGK: Tensor, documents_BS: Tensor, past: Tensor, window: int
) -> Tensor:
    query, keys, values = _one_type(query_BTHK, keys_BSGK, values_BSGK)
    query = query.transpose(1, 2)
    keys = keys.transpose(1, 2)
    values = values.transpose(1, 2)
    visited = block_mask(documents_BS, past, query.shape[2], window)
    attended_BHTK = flex_attention(query, keys, values, block_mask=visited, enable_gqa=query.shape[1] != keys.shape[1])
    assert isinstance(attended_BHTK, Tensor)
    return attended_BHTK.transpose(1, 2)


def _one_type(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring queries, keys and values to the type of autocast, which does not know flex_attention, or of the values."""
    kind = tensors[0].device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensors[-1].dtype
    return tuple(x.to(dtype) for x in tensors)


def block_mask(documents_BS: Tensor, past: Tensor, time: int, window: int) -> BlockMask:
    """Return what the last ``time`` positions see, and which blocks the kernel visits.

    ``past`` is S - T as a tensor of no dimension: what a function of the kernel takes from its surroundings
    is best a tensor, as a number is compiled in, or, where lengths change, not understood by every version of
    torch. A block is left out where its bounds leave nothing to see; where they leave everything, the kernel
    need not ask.
    """

    def sees(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        place = query + past
        near = (key <= place) & (key + window >= place)
        return near & (documents_BS[batch, place] == documents_BS[batch, key])

    # Blocks in which some is seen, where the kernel asks for each pair, and those in which all is. The
    # forward pass goes through the keys of a block of queries, the backward pass through the queries of a
    # block of keys.
    some, whole = _blocks(documents_BS, time, window)
    partly = some & ~whole
    keys_partly = _ordered(partly)
    keys_whole = _ordered(whole)
    queries_partly = _ordered(partly.transpose(2, 3))
    queries_whole = _ordered(whole.transpose(2, 3))
    return BlockMask(
        seq_lengths=(time, documents_BS.shape[1]),
        kv_num_blocks=keys_partly[0],
        kv_indices=keys_partly[1],
        full_kv_num_blocks=keys_whole[0],
        full_kv_indices=keys_whole[1],
        q_num_blocks=queries_partly[0],
        q_indices=queries_partly[1],
        full_q_num_blocks=queries_whole[0],
        full_q_indices=queries_whole[1],
        BLOCK_SIZE=(BLOCK, BLOCK),
        mask_mod=sees,
    )


def _blocks(documents_BS: Tensor, time: int, window: int) -> tuple[Tensor, Tensor]:
    """Return (B, 1, Q, N): where a block may hold something to see, and where all of it is seen."""
    length = documents_BS.shape[1]
    past = length - time
    # The first and last positions and documents of blocks of queries, laid out as
    # rows, and of keys, as columns.
    first_Q, final_Q = _bounds(time, documents_BS.device)
    first_Q1 = first_Q[:, None] + past
    final_Q1 = final_Q[:, None] + past
    begin_N, end_N = _bounds(length, documents_BS.device)
    low_BQ, high_BQ = _extremes(documents_BS[:, past:])
    low_BQ1 = low_BQ[:, :, None]
    high_BQ1 = high_BQ[:, :, None]
    low_BN, high_BN = _extremes(documents_BS)
    low_B1N = low_BN[:, None, :]
    high_B1N = high_BN[:, None, :]

    # Some of a block is seen where the last query may see its first key, the first query its last key, and
    # there may be a document that both are in.
    near = (begin_N <= final_Q1) & (end_N + window >= first_Q1)
    some = near & (low_BQ1 <= high_B1N) & (low_B1N <= high_BQ1)
    # All of it is seen where the first query sees its last key, the last query its first key, and all is one
    # document. As torch's own masks have it, a block that is cut off by the end of the text is not whole.
    inside = (begin_N + BLOCK - 1 <= first_Q1) & (begin_N + window >= final_Q1) & (final_Q1 - first_Q1 == BLOCK - 1)
    whole = inside & (low_BQ1 == high_B1N) & (low_B1N == high_BQ1)
    return some[:, None], whole[:, None]


def _bounds(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the first and the last position of each block."""
    first = torch.arange(0, length, BLOCK, dtype=torch.int32, device=device)
    return first, (first + BLOCK - 1).clamp(max=length - 1)


def _extremes(documents_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest document of each block; the last block is filled up with its last document."""
    fill = -documents_BT.shape[1] % BLOCK
    filled = torch.cat([documents_BT, documents_BT[:, -1:].expand(-1, fill)], dim=1)
    blocks = filled.reshape(filled.shape[0], filled.shape[1] // BLOCK, BLOCK)
    return blocks.amin(2), blocks.amax(2)


def _ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many of each row are True, and the columns in an order that has these first."""
    columns = blocks.to(torch.int32).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), columns.to(torch.int32)
