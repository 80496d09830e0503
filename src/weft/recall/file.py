"""A memory as one file of a run: safetensors, whose arrays are mapped into memory and checked when it is opened."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from weft.data import Tokenizer
from weft.errors import DamagedError, UserError
from weft.files import json_object, write_atomic
from weft.recall.constants import CLASSES, LONGEST
from weft.recall.index import Index
from weft.recall.shares import Shares
from weft.recall.text_memory import Part, TextMemory

MEMORY = "memory.safetensors"
FORMAT = 1
_LENGTH = struct.Struct("<Q")  # of the header, which is JSON; then come the arrays
_DTYPES = {"U16": np.uint16, "U32": np.uint32, "I32": np.int32, "F64": np.float64}
_ARRAYS = ("tokens", "order", "given", "asked")
_KINDS = {"tokens": ("U16", "U32"), "order": ("I32",), "given": ("F64",), "asked": ("F64",)}
_SHAPES = {"given": [LONGEST, CLASSES], "asked": [LONGEST, CLASSES]}


def save_memory(memory: TextMemory, run: Path, tokenizer: Tokenizer) -> None:
    """Write the memory of ``run``, whose tokens are those of ``tokenizer``, in place of the one that is there."""
    arrays: dict[str, NDArray[Any]] = dict(zip(_ARRAYS, (*memory.index, *memory.shares), strict=True))
    about = {
        "format": FORMAT,
        "vocab_size": memory.vocab_size,
        "boundary_id": memory.boundary_id,
        "tokenizer": _identity(tokenizer),
        "parts": memory.parts,
        "checksum": _checksum(arrays),
    }
    write_atomic(run / MEMORY, save(arrays, metadata={"weft": json.dumps(about)}))


def load_memory(run: Path, tokenizer: Tokenizer) -> TextMemory | None:
    """Return the memory of ``run``, None where it has none.

    DamagedError where it cannot be read, UserError where it is of another tokenizer than ``tokenizer``.
    """
    path = run / MEMORY
    if not path.exists():
        return None
    ways = f"make it anew with weft.remember('{run}'), or go on without it (memory=False)"
    try:
        arrays, about = _read(path)
        memory = _memory(arrays, about)
    except PermissionError:
        raise UserError(f"The memory '{path}' cannot be read: change its permissions, or {ways}.") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, struct.error):
        raise DamagedError(f"The memory '{path}' is damaged: {ways}.") from None
    if about.get("tokenizer") != _identity(tokenizer):
        raise UserError(
            f"The memory '{path}' is of another vocabulary ({memory.vocab_size:,} tokens) than the run's "
            f"({tokenizer.vocab_size:,}): {ways}."
        )
    return memory


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays of a file, mapped into memory, and what it says of itself; ValueError where it is damaged."""
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        if length > path.stat().st_size:
            raise ValueError
        header = json_object(file.read(length)) or {}
    about = json_object(header["__metadata__"]["weft"]) or {}
    arrays = {}
    for name in _ARRAYS:
        told = header[name]
        if told["dtype"] not in _KINDS[name] or told["shape"] != _SHAPES.get(name, told["shape"][:1]):
            raise ValueError
        begin, end = told["data_offsets"]
        array = np.memmap(
            path,
            dtype=_DTYPES[told["dtype"]],
            mode="r",
            offset=_LENGTH.size + length + begin,
            shape=tuple(told["shape"]),
        )
        if array.nbytes != end - begin:
            raise ValueError
        arrays[name] = np.asarray(array)
    if about["format"] != FORMAT or about["checksum"] != _checksum(arrays):
        raise ValueError
    return arrays, about


def _memory(arrays: dict[str, NDArray[Any]], about: dict[str, Any]) -> TextMemory:
    """Return the memory of what a file holds; ValueError, KeyError or TypeError where it is none."""
    index = Index(arrays["tokens"], arrays["order"])
    given_KC = arrays["given"].copy()
    asked_KC = arrays["asked"].copy()
    last = len(index.tokens_N) - 1
    if len(index.order_M) != last:
        raise ValueError
    # The loops trust these places: one beyond the arrays would read what is not theirs.
    if last and not (index.order_M.min() >= 0 and index.order_M.max() < last):
        raise ValueError
    if index.tokens_N.max() >= int(about["vocab_size"]) or index.tokens_N[-1] != int(about["boundary_id"]):
        raise ValueError
    if not ((given_KC >= 0) & (given_KC < asked_KC) & np.isfinite(asked_KC)).all():
        raise ValueError
    parts = tuple(
        Part(str(name), str(identity), int(size), int(tokens)) for name, identity, size, tokens in about["parts"]
    )
    return TextMemory(index, Shares(given_KC, asked_KC), int(about["vocab_size"]), int(about["boundary_id"]), parts)


def _identity(tokenizer: Tokenizer) -> str:
    """Return what tells a tokenizer from others, also of its size."""
    return hashlib.blake2b(tokenizer.to_json().encode(), digest_size=16).hexdigest()


def _checksum(arrays: dict[str, NDArray[Any]]) -> int:
    total = 0
    for name in _ARRAYS:
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).data, total)
    return total
