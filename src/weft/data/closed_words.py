"""The closed vocabulary of words: the tokenizer over which perplexities on WikiText are published.

It is the one exception from the byte-level family: words are what lies between white space, case and all,
and every line end is the word ``<eos>``. Words that the vocabulary does not hold are all read as ``<unk>``,
so text does not come back as it was, and bits per byte say less than they seem to where words are unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from weft.data.config import CLOSED
from weft.data.documents import whole_documents
from weft.data.pieces import cut_pieces
from weft.data.published import LINE_END_WORD
from weft.data.tokenizers import BOUNDARY, NUM_SPECIAL, PADDING, UNKNOWN_WORD, Tokenizer, add_special_tokens
from weft.errors import UserError

MIN_VOCAB_SIZE = 3 + NUM_SPECIAL  # <unk>, <eos>, a word
RARE = 2  # words that occur less often teach <unk>, unless the text has that word itself


def train_closed_words(documents: Iterable[bytes], vocab_size: int | None = None, *, exact: bool = True) -> Tokenizer:
    """Return a tokenizer whose words are those of ``documents`` (UTF-8), the most frequent first.

    Words of equal frequency stand in the order of their code points. A text that has the word ``<unk>`` (as
    the WikiText corpora) was closed before, and each of its words is taken; of another, those that occur
    once are left out, as the model must learn what ``<unk>`` means. ``vocab_size`` keeps only the most
    frequent, counting ``<unk>``, ``<eos>`` and the two special tokens; UserError where there are not as many
    and ``exact``.
    """
    if vocab_size is not None and vocab_size < MIN_VOCAB_SIZE:
        raise UserError(f"A vocabulary of {vocab_size} words is too small: give vocab_size {MIN_VOCAB_SIZE} or more.")
    counts = _count(documents)
    least = RARE
    if UNKNOWN_WORD in counts:  # somebody has left out the rare words already
        least = 1
    always = (UNKNOWN_WORD, LINE_END_WORD)
    apart = {*always, BOUNDARY, PADDING}  # a text that spells the special tokens is text
    most = None
    if vocab_size is not None:
        most = vocab_size - NUM_SPECIAL - len(always)
    words = [word for word, count in counts.items() if count >= least and word not in apart]
    chosen = sorted(words, key=lambda word: (-counts[word], word))[:most]
    if exact and most is not None and len(chosen) < most:
        size = len(chosen) + len(always) + NUM_SPECIAL
        raise UserError(
            f"The training text supports at most {size} tokens of kind {CLOSED}, not {vocab_size}: give vocab_size "
            f"{size} or less."
        )
    return assemble_closed(sorted([*always, *chosen], key=lambda word: (-counts[word], word)))


def assemble_closed(words: list[str]) -> Tokenizer:
    """Return the tokenizer of ``words`` (with ``<unk>`` and ``<eos>``), numbered in their order."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    vocabulary = {word: index for index, word in enumerate(words)}
    backend = Backend(models.WordLevel(vocabulary, unk_token=UNKNOWN_WORD))
    backend.normalizer = normalizers.Replace("\n", f" {LINE_END_WORD} ")  # offsets stay those of the line end
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # As the WikiText files are written: a space before each word and each line end.
    backend.decoder = decoders.Sequence([decoders.Replace(Regex("^"), " "), decoders.Replace(LINE_END_WORD, "\n")])
    add_special_tokens(backend)
    return Tokenizer(CLOSED, backend)


def _count(documents: Iterable[bytes]) -> Counter[str]:
    """Count the words of ``documents``, their line ends as ``<eos>``."""
    counts: Counter[str] = Counter({LINE_END_WORD: 0})
    for piece in cut_pieces(whole_documents(documents), between_words=True):
        text = piece.data.decode()
        counts.update(text.split())
        counts[LINE_END_WORD] += text.count("\n")
    return counts
