"""Text with the surprisal of every token: of a text that is given, and the sums over one that is being written.

Tokens are pieces of bytes, so a character may take several of them. ``text`` of a token is what
it completes: empty while a character is unfinished, then the characters of all tokens since the
last whole one. Shapes: T positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from weft.data import TokenizedSplit, Tokenizer
from weft.data.documents import join_fragments, split_documents
from weft.evaluation.scoring import score
from weft.generation import GrowingText, Token
from weft.model import WeftModel
from weft.recall import TextMemory
from weft.serve.limits import Refused


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A text with its bits. ``documents`` are its parts between separators, which cost nothing and are not shown."""

    bits: float
    bytes: int
    bits_per_byte: float
    documents: list[list[Token]]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        documents = [[vars(token) for token in document] for document in self.documents]
        return {"bits": self.bits, "bytes": self.bytes, "bits_per_byte": self.bits_per_byte, "documents": documents}


@dataclass
class Totals:
    """The sum over the tokens that were written."""

    tokens: int = 0
    bits: float = 0.0
    bytes: int = 0

    def add(self, bits: float, size: int) -> None:
        """Count one token of ``size`` bytes."""
        self.tokens += 1
        self.bits += bits
        self.bytes += size

    def to_json(self) -> dict[str, float | int | None]:
        """Return plain data; ``bits_per_byte`` is None of nothing."""
        bits_per_byte = self.bits / self.bytes if self.bytes else None
        return asdict(self) | {"bits_per_byte": bits_per_byte}


def score_text(
    model: WeftModel,
    tokenizer: Tokenizer,
    text: str,
    *,
    separator: str,
    memory: TextMemory | None = None,
    progress: Callable[[int], None] | None = None,
) -> Scored:
    """Score ``text`` as ``weft evaluate`` scores a file with these bytes: cut into documents at ``separator``."""
    documents = list(join_fragments(split_documents([text.encode()], separator)))
    if not documents:
        raise Refused(422, "The text has nothing but line ends: send some text.")
    # As the data's splits are made: each document begins with a boundary, and all stand in one array.
    ids = [np.append(tokenizer.boundary_id, tokenizer.encode_bytes(document)) for document in documents]
    offsets = np.cumsum([0, *map(len, ids)])
    size = sum(map(len, documents))
    split = TokenizedSplit(np.concatenate(ids), offsets, size, None, None)
    nats = score(model, split, boundary_id=tokenizer.boundary_id, progress=progress)
    if memory:
        nats = memory.mix(nats, split)
    bits = float(nats.sum(dtype=np.float64)) / math.log(2)
    shown = []
    for number, (start, stop) in enumerate(pairwise(offsets)):
        shown.append(_tokens(tokenizer, split.document(number), nats[start:stop]))
    return Scored(bits=bits, bytes=size, bits_per_byte=bits / size, documents=shown)


def _tokens(tokenizer: Tokenizer, ids: Iterable[int], nats: Iterable[float]) -> list[Token]:
    """Return the tokens of one document, its boundary left out."""
    text = GrowingText(tokenizer)
    pairs = list(zip(ids, nats, strict=True))[1:]
    return [Token(int(i), text.add(int(i)), float(cost / np.log(2))) for i, cost in pairs]
