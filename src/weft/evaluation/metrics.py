"""The metrics of an evaluation, from the nats of every token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from weft.data import TokenizedSplit
from weft.data.likeness import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How well a model predicts a text. Every byte is counted; document separators and boundary tokens are not.

    Attributes:
        bits_per_byte: bits per UTF-8 byte, by the best that was asked for; comparable between tokenizers.
        bits_per_character: bits per Unicode character (None for bytes that are not UTF-8).
        perplexity_per_token: exp(mean nats per token); depends on the tokenizer.
        perplexity_per_word: exp(nats per white-space-separated word) (None for bytes that are not UTF-8).
        tokens: tokens scored.
        bytes: bytes scored.
        seconds: wall time of the scoring.
        bits_per_byte_frozen: the figure of the weights alone, as trained, where more was asked for (else None).
        bits_per_byte_memory: that of the weights with the run's memory of text, where it was asked for (else None).
        bits_per_end: what it costs to tell that a document ends, on average, with the weights as trained (None where no
            document ends, and for a model that carries no state). It is in none of the other metrics.
        repeated_bytes: bytes of lines that stand in the training text too, as far as that is known.
        bits_per_byte_new: bits per byte of the other lines, where some are repeated (else None).
    """

    bits_per_byte: float
    bits_per_character: float | None
    perplexity_per_token: float
    perplexity_per_word: float | None
    tokens: int
    bytes: int
    seconds: float
    bits_per_byte_frozen: float | None = None
    bits_per_byte_memory: float | None = None
    bits_per_end: float | None = None
    repeated_bytes: int = 0
    bits_per_byte_new: float | None = None

    @property
    def bits_per_byte_of_weights(self) -> float:
        """The bits per byte of the weights alone, whatever else was asked for."""
        return self.bits_per_byte if self.bits_per_byte_frozen is None else self.bits_per_byte_frozen

    def to_json(self) -> dict[str, Any]:
        """Return plain data; what is not always known only where it is, and repeated bytes where there are some."""
        optional = (
            "bits_per_byte_frozen",
            "bits_per_byte_memory",
            "bits_per_end",
            "repeated_bytes",
            "bits_per_byte_new",
        )
        return {key: value for key, value in asdict(self).items() if key not in optional or value}


def metrics_from_json(values: Mapping[str, Any]) -> Metrics:
    """Return the metrics that :meth:`Metrics.to_json` gave; KeyError, TypeError or ValueError where they are none."""
    return Metrics(
        bits_per_byte=float(values["bits_per_byte"]),
        bits_per_character=_optional(values["bits_per_character"]),
        perplexity_per_token=float(values["perplexity_per_token"]),
        perplexity_per_word=_optional(values["perplexity_per_word"]),
        tokens=int(values["tokens"]),
        bytes=int(values["bytes"]),
        seconds=float(values["seconds"]),
        bits_per_byte_frozen=_optional(values.get("bits_per_byte_frozen")),
        bits_per_byte_memory=_optional(values.get("bits_per_byte_memory")),
        bits_per_end=_optional(values.get("bits_per_end")),
        repeated_bytes=int(values.get("repeated_bytes", 0)),
        bits_per_byte_new=_optional(values.get("bits_per_byte_new")),
    )


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def compute_metrics(
    nats: float,
    split: TokenizedSplit,
    seconds: float,
    *,
    frozen: float | None = None,
    memory: float | None = None,
    new: float | None = None,
    per_end: float | None = None,
) -> Metrics:
    """Return the metrics of ``split`` whose tokens cost ``nats`` together.

    ``frozen`` is the bits per byte of the weights alone, ``memory`` that with a memory, ``new`` that of the lines which
    the training text does not have, ``per_end`` the bits of the end of a document.
    """
    bits = nats / math.log(2)
    return Metrics(
        bits_per_byte=bits / split.bytes,
        bits_per_character=bits / split.characters if split.characters else None,
        perplexity_per_token=_exp(nats / split.scored_tokens),
        perplexity_per_word=_exp(nats / split.words) if split.words else None,
        tokens=split.scored_tokens,
        bytes=split.bytes,
        seconds=seconds,
        bits_per_byte_frozen=frozen,
        bits_per_byte_memory=memory,
        bits_per_end=per_end,
        repeated_bytes=split.repeated_bytes,
        bits_per_byte_new=new,
    )


def unlike_parts(validation: float, test: float) -> str:
    """Return what it means that validation and test text cost so unlike bits per byte; "" where they are alike."""
    if 1 / TOLERANCE <= test / max(validation, 1e-9) <= TOLERANCE:
        return ""
    return (
        f"The validation text costs {validation:.3f} bits per byte and the test text {test:.3f}: they are of different "
        "kinds, so the model was chosen for another text than it is tested on. Look at how the text is "
        "split (data.split)."
    )


def unlike_training(training: float, validation: float) -> str:
    """Return what it means that validation text costs more than training text that is read for the first time.

    "" where it does not cost much more; less is usual, as the model learns while that text is read.
    """
    if not validation / max(training, 1e-9) > TOLERANCE:  # also where one of them is not known
        return ""
    return (
        f"The validation text costs {validation:.3f} bits per byte now, training text that is read for the first "
        f"time {training:.3f}: it is of another kind than most of the training text. Look at how the text is split "
        "(data.split)."
    )


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # exp(710) would raise OverflowError
