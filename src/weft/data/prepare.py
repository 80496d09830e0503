"""From files of text to memory-mapped tokens, kept in a cache."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.data.cache import cached, content_key
from weft.data.config import DEFAULT_SEPARATOR, DataConfig
from weft.data.documents import Fragment, Layout
from weft.data.pieces import cut_pieces
from weft.data.sources import resolve_sources
from weft.data.splits import SPLITS, Corpus, iter_files
from weft.data.tokenizer_training import default_vocab_size, train_tokenizer
from weft.data.tokenizers import MIN_VOCAB_SIZE, Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT_VERSION = 1
TOKENIZER_SAMPLE_BYTES = 32_000_000
Progress = Callable[[str], None]


@dataclass(frozen=True)
class TokenizedSplit:
    """Documents as token ids, back to back, each a boundary token followed by its own.

    ``tokens`` (uint16, or uint32 for more than 65,536 ids; memory-mapped) and ``offsets`` (n + 1): document i
    is ``tokens[offsets[i]:offsets[i + 1]]``. ``bytes`` counts the documents without separators;
    ``characters`` and ``words`` (parts between white space) are None where the text is not UTF-8.
    """

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    bytes: int
    characters: int | None
    words: int | None

    @property
    def documents(self) -> int:
        """The number of documents."""
        return len(self.offsets) - 1

    @property
    def scored_tokens(self) -> int:
        """The number of tokens that are text, boundaries not counted."""
        return len(self.tokens) - self.documents

    def document(self, index: int) -> NDArray[Any]:
        """Return the tokens of one document, the boundary first."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class PreparedData:
    """A corpus that is ready to train on; ``summary`` is one line for people."""

    tokenizer: Tokenizer
    train: TokenizedSplit
    validation: TokenizedSplit
    test: TokenizedSplit
    summary: str


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
    kind = tokenizer.kind if tokenizer else config.tokenizer_kind
    corpus = Corpus(config, any_bytes=kind == "bytes")
    settings = _settings(config.model_dump(exclude={"sources", "validation", "test"}), tokenizer)
    if tokenizer is None:
        settings["tokenizer"] = kind
    key = content_key(settings, corpus.groups())
    entry, told = cached(key, lambda folder: _build(folder, corpus, config, tokenizer, tell))
    train, validation, test = (_open_split(entry, name, told[name]) for name in SPLITS)
    tell(told["summary"])
    tokenizer = tokenizer or Tokenizer.load(entry)
    return PreparedData(tokenizer, train, validation, test, told["summary"])


def tokenize_sources(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    *,
    document_separator: str = DEFAULT_SEPARATOR,
    text_key: str = "text",
) -> TokenizedSplit:
    """Tokenize all documents of ``sources`` (files, folders, globs) without a split, through the cache."""
    layout = Layout(document_separator, text_key)
    settings = _settings({"document_separator": document_separator, "text_key": text_key}, tokenizer)
    files = resolve_sources(sources)
    any_bytes = tokenizer.kind == "bytes"

    def build(folder: Path) -> dict[str, Any]:
        return _write_split(folder, "all", iter_files(files, layout, any_bytes=any_bytes), tokenizer)

    entry, told = cached(content_key(settings, {"sources": files}), build)
    return _open_split(entry, "all", told)


def _settings(values: dict[str, Any], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return what the cache entry depends on besides the files."""
    settings = {**values, "format": FORMAT_VERSION}
    if tokenizer:
        settings.update(tokenizer=tokenizer.kind, vocab_size=tokenizer.vocab_size)
        settings["tokenizer_hash"] = hashlib.blake2b(tokenizer.to_json().encode()).hexdigest()
    return settings


def _build(
    folder: Path, corpus: Corpus, config: DataConfig, tokenizer: Tokenizer | None, tell: Progress
) -> dict[str, Any]:
    """Fill an entry of the cache."""
    tell("Reading the text.")
    corpus.require_all_splits()
    if tokenizer is None:
        tell(f"Training the tokenizer ({config.tokenizer_kind}).")
        tokenizer = _train(corpus, config)
        tokenizer.save(folder)
    told: dict[str, Any] = {}
    for split in SPLITS:
        tell(f"Tokenizing the {split} split.")
        told[split] = _write_split(folder, split, corpus.fragments(split), tokenizer)
    told["summary"] = _summary([told[split] for split in SPLITS], tokenizer, corpus.describe_rule())
    return told


def _train(corpus: Corpus, config: DataConfig) -> Tokenizer:
    kind = config.tokenizer_kind
    if kind == "bytes":
        return train_tokenizer(kind, (), config.vocab_size or MIN_VOCAB_SIZE)
    size = sum(len(fragment.data) for fragment in corpus.fragments("train"))
    sample = _sample(corpus.fragments("train"), size)
    vocab_size = config.vocab_size or default_vocab_size(size)
    return train_tokenizer(kind, sample, vocab_size, exact=config.vocab_size is not None)


def _sample(fragments: Iterable[Fragment], size: int) -> Iterator[bytes]:
    """Yield all pieces, or every n-th one so that 32 MB or a little less are left."""
    stride = -(-size // TOKENIZER_SAMPLE_BYTES)
    for index, piece in enumerate(cut_pieces(fragments)):
        if index % stride == 0:
            yield piece.data


def _summary(splits: list[dict[str, Any]], tokenizer: Tokenizer, rule: str) -> str:
    documents, size, stored = (sum(split[name] for split in splits) for name in ("documents", "bytes", "tokens"))
    tokens = stored - documents
    return (
        f"{documents:,} documents, {size:,} bytes, {tokens:,} tokens ({size / tokens:.2f} bytes per token, "
        f"{tokenizer.kind}, vocabulary {tokenizer.vocab_size:,}), {rule}"
    )


def _write_split(folder: Path, name: str, fragments: Iterable[Fragment], tokenizer: Tokenizer) -> dict[str, Any]:
    """Write the tokens and offsets of one split as they come; return what is to be told of it."""
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    boundary = np.array([tokenizer.boundary_id], dtype).tobytes()
    offsets, position, counter = array("q"), 0, _Counter()
    with (folder / f"{name}.tokens").open("wb") as stream:
        for piece, ids in tokenizer.encode_stream(cut_pieces(fragments)):
            if piece.first:
                offsets.append(position)
                position += 1
                stream.write(boundary)
            stream.write(ids.astype(dtype).tobytes())
            position += len(ids)
            counter.add(piece)
    offsets.append(position)
    (folder / f"{name}.offsets").write_bytes(np.array(offsets, dtype=np.int64).tobytes())
    return {
        "dtype": np.dtype(dtype).name,
        "documents": len(offsets) - 1,
        "tokens": position,
        **counter.told(),
    }


def _open_split(folder: Path, name: str, told: dict[str, Any]) -> TokenizedSplit:
    return TokenizedSplit(
        tokens=np.memmap(folder / f"{name}.tokens", dtype=told["dtype"], mode="r"),
        offsets=np.fromfile(folder / f"{name}.offsets", dtype=np.int64),
        bytes=told["bytes"],
        characters=told["characters"],
        words=told["words"],
    )


class _Counter:
    """Counts the bytes, characters and words of pieces; the latter two only while all is UTF-8."""

    def __init__(self) -> None:
        self.bytes = self.characters = self.words = 0
        self._is_text = True
        self._in_word = False

    def add(self, piece: Fragment) -> None:
        self.bytes += len(piece.data)
        try:
            text = piece.data.decode()
        except UnicodeDecodeError:
            self._is_text = False
        if self._is_text:
            self.characters += len(text)
            # A word may go on from the piece before where that was cut without a line end.
            goes_on = self._in_word and not piece.first and not text[0].isspace()
            self.words += len(text.split()) - goes_on
            self._in_word = not text[-1].isspace()

    def told(self) -> dict[str, int | None]:
        text = self._is_text
        return {
            "bytes": self.bytes,
            "characters": self.characters if text else None,
            "words": self.words if text else None,
        }
