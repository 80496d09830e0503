"""Small texts of few tokens, and a memory by hand."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np

from weft.data import TokenizedSplit
from weft.recall import TextMemory, make_memory
from weft.recall.constants import FOLLOWER_CLASSES, FOLLOWERS_ONE_BY_ONE, MOST_FOLLOWERS, SEEN_CLASSES

BOUNDARY = 5  # and five other tokens
VOCABULARY = 7  # with the padding


def split_of(*documents, continues=None) -> TokenizedSplit:
    """Return these documents, each behind a boundary."""
    tokens = np.concatenate([[BOUNDARY, *document] for document in documents]).astype(np.uint16)
    offsets = np.cumsum([0, *(1 + len(document) for document in documents)])
    pieces = None if continues is None else np.array(continues)
    return TokenizedSplit(tokens, offsets, len(tokens), None, None, continues=pieces)


def random_text(length, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, BOUNDARY, length)


def memory_of(*splits) -> TextMemory:
    named = [(f"text {number}", split) for number, split in enumerate(splits)]
    return make_memory(named, vocab_size=VOCABULARY, boundary_id=BOUNDARY)


def some_nats(split, seed=1) -> np.ndarray:
    nats = np.random.default_rng(seed).exponential(1.5, len(split.tokens)).astype(np.float32)
    nats[np.asarray(split.tokens) == BOUNDARY] = 0
    return nats


def uniform(split) -> np.ndarray:
    return np.where(np.asarray(split.tokens) == BOUNDARY, 0, math.log(VOCABULARY)).astype(np.float32)


class CountsByHand:
    """What followed each context, counted with dictionaries."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.followed: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        self.document: list[int] = []

    def contexts(self) -> list[tuple[int, ...]]:
        reach = min(self.longest, len(self.document))
        return [tuple(self.document[-k:]) for k in range(1, reach + 1)]

    def read(self, token: int) -> None:
        token = int(token)
        for context in self.contexts():
            self.followed[context][token] += 1
        self.document = [token] if token == BOUNDARY else [*self.document, token]

    def read_all(self, split: TokenizedSplit) -> None:
        for token in [*split.tokens, BOUNDARY]:  # a text ends as its documents do
            self.read(token)

    def look(self, token: int) -> list[tuple[int, int, int]]:
        """How often each context was seen, how often the token followed, how many others did; as far as it is there."""
        found = []
        for context in self.contexts():
            counts = self.followed[context]
            if not counts:
                break
            found.append((counts.total(), counts[int(token)], min(len(counts), MOST_FOLLOWERS)))
        return found


def class_by_hand(seen: int, different: int) -> int:
    power = min(seen.bit_length() - 1, SEEN_CLASSES - 1)
    row = different - 1
    if different > FOLLOWERS_ONE_BY_ONE:
        row = min(FOLLOWERS_ONE_BY_ONE + different.bit_length() - 3, FOLLOWER_CLASSES - 1)
    return power * FOLLOWER_CLASSES + row
