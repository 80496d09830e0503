"""A memory of text beside a model: what stood there after the same tokens counts where the model goes on.

A language model of a small text keeps little of it word for word, and the text itself is small enough to keep. The
memory holds the tokens, an index over them (:mod:`weft.recall.index`), and the shares that suit the model
(:mod:`weft.recall.shares`), fitted to text that is neither in the memory nor scored. Mixed with it, the model is a
distribution over the vocabulary again, and learns nothing from what it reads.

Shapes: T tokens of a text, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.data import TokenizedSplit
from weft.recall import shares
from weft.recall.compiled import compiled
from weft.recall.constants import LONGEST, MOST_FOLLOWERS
from weft.recall.index import Found, Index, Pairs, look_up, make_index, pairs_of
from weft.recall.shares import Counts, Nats, Shares

TRAINING_TEXT = "training text"  # its name as a part
CHUNK = 1 << 16  # tokens of a text that are looked up at once
MOST_FITTED = 1 << 18  # tokens of a text to which shares are fitted


class Part(NamedTuple):
    """A text in the memory: a name for people, and what makes it this text and no other."""

    name: str
    identity: str
    bytes: int
    tokens: int


@dataclass(frozen=True, eq=False)
class TextMemory:
    """A memory of text for a model with ``vocab_size`` tokens, of which ``boundary_id`` begins a document."""

    index: Index
    shares: Shares
    vocab_size: int
    boundary_id: int
    parts: tuple[Part, ...]

    @cached_property
    def share_KC(self) -> Counts:  # noqa: N802 - a shape
        """The shares (K, C)."""
        return self.shares.share_KC

    @cached_property
    def pairs(self) -> Pairs:
        """What follows each token, listed when it is first asked for."""
        return pairs_of(self.index, self.vocab_size)

    @property
    def tokens(self) -> int:
        """The tokens that it holds, boundaries among them."""
        return len(self.index.tokens_N)

    @property
    def bytes(self) -> int:
        """What it takes on the disk, and of memory when all of it is read."""
        return sum(array.nbytes for array in (*self.index, *self.shares))

    def fitted(self, nats_T: Nats, text: TokenizedSplit) -> TextMemory:
        """Return the memory with the shares that suit a model best which needs ``nats_T`` for ``text``."""
        return self._fitted(nats_T, text, slice(0, min(len(text.tokens), MOST_FITTED)))

    def _fitted(self, nats_T: Nats, text: TokenizedSplit, part: slice) -> TextMemory:
        look = _Look(self, text)
        return replace(self, shares=shares.fit(nats_T[part], look.scored(part), look(part)))

    def cross_fitted(self, nats_T: Nats, text: TokenizedSplit) -> Nats:
        """Return the nats (T) by model and memory, each half of ``text`` by the shares that suit the other half."""
        mixed = np.empty_like(nats_T)
        middle = len(nats_T) // 2
        halves = (slice(0, middle), slice(middle, len(nats_T)))
        for fitted_to, scored in (halves, halves[::-1]):
            memory = self._fitted(
                nats_T, text, slice(fitted_to.start, min(fitted_to.stop, fitted_to.start + MOST_FITTED))
            )
            mixed[scored] = memory._mix(nats_T, text, scored)
        return mixed

    def mix(self, nats_T: Nats, text: TokenizedSplit) -> Nats:
        """Return the nats (T) of every token of ``text`` by model and memory; ``nats_T`` are the model's own."""
        return self._mix(nats_T, text, slice(0, len(nats_T)))

    def _mix(self, nats_T: Nats, text: TokenizedSplit, scored: slice) -> Nats:
        look = _Look(self, text)
        mixed = []
        for start in range(scored.start, scored.stop, CHUNK):
            part = slice(start, min(start + CHUNK, scored.stop))
            mixed.append(shares.mix_in(nats_T[part], look.scored(part), look(part), self.shares))
        return np.concatenate(mixed) if mixed else np.empty(0, np.float32)

    def found(self, text: TokenizedSplit) -> Found:
        """Return what the memory says of every token of ``text``."""
        return _Look(self, text)(slice(0, len(text.tokens)))

    def copied(self, text: TokenizedSplit) -> float:
        """Return the share of the tokens of ``text`` that stand in the memory after the same LONGEST tokens."""
        part = slice(0, min(len(text.tokens), MOST_FITTED))
        look = _Look(self, text)
        scored_T = look.scored(part)
        return float((look(part).said_KT[-1] > 0)[scored_T].mean()) if scored_T.any() else 0.0

    def mix_read(self, nats_P: Nats, ids: Sequence[int], part: slice) -> Nats:
        """Return the nats of the tokens ``part`` of one document, as :meth:`mix` does; ``nats_P`` are the model's own.

        ``ids`` are all its tokens, the boundary first.
        """
        document = TokenizedSplit(np.array(ids), np.array([0, len(ids)]), 0, None, None)
        look = _Look(self, document)
        return shares.mix_in(nats_P, look.scored(part), look(part), self.shares)

    def mix_logits(self, logits_V: NDArray[np.float32], context: Sequence[int]) -> None:
        """Turn a model's logits into the logarithms of the mixture's probabilities, in place.

        ``context`` are the tokens read so far, the boundary of their document the first; the last ones are enough.
        """
        most = float(logits_V.max())
        compiled("mix_logits")(
            *self.index,
            *self.pairs,
            np.array(self._since_boundary(context), dtype=np.int32),
            self.share_KC,
            MOST_FOLLOWERS,
            most + math.log(np.exp(logits_V - np.float32(most)).sum()),
            logits_V,
        )

    def _since_boundary(self, context: Sequence[int]) -> Sequence[int]:
        """Return the last tokens of ``context`` that may be a context in the memory."""
        last = context[-LONGEST:]
        for place in range(len(last) - 1, 0, -1):
            if last[place] == self.boundary_id:
                return last[place:]
        return last


class _Look:
    """Looks the tokens of a text up in a memory, part by part."""

    def __init__(self, memory: TextMemory, text: TokenizedSplit) -> None:
        self._memory = memory
        self.text_T = np.ascontiguousarray(text.tokens, dtype=np.int32)
        # Where the document of the token before begins: a boundary follows on the document that it ends.
        self.begins_T = np.zeros(len(text.tokens), dtype=np.int64)
        self.begins_T[1:] = np.repeat(text.offsets[:-1], np.diff(text.offsets))[:-1]

    def scored(self, part: slice) -> NDArray[np.bool_]:
        is_text: NDArray[np.bool_] = self.text_T[part] != self._memory.boundary_id
        return is_text

    def __call__(self, part: slice) -> Found:
        return look_up(self._memory.index, self.text_T, self.begins_T, LONGEST, MOST_FOLLOWERS, part)


class Reader:
    """Mixes a memory into a model's chances of all tokens (P, V), at places of a text that follow each other."""

    def __init__(self, memory: TextMemory, text: TokenizedSplit) -> None:
        self._memory = memory
        self._look = _Look(memory, text)

    def __call__(self, chances_PV: NDArray[np.float64], start: int) -> None:
        """Mix in place, for the tokens from ``start`` on; those of boundaries are left as they are."""
        compiled("mix_chances")(
            *self._memory.index,
            *self._memory.pairs,
            self._look.text_T,
            self._look.begins_T,
            start,
            self._memory.share_KC,
            MOST_FOLLOWERS,
            self._memory.boundary_id,
            chances_PV,
        )


def make_memory(
    texts: Iterable[tuple[str, TokenizedSplit]],
    *,
    vocab_size: int,
    boundary_id: int,
    before: TextMemory | None = None,
) -> TextMemory:
    """Return a memory of named texts, each taken once, beside what is remembered ``before``.

    Its shares are those of ``before``, or such that nothing is known yet.
    """
    parts: list[Part] = []
    tokens: list[NDArray[Any]] = []
    for name, text in texts:
        whole = whole_documents(text)
        part = Part(name, text.identity, text.bytes, len(whole))
        if part.identity not in {known.identity for known in parts}:
            parts.append(part)
            tokens.append(whole)
    known_N = before.index.tokens_N if before else np.zeros(0, dtype=np.int64)
    begin = 0
    kept = 0
    known_parts = before.parts if before else ()
    for part in known_parts:
        end = begin + part.tokens
        # A text of the same name is a newer form of it.
        if not any(part.name == new.name or part.identity == new.identity for new in parts[kept:]):
            parts.insert(kept, part)
            tokens.insert(kept, known_N[begin:end])
            kept += 1
        begin = end
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32
    together = np.concatenate([*tokens, [boundary_id]]).astype(dtype)
    known = before.shares if before else shares.first_guess()
    return TextMemory(make_index(together), known, vocab_size, boundary_id, tuple(parts))


def whole_documents(text: TokenizedSplit) -> NDArray[Any]:
    """Return the tokens of ``text`` without the boundaries at which a document was only cut into pieces."""
    tokens = np.asarray(text.tokens)
    if text.continues is None:
        return tokens
    kept = np.ones(len(tokens), dtype=bool)
    kept[text.offsets[:-1][text.continues]] = False
    return tokens[kept]
