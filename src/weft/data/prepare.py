"""From files of text to memory-mapped tokens, kept in a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from weft.data.cache import cached, content_key
from weft.data.closed_words import train_closed_words
from weft.data.config import CLOSED, DEFAULT_SEPARATOR, HUB, DataConfig
from weft.data.documents import Fragment, Layout
from weft.data.likeness import remark_on_likeness
from weft.data.pieces import cut_documents, cut_pieces
from weft.data.prepare_streamed import prepare_streamed, tokenize_dataset
from weft.data.prepared import (
    PreparedData,
    TokenizedSplit,
    cache_settings,
    form_remarks,
    open_split,
    summarize,
    write_split,
)
from weft.data.published_corpus import PublishedText
from weft.data.repeats import Repeats, remark_on_repeats, repeated_lines
from weft.data.sources import left_out, resolve_sources
from weft.data.splits import SPLITS, Corpus, iter_files, open_corpus
from weft.data.streamed import SAMPLE_BYTES
from weft.data.tokenizer_training import default_vocab_size, train_tokenizer
from weft.data.tokenizers import MIN_VOCAB_SIZE, Tokenizer
from weft.data.unify import AS_IT_IS, Unify

Progress = Callable[[str], None]


def prepare(
    config: DataConfig, *, tokenizer: Tokenizer | None = None, progress: Progress | None = None
) -> PreparedData:
    """Read, split and tokenize a corpus, or find it in the cache, which is keyed by content.

    The tokenizer is trained on the training split only (on every n-th piece of it where it is over 32 MB),
    unless one is given; then ``config.tokenizer`` and ``config.vocab_size`` do not matter. Memory stays far
    below the size of the text. ``progress`` is told what is going on. Raises UserError for anything wrong
    with the text or the cache.
    """
    tell = progress or (lambda _: None)
    if config.streamed:
        return prepare_streamed(config, tokenizer, tell)
    kind = tokenizer.kind if tokenizer else config.tokenizer_kind
    corpus = open_corpus(config, any_bytes=kind == "bytes", progress=tell)
    if not config.published:
        others = left_out((*config.sources, *config.validation, *config.test))
        if others:
            tell(others)

    # Find the entry of the cache by all that it depends on, names and places of files left out, or build it.
    settings = cache_settings(config.model_dump(exclude={"sources", "path", "validation", "test"}), tokenizer)
    # None is the same as the number that it stands for, and a bundled corpus has a split of its own.
    settings |= {"longest_document": config.cut_above, "bundled": config.bundled}
    if config.published:
        settings["published"] = config.published.name
    if tokenizer is None:
        settings["tokenizer"] = kind
    key = content_key(settings, corpus.groups())
    entry, told = cached(key, lambda folder: _build(folder, corpus, config, tokenizer, tell))
    train, validation, test = (open_split(entry, name, told[name]) for name in SPLITS)

    # Tell what is in it, found or built.
    for line in form_remarks(train, validation, test):
        tell(line)
    tell(told["summary"])
    for remark in told["remarks"]:
        tell(remark)
    tokenizer = tokenizer or Tokenizer.load(entry)
    settled = {**told["settled"], "longest_document": config.cut_above}
    remarks = tuple(told["remarks"])
    return PreparedData(tokenizer, train, validation, test, told["summary"], settled, remarks, key, told["rule"])


def tokenize_sources(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    *,
    document_separator: str = DEFAULT_SEPARATOR,
    text_key: str = "text",
    unify: Unify = AS_IT_IS,
    progress: Progress = lambda _: None,
) -> TokenizedSplit:
    """Tokenize all documents of ``sources`` (files, folders, globs) without a split, through the cache.

    ``unify`` is what is made one in the text; ``progress`` is told which files of a folder are not read.
    """
    if any(source.startswith(HUB) for source in sources):
        return tokenize_dataset(sources, tokenizer, text_key, unify)
    layout = Layout(document_separator, text_key)
    values = {"document_separator": document_separator, "text_key": text_key, **asdict(unify)}
    settings = cache_settings(values, tokenizer)
    files = resolve_sources(sources, unify)
    if others := left_out(sources):
        progress(others)
    any_bytes = tokenizer.kind == "bytes"

    def build(folder: Path) -> dict[str, Any]:
        return write_split(folder, "all", iter_files(files, layout, any_bytes=any_bytes), tokenizer)

    entry, told = cached(content_key(settings, {"sources": files}), build)
    return open_split(entry, "all", told)


def _build(
    folder: Path, corpus: Corpus | PublishedText, config: DataConfig, tokenizer: Tokenizer | None, tell: Progress
) -> dict[str, Any]:
    """Fill an entry of the cache."""
    tell("Reading the text.")
    corpus.require_all_splits()
    if tokenizer is None:
        tell(f"Training the tokenizer ({config.tokenizer_kind}).")
        tokenizer = _train(corpus, config)
        tokenizer.save(folder)
    # Tokens are matched to lines by their bytes, which those of a closed vocabulary do not keep; and a
    # published corpus is scored as it was published.
    repeated = None
    if isinstance(corpus, Corpus) and tokenizer.kind != CLOSED:
        held_out = chain(corpus.fragments("validation"), corpus.fragments("test"))
        repeated = repeated_lines(cut_pieces(held_out), cut_pieces(corpus.fragments("train")))
    told: dict[str, Any] = {}
    for split in SPLITS:
        tell(f"Tokenizing the {split} split.")
        line_ends = isinstance(corpus, PublishedText) and corpus.counts_line_ends
        fragments = corpus.fragments(split)
        repeats = None
        if split == "train":
            fragments = cut_documents(fragments, config.cut_above)
        elif repeated is not None:
            repeats = Repeats(repeated, tokenizer)
        told[split] = write_split(folder, split, fragments, tokenizer, line_ends=line_ends, repeats=repeats)
        if isinstance(corpus, PublishedText):
            corpus.require_words(split, told[split]["words"])
    told["rule"] = f"{corpus.describe_rule()}{config.unify.note()}"
    told["summary"] = summarize([told[split] for split in SPLITS], tokenizer, told["rule"])
    told["settled"] = corpus.settled() if isinstance(corpus, Corpus) else {}
    told["remarks"] = _remarks(folder, told)
    return told


def _remarks(folder: Path, told: dict[str, Any]) -> list[str]:
    """Return sentences on what may make the figures of these splits misleading."""
    train, validation, test = (open_split(folder, name, told[name]) for name in SPLITS)
    remarks: list[str] = []
    for name, split in (("validation", validation), ("test", test)):
        remarks += remark_on_repeats(name, told[name]["repeated_lines"], split.repeated_bytes / split.bytes)
    return [*remarks, *remark_on_likeness(train, validation, test)]


def _train(corpus: Corpus | PublishedText, config: DataConfig) -> Tokenizer:
    kind = config.tokenizer_kind
    if kind == "bytes":
        return train_tokenizer(kind, (), config.vocab_size or MIN_VOCAB_SIZE)
    if kind == CLOSED:  # a vocabulary is that of the whole text, which is only counted
        pieces = cut_pieces(corpus.fragments("train"), between_words=True)
        return train_closed_words((piece.data for piece in pieces), config.vocab_size)
    # The text is read once for its size, on which the stride of the sample and the vocabulary depend.
    size = sum(len(fragment.data) for fragment in corpus.fragments("train"))
    sample = _sample(corpus.fragments("train"), size)
    vocab_size = config.vocab_size or default_vocab_size(size)
    return train_tokenizer(kind, sample, vocab_size, exact=config.vocab_size is not None)


def _sample(fragments: Iterable[Fragment], size: int) -> Iterator[bytes]:
    """Yield all pieces, or every n-th one so that 32 MB or a little less are left."""
    stride = -(-size // SAMPLE_BYTES)  # rounded up
    for index, piece in enumerate(cut_pieces(fragments)):
        if index % stride == 0:
            yield piece.data
