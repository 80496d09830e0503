"""General-purpose compressors as points of reference for a language model.

A compressor that has read the training text is a language model, too: what it needs *more* for the training
text and a part together than for the training text alone is what the part costs. Unlike a model with frozen
weights, a compressor goes on learning from the part while it codes it: compare it with an adapting model.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable

from weft.errors import UserError

Compressor = Callable[[bytes], int]

SMALLEST_DICTIONARY = 64 << 20  # that of preset 9
LARGEST_DICTIONARY = 1536 << 20  # liblzma takes no more
PPMD_MEMORY = 512 << 20


def conditional_bits_per_byte(train: bytes, part: bytes, compressor: Compressor) -> float:
    """Return what ``part`` costs a ``compressor`` that has read ``train``, in bits per byte of the part.

    It is 8 (size(train + part) - size(train)) / len(part). The part follows the training text directly:
    nothing stands between the two, but between the documents inside each stand their separators. Raises
    UserError for an empty part.
    """
    if not part:
        raise UserError("There is nothing to measure: the text is empty.")
    return 8 * (compressor(train + part) - compressor(train)) / len(part)


def xz(text: bytes) -> int:
    """Return the size in bytes after ``xz -9e``, the dictionary as big as the text (up to 1.5 GiB)."""
    dictionary = min(max(len(text), SMALLEST_DICTIONARY), LARGEST_DICTIONARY)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    return len(lzma.compress(text, format=lzma.FORMAT_XZ, filters=filters))


def ppmd(text: bytes, order: int = 12, memory: int = PPMD_MEMORY) -> int:
    """Return the size in bytes after PPMd variant H (Shkarin 2002), the strongest common compressor of text.

    ``order`` is the longest context in bytes (2 to 64), ``memory`` the bytes for its statistics, which start
    anew when it is full. Raises UserError where pyppmd is not installed.
    """
    try:
        import pyppmd
    except ImportError:
        raise UserError("PPMd needs the package pyppmd: install it with pip install 'weft[demo]'.") from None
    encoder = pyppmd.Ppmd7Encoder(order, memory)
    return len(encoder.encode(text)) + len(encoder.flush())


BASELINES: dict[str, Compressor] = {"xz -9e": xz, "PPMd order 12": ppmd}
"""The compressors that results are shown beside, by the name they are shown under."""
