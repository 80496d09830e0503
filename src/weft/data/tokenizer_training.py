"""Learning the pieces of a tokenizer from text: deterministic for every kind."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.data.closed_words import train_closed_words
from weft.data.config import CLOSED, TokenizerKind
from weft.data.tokenizers import (
    MIN_VOCAB_SIZE,
    NUM_BYTES,
    PATTERNS,
    Tokenizer,
    assemble,
    byte_characters,
    parallelism,
    pre_tokenizer,
)
from weft.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Characters of a piece that merges are learned from: the time for one grows with its square.
LONGEST_WORD = 512
MIN_COUNT = 2  # what occurs once in the training text cannot be learned as a token of its own
SEED_FACTOR = 4  # unigram: how many times the vocabulary there are candidates at first
KEEP_SHARE = 0.7  # unigram: the share of candidates that survives each round


def default_vocab_size(training_bytes: int) -> int:
    """Return the vocabulary for a text of that many bytes, special tokens included.

    A thousandth of the bytes, rounded to a power of two (on a log scale), from 512 to 8192: 2 MB give 2048.
    """
    exponent = round(math.log2(max(training_bytes, 1000) / 1000))  # not below 0, as it is a shift
    return min(max(1 << exponent, 512), 8192)


def train_tokenizer(
    kind: TokenizerKind, documents: Iterable[bytes], vocab_size: int, *, exact: bool = True
) -> Tokenizer:
    """Return a tokenizer of ``kind`` with ``vocab_size`` tokens learned from ``documents`` (UTF-8).

    The same documents give the same tokenizer. Where they do not support that many tokens, UserError states
    how many they do, unless ``exact`` is false: then there are fewer. ``bytes`` learns nothing and has 258;
    ``closed-words`` is :func:`weft.data.closed_words.train_closed_words`.
    """
    if kind == CLOSED:
        return train_closed_words(documents, vocab_size, exact=exact)
    if vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"A vocabulary of {vocab_size} is too small: it holds 256 bytes and 2 special tokens, so give "
            f"vocab_size {MIN_VOCAB_SIZE} or more."
        )
    tokenizer = _TRAINERS[kind](documents, vocab_size - MIN_VOCAB_SIZE)
    if exact and tokenizer.vocab_size < vocab_size:
        raise UserError(
            f"The training text supports at most {tokenizer.vocab_size} tokens of kind {kind}, "
            f"not {vocab_size}: give vocab_size {tokenizer.vocab_size} or less."
        )
    return tokenizer


def _train_bytes(_documents: Iterable[bytes], _pieces: int) -> Tokenizer:
    from tokenizers import models

    return assemble("bytes", models.BPE(vocab=_vocabulary([]), merges=[]))


def _train_characters(documents: Iterable[bytes], pieces: int) -> Tokenizer:
    return _train_whole("characters", documents, pieces)


def _train_words(documents: Iterable[bytes], pieces: int) -> Tokenizer:
    return _train_whole("words", documents, pieces)


def _train_whole(kind: TokenizerKind, documents: Iterable[bytes], pieces: int) -> Tokenizer:
    """Make tokens of the most frequent whole pieces (characters or words); others fall apart into bytes."""
    from tokenizers import models

    # One-byte pieces are tokens already, and there are at most 256 of them to pass over.
    frequent = _frequent(documents, PATTERNS[kind], pieces + NUM_BYTES)
    learned = [piece for piece in frequent if len(piece) > 1][:pieces]
    return assemble(kind, models.BPE(vocab=_vocabulary(learned), merges=[], ignore_merges=True))


def _train_bpe(documents: Iterable[bytes], pieces: int) -> Tokenizer:
    from tokenizers import models

    learned, merges = _byte_pairs(_decoded(documents), PATTERNS["bpe"], pieces)
    return assemble("bpe", models.BPE(vocab=_vocabulary(learned), merges=merges))


def _train_unigram(documents: Iterable[bytes], pieces: int) -> Tokenizer:
    """Learn a unigram model (Kudo 2018) by hard EM from candidates that byte-pair merges propose.

    The library's own trainer gives other results from run to run and is many times slower; the likelihood
    here is that of the best segmentation instead of all of them, so every count is a whole number.
    """
    texts = list(_decoded(documents))
    words, counts = _count_words(texts, PATTERNS["unigram"])
    candidates, _ = _byte_pairs(texts, PATTERNS["unigram"], SEED_FACTOR * pieces)
    vocabulary = [*byte_characters(), *candidates]
    scores = np.zeros(len(vocabulary))  # log-probabilities, at first all alike
    while True:
        # Two rounds of EM: segment all words (E), then take the counts of the pieces as their frequencies
        # (M). Each piece costs 1.0 more than its score says, which favours segmentations into few pieces.
        for _ in range(2):
            frequencies = _segment_counts(vocabulary, scores - 1.0, words, counts)
            scores = np.log((frequencies + 0.5) / frequencies.sum())
        # Then drop the pieces that are needed least, a share of them at a time, until as many are left as
        # asked.
        excess = len(vocabulary) - NUM_BYTES - pieces
        if excess <= 0:
            return assemble("unigram", _unigram(vocabulary, scores))
        target = max(pieces, int(KEEP_SHARE * (len(vocabulary) - NUM_BYTES)))
        keep = _most_useful(vocabulary, scores, frequencies, target)
        vocabulary = [vocabulary[i] for i in keep]
        scores = scores[keep]


_TRAINERS = {
    "bytes": _train_bytes,
    "characters": _train_characters,
    "words": _train_words,
    "bpe": _train_bpe,
    "unigram": _train_unigram,
}


def _decoded(documents: Iterable[bytes]) -> Iterator[str]:
    return (document.decode() for document in documents)


def _vocabulary(learned: list[str]) -> dict[str, int]:
    """Number the 256 bytes and then the learned pieces."""
    return {piece: index for index, piece in enumerate([*byte_characters(), *learned])}


def _frequent(documents: Iterable[bytes], pattern: str | None, number: int) -> list[str]:
    """Return up to ``number`` pieces of ``documents``, the most frequent first, ties in alphabetic order."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, trainers

    backend = Backend(models.WordLevel())
    backend.pre_tokenizer = pre_tokenizer(pattern)
    trainer = trainers.WordLevelTrainer(vocab_size=number, min_frequency=MIN_COUNT, show_progress=False)
    with parallelism():
        backend.train_from_iterator(_decoded(documents), trainer)
    return _in_order(backend)


def _byte_pairs(texts: Iterable[str], pattern: str | None, pieces: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Return up to ``pieces`` pieces that byte-pair encoding makes, in that order, and its merges."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizer(pattern, LONGEST_WORD)
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_BYTES + pieces,
        min_frequency=MIN_COUNT,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    with parallelism():
        backend.train_from_iterator(texts, trainer)
    merges = [(left, right) for left, right in json.loads(backend.to_str())["model"]["merges"]]
    return [piece for piece in _in_order(backend) if len(piece) > 1], merges


def _in_order(backend: Any) -> list[str]:
    vocabulary: dict[str, int] = backend.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _count_words(texts: list[str], pattern: str | None) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct pre-tokens of ``texts`` and how often each occurs."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, trainers

    backend = Backend(models.WordLevel())
    backend.pre_tokenizer = pre_tokenizer(pattern, LONGEST_WORD)
    trainer = trainers.WordLevelTrainer(vocab_size=2**31, min_frequency=0, show_progress=False)
    with parallelism():
        backend.train_from_iterator(texts, trainer)
    # The trainer tells no counts: the texts are encoded once more, in which every word is now a token.
    words = _in_order(backend)
    counts = np.zeros(len(words), np.int64)
    for start in range(0, len(texts), 256):
        with parallelism():
            encodings = backend.encode_batch_fast(texts[start : start + 256])
        ids = np.concatenate([encoding.ids for encoding in encodings])
        counts += np.bincount(ids.astype(np.int64), minlength=len(words))
    return words, counts


def _unigram(vocabulary: list[str], scores: NDArray[np.float64]) -> Any:
    from tokenizers import models

    # Rounded, as the library reads long decimals from its own JSON with an error in the last place.
    return models.Unigram(list(zip(vocabulary, np.round(scores, 6).tolist(), strict=True)))


def _segment_counts(
    vocabulary: list[str], scores: NDArray[np.float64], words: list[str], counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return how often each piece occurs in the best segmentation of all words."""
    from tokenizers import Tokenizer as Backend

    backend = Backend(_unigram(vocabulary, scores))
    totals = np.zeros(len(vocabulary))
    for start in range(0, len(words), 1 << 16):
        with parallelism():
            encodings = backend.encode_batch_fast(words[start : start + (1 << 16)])
        # A piece of a word occurs as often as the word does.
        lengths = [len(encoding.ids) for encoding in encodings]
        ids = np.concatenate([encoding.ids for encoding in encodings]).astype(np.int64)
        weights = np.repeat(counts[start : start + (1 << 16)], lengths)
        totals += np.bincount(ids, weights, minlength=len(vocabulary))
    return totals


def _most_useful(
    vocabulary: list[str], scores: NDArray[np.float64], frequencies: NDArray[np.float64], pieces: int
) -> list[int]:
    """Return the bytes and the ``pieces`` whose loss would cost the likelihood most, in their old order."""
    score_of = dict(zip(vocabulary, scores.tolist(), strict=True))
    loss: list[float] = []
    for piece, frequency in zip(vocabulary[NUM_BYTES:], frequencies[NUM_BYTES:].tolist(), strict=True):
        # Without the piece, every place where it stands is written with others, at their score.
        loss.append(frequency * (score_of[piece] - _score_without(piece, score_of)))
    # Ties go to the earlier piece, so that the same text gives the same tokenizer.
    ranked = sorted(range(len(loss)), key=lambda i: (-loss[i], i))
    return [*range(NUM_BYTES), *sorted(NUM_BYTES + i for i in ranked[:pieces])]


def _score_without(piece: str, score_of: dict[str, float]) -> float:
    """Return the score of the best segmentation of ``piece`` into others."""
    best = [0.0] + [-math.inf] * len(piece)  # best[i]: of the first i characters (Viterbi)
    for end in range(1, len(piece) + 1):
        for start in range(end):
            part = piece[start:end]
            if part in score_of and part != piece:
                best[end] = max(best[end], best[start] + score_of[part])
    return best[-1]
