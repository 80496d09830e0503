"""What stands at the sites of a model, written to files for other people's tools.

A folder with ``index.json`` and shards in safetensors. A shard has the ``tokens`` (N), the number of the document of
each (N), and for every site the values in the same order, N first; of a pattern the heads come second.
Shapes: N tokens, in the order of the text, the boundary of each document first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from weft.data import TokenizedSplit
from weft.errors import UserError
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import device_of, segments
from weft.files import disk_errors, write_atomic
from weft.layers.sites import PATTERN
from weft.model import WeftModel
from weft.tracing import PIECE, Collected, Site, chosen_sites

INDEX = "index.json"
FORMAT = 1
SHARD = 1 << 28  # bytes of a shard, about
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write_trace(
    model: WeftModel,
    split: TokenizedSplit,
    sites: Sequence[str],
    out: Path,
    *,
    boundary_id: int,
    weights: str,
    dtype: str = "float32",
    shard_bytes: int = SHARD,
    watch: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Write what stands at ``sites`` while ``split`` is read into the folder ``out``; return what its index says.

    The index names the shards that are whole, also where the disk fills. UserError for a site that there is not, for
    another ``dtype``, and for a folder that holds something.
    """
    wanted = chosen_sites(model.sites(), sites)
    if not wanted:
        raise UserError("Name sites to trace, such as residual or cell.2.")
    if dtype not in DTYPES:
        raise UserError(f"There is no dtype '{dtype}': choose from {', '.join(DTYPES)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"'{out}' holds something already: choose another folder.")
    index: dict[str, Any] = {
        "format": FORMAT,
        "weights": weights,
        "dtype": dtype,
        "sites": {str(site): site.shape for site in wanted},
        "tokens": 0,
        "shards": [],
    }
    far = Progress(split.scored_tokens, watch)
    documents_N = np.repeat(np.arange(split.documents), np.diff(split.offsets))
    waiting: list[dict[str, Tensor]] = []
    size = done = 0
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        state = None
        for segment in segments(
            split, lanes=1, length=PIECE, boundary_id=boundary_id, device=device_of(model), in_order=True
        ):
            collected = Collected(wanted)
            with torch.no_grad():
                _, state = model.hidden(segment.inputs_BT, state, segment.reset_BT, watch=collected)
            count = min(segment.inputs_BT.shape[1], len(documents_N) - done)
            part = _of_text(collected.values, wanted, count, DTYPES[dtype])
            part["tokens"] = segment.inputs_BT[0, :count].cpu()
            part["documents"] = torch.from_numpy(documents_N[done : done + count])
            waiting.append(part)
            done += count
            size += sum(tensor.nbytes for tensor in part.values())
            far(count)
            if size >= shard_bytes:
                _write_shard(waiting, out, index)
                waiting, size = [], 0
        if waiting:
            _write_shard(waiting, out, index)
    return index


def _of_text(values: dict[str, Tensor], wanted: Sequence[Site], count: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the values of the one lane, positions first."""
    found = {}
    for site in wanted:
        value = values[str(site)][0]
        if site.name == PATTERN:  # (H, T, M + 1)
            value = value.transpose(0, 1)
        found[str(site)] = value[:count].to(dtype).cpu()
    return found


def _write_shard(parts: Sequence[dict[str, Tensor]], out: Path, index: dict[str, Any]) -> None:
    """Write a shard, then the index with it."""
    tensors = {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}
    name = f"shard-{len(index['shards']):05d}.safetensors"
    write_atomic(out / name, save(tensors))
    tokens = len(tensors["tokens"])
    index["shards"].append({"file": name, "tokens": tokens})
    index["tokens"] += tokens
    write_atomic(out / INDEX, json.dumps(index, indent=1) + "\n")
