"""How unlike the training text the held-out text is, told before anything is trained.

A text in another alphabet, or of another kind, costs more under the training text's frequencies of tokens
alone, by about as much as it will cost a model. H(p, q) = -sum p log2 q, with q of the training text, one
added to each count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from weft.data.prepared import TokenizedSplit

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOLERANCE = 1.15  # a ratio of bits per byte
COUNTED_TOKENS = 1 << 22  # at a time
LEAST_TOKENS = 1000  # of a part: the frequencies of fewer are chance


def remark_on_likeness(train: TokenizedSplit, validation: TokenizedSplit, test: TokenizedSplit) -> list[str]:
    """Return a sentence for each held-out part that differs from the training text by more than 15 %."""
    vocabulary = int(max(split.tokens.max() for split in (train, validation, test))) + 1
    counts = _counts(train, vocabulary)
    bits_V = -np.log2((counts + 1) / (counts + 1).sum())
    usual = _bits_per_byte(train, counts, bits_V)
    remarks = []
    for name, split in (("validation", validation), ("test", test)):
        if split.scored_tokens < LEAST_TOKENS:
            continue
        # How much dearer a byte of this part is than one of the training text, under the training text's
        # code.
        ratio = _bits_per_byte(split, _counts(split, vocabulary), bits_V) / usual
        if ratio > TOLERANCE or ratio < 1 / TOLERANCE:
            remarks.append(
                f"The {name} text is unlike the training text (its tokens alone cost {ratio:.2f} times as much a "
                f"byte): {_MEANING[name]} Look at how the text is split (data.split)."
            )
    return remarks


_MEANING = {
    "validation": "the model is chosen for another kind of text than it learns.",
    "test": "its figures tell of another kind of text than the model learns.",
}


def _counts(split: TokenizedSplit, vocabulary: int) -> NDArray[np.int64]:
    """Return how often each token stands in the split (V), boundaries left out."""
    counts = np.zeros(vocabulary, dtype=np.int64)
    for start in range(0, len(split.tokens), COUNTED_TOKENS):
        counts += np.bincount(split.tokens[start : start + COUNTED_TOKENS], minlength=vocabulary)
    boundaries: Any = split.tokens[split.offsets[:-1]]
    counts[boundaries] = 0  # every document's first token is the same one
    return counts


def _bits_per_byte(split: TokenizedSplit, counts: NDArray[np.int64], bits_V: NDArray[np.float64]) -> float:
    return float(counts @ bits_V) / split.bytes
