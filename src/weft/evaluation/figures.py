"""The figures of an evaluation, from the nats of every token."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from weft.data import TokenizedSplit


@dataclass(frozen=True, kw_only=True)
class Figures:
    """How well a model predicts a text. Every byte is counted; document separators and boundary tokens are not.

    Attributes:
        bits_per_byte: bits per UTF-8 byte; comparable between tokenizers.
        bits_per_character: bits per Unicode character (None for bytes that are not UTF-8).
        perplexity_per_token: exp(mean nats per token); depends on the tokenizer.
        perplexity_per_word: exp(nats per white-space-separated word) (None for bytes that are not UTF-8).
        tokens: tokens scored.
        bytes: bytes scored.
        seconds: wall time of the scoring.
        bits_per_byte_frozen: with dynamic evaluation, the figure of the weights as trained (else None).
    """

    bits_per_byte: float
    bits_per_character: float | None
    perplexity_per_token: float
    perplexity_per_word: float | None
    tokens: int
    bytes: int
    seconds: float
    bits_per_byte_frozen: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data; the frozen figure only where there is one."""
        return {key: value for key, value in asdict(self).items() if key != "bits_per_byte_frozen" or value is not None}


def figures(nats: float, split: TokenizedSplit, seconds: float, frozen: float | None = None) -> Figures:
    """Return the figures of ``split`` whose tokens cost ``nats`` together; ``frozen`` is the frozen bits per byte."""
    bits = nats / math.log(2)
    return Figures(
        bits_per_byte=bits / split.bytes,
        bits_per_character=bits / split.characters if split.characters else None,
        perplexity_per_token=_exp(nats / split.scored_tokens),
        perplexity_per_word=_exp(nats / split.words) if split.words else None,
        tokens=split.scored_tokens,
        bytes=split.bytes,
        seconds=seconds,
        bits_per_byte_frozen=frozen,
    )


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))
