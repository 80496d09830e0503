"""A memory as one file of a run: safetensors, whose arrays stay on the disk until they are read."""

from __future__ import annotations

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
_DTYPES = {"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I32": np.int32, "F64": np.float64}
_ARRAYS = ("tokens", "order", "common", "given", "asked")


def save_memory(memory: TextMemory, run: Path) -> None:
    """Write the memory of ``run``, in place of the one that is there."""
    arrays: dict[str, NDArray[Any]] = dict(zip(_ARRAYS, (*memory.index, *memory.shares), strict=True))
    about = {
        "format": FORMAT,
        "vocab_size": memory.vocab_size,
        "boundary_id": memory.boundary_id,
        "parts": [part._asdict() for part in memory.parts],
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
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        raise DamagedError(f"The memory '{path}' is damaged: {ways}.") from None
    if (memory.vocab_size, memory.boundary_id) != (tokenizer.vocab_size, tokenizer.boundary_id):
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
    index = Index(arrays["tokens"], arrays["order"], arrays["common"])
    given_KC = arrays["given"].copy()
    asked_KC = arrays["asked"].copy()
    last = len(index.tokens_N) - 1
    if not len(index.order_M) == len(index.common_M) == last:
        raise ValueError
    # The loops trust these places: one beyond the arrays would read what is not theirs.
    if last and not (index.order_M.min() >= 0 and index.order_M.max() < last):
        raise ValueError
    if index.tokens_N.max() >= int(about["vocab_size"]) or index.tokens_N[-1] != int(about["boundary_id"]):
        raise ValueError
    if not given_KC.shape == asked_KC.shape == (LONGEST, CLASSES):
        raise ValueError
    parts = tuple(Part(**part) for part in about["parts"])
    return TextMemory(index, Shares(given_KC, asked_KC), int(about["vocab_size"]), int(about["boundary_id"]), parts)


def _checksum(arrays: dict[str, NDArray[Any]]) -> int:
    total = 0
    for name in _ARRAYS:
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).data, total)
    return total
