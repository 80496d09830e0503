"""General-purpose compressors as points of reference for a language model.

A compressor that has read the training text is a language model, too: what it needs *more* for the training
text and a part together than for the training text alone is what the part costs. Unlike a model with frozen
weights, a compressor goes on learning from the part while it codes it: compare it with an adapting model.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from weft.data import TokenizedSplit, Tokenizer
from weft.data.config import DEFAULT_SEPARATOR
from weft.errors import UserError
from weft.words import size as in_bytes

Progress = Callable[[int], None]  # told the bytes that were read since the last call
Compressor = Callable[[bytes], int]

SMALLEST_DICTIONARY = 64 << 20  # that of preset 9
LARGEST_DICTIONARY = 1536 << 20  # liblzma takes no more
PPMD_MEMORY = 512 << 20
MOST_BYTES = 8_000_000  # of either text: the time is that of xz, which reads the one twice and the other once
STRETCHES = 16  # that a longer text is represented by
_PIECE = 1 << 18  # read at once, so that Ctrl-C is heard


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What compressors that have read a training text need for another text.

    Attributes:
        bits_per_byte: by the name of the compressor; one that is not installed is left out.
        text_bytes: the text's length, separators between documents counted as in ``packed_bytes``.
        packed_bytes: how much of it was packed.
        training_bytes: the length of the training text; 0 where there is none to read.
        primed_bytes: how much of that the compressors have read before.
        notes: what a reader of the figures must know, in sentences.
    """

    bits_per_byte: dict[str, float]
    text_bytes: int
    packed_bytes: int
    training_bytes: int
    primed_bytes: int
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as it stands in ``results.json``: the figures, and what they are of."""
        about = {
            "text_bytes": self.text_bytes,
            "packed_bytes": self.packed_bytes,
            "training_bytes": self.training_bytes,
            "primed_bytes": self.primed_bytes,
            "notes": list(self.notes),
        }
        return {"baselines": self.bits_per_byte, "baselines_about": about}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Packed:
        """Return what :meth:`to_json` told; KeyError or TypeError where it did not."""
        about = dict(told["baselines_about"])
        return cls(bits_per_byte=told["baselines"], notes=tuple(about.pop("notes")), **about)


def pack(
    training: TokenizedSplit | None,
    text: TokenizedSplit,
    tokenizer: Tokenizer,
    *,
    separator: str = DEFAULT_SEPARATOR,
    unprimed: str = "",
    progress: Callable[[str, float], None] | None = None,
) -> Packed:
    """Return what each compressor needs for ``text`` after ``training``, both as the model reads them.

    Of a text of more than 8 MB sixteen stretches are taken, evenly from all of it, 8 MB together.
    ``separator`` is written between documents. Where ``training`` is None, ``unprimed`` is the sentence
    that says why. ``progress`` is called with the name of a compressor and the share that it has done.
    Raises UserError for an empty text.
    """
    if not text.bytes:
        raise UserError("There is nothing to measure: the text is empty.")
    primed = written(training, tokenizer, separator) if training else b""
    part = written(text, tokenizer, separator)
    bits = {}
    missing = []
    for name, compressor in COMPRESSORS.items():
        told = _sharing(name, 2 * len(primed) + len(part), progress)  # the primed text is read twice
        try:
            compressor(b"")  # says at once whether it is installed
            bits[name] = conditional_bits_per_byte(primed, part, partial(compressor, progress=told))
        except UserError as error:
            missing.append(str(error))
        except (MemoryError, lzma.LZMAError):
            missing.append(f"There was not enough memory for {name}.")
    training_bytes = _length(training, len(primed), separator) if training else 0
    text_bytes = _length(text, len(part), separator)
    notes = [
        unprimed,
        _cut("training text", len(primed), training_bytes),
        _cut("text to pack", len(part), text_bytes),
        *missing,
    ]
    return Packed(
        bits_per_byte=bits,
        text_bytes=text_bytes,
        packed_bytes=len(part),
        training_bytes=training_bytes,
        primed_bytes=len(primed),
        notes=tuple(filter(None, notes)),
    )


def conditional_bits_per_byte(train: bytes, part: bytes, compressor: Compressor) -> float:
    """Return what ``part`` costs a ``compressor`` that has read ``train``, in bits per byte of the part.

    It is 8 (size(train + part) - size(train)) / len(part). The part follows the training text directly:
    nothing stands between the two, but between the documents inside each stand their separators. Raises
    UserError for an empty part.
    """
    if not part:
        raise UserError("There is nothing to measure: the text is empty.")
    return 8 * (compressor(train + part) - compressor(train)) / len(part)


def xz(text: bytes, progress: Progress | None = None) -> int:
    """Return the size in bytes after ``xz -9e``, the dictionary as big as the text (up to 1.5 GiB)."""
    dictionary = min(max(len(text), SMALLEST_DICTIONARY), LARGEST_DICTIONARY)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    compressor = lzma.LZMACompressor(format=lzma.FORMAT_XZ, filters=filters)
    size = sum(len(compressor.compress(piece)) for piece in _pieces(text, progress))
    return size + len(compressor.flush())


def ppmd(text: bytes, order: int = 12, memory: int = PPMD_MEMORY, progress: Progress | None = None) -> int:
    """Return the size in bytes after PPMd variant H (Shkarin 2002), the strongest common compressor of text.

    ``order`` is the longest context in bytes (2 to 64), ``memory`` the bytes for its statistics, which start
    anew when it is full. Raises UserError where pyppmd is not installed.
    """
    try:
        import pyppmd
    except ImportError:
        raise UserError("PPMd needs the package pyppmd: install it with pip install 'weft-lm[demo]'.") from None
    encoder = pyppmd.Ppmd7Encoder(order, memory)
    size = sum(len(encoder.encode(piece)) for piece in _pieces(text, progress))
    return size + len(encoder.flush())


COMPRESSORS: dict[str, Callable[..., int]] = {"xz -9e": xz, "PPMd order 12": ppmd}
"""The compressors that results are shown beside, by the name they are shown under."""


def written(split: TokenizedSplit, tokenizer: Tokenizer, separator: str) -> bytes:
    """Return the documents of ``split`` with ``separator`` between them: all, or 8 MB from sixteen places of them."""
    table = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    table[tokenizer.boundary_id] = separator.encode()
    whole = len(split.tokens)
    length = whole
    starts = np.zeros(1, dtype=np.int64)
    if split.bytes > MOST_BYTES:
        length = int(whole * (MOST_BYTES / split.bytes)) // STRETCHES
        starts = np.linspace(0, whole - length, STRETCHES).astype(np.int64)
    stretches = []
    for start in starts:
        tokens = np.array(split.tokens[start : start + length])
        if split.continues is not None:
            # Padding, which has no bytes, in the place of each boundary where a long document
            # was cut in reading.
            first, last = np.searchsorted(split.offsets[:-1], [start, start + length])
            places = split.offsets[first:last][split.continues[first:last]]
            tokens[places - start] = tokenizer.padding_id
        stretches.append(b"".join(map(table.__getitem__, tokens.tolist())))
    return b"".join(stretches).removeprefix(separator.encode())


def _length(split: TokenizedSplit, read: int, separator: str) -> int:
    """Return how long a text is of which ``read`` bytes were read."""
    if split.bytes <= MOST_BYTES:
        return read
    return split.bytes + len(separator.encode()) * (split.begun_documents - 1)


def _cut(what: str, read: int, whole: int) -> str:
    """Say how much of a text was read, where that is not all."""
    if read == whole:
        return ""
    return f"Of the {what} the compressors read {in_bytes(read)} of {in_bytes(whole)}, evenly from all of it."


def _pieces(text: bytes, progress: Progress | None) -> Iterator[memoryview]:
    view = memoryview(text)
    for start in range(0, len(view), _PIECE):
        piece = view[start : start + _PIECE]
        yield piece
        if progress:
            progress(len(piece))


def _sharing(name: str, total: int, progress: Callable[[str, float], None] | None) -> Progress | None:
    """Return what tells ``progress`` the share of ``total`` bytes that a compressor has read."""
    if progress is None:
        return None
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        progress(name, done / total)

    return tell
