"""What is ready to train on and to score: splits as token ids on the disk, how to write and to open them."""

from __future__ import annotations

import hashlib
import zlib
from array import array
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.data.config import CLOSED
from weft.data.documents import Fragment
from weft.data.forms import Form, FormWatch
from weft.data.repeats import Repeats
from weft.data.streamed import StreamedSplit
from weft.data.tokenizers import UNKNOWN_WORD, Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT_VERSION = 4


@dataclass(frozen=True)
class TokenizedSplit:
    """Documents as token ids, back to back, each a boundary token followed by its own.

    - ``tokens`` (uint16, or uint32 for more than 65,536 ids; memory-mapped) and ``offsets`` (n + 1):
      document i is ``tokens[offsets[i]:offsets[i + 1]]``.
    - ``bytes`` counts the documents without separators.
    - ``characters`` and ``words`` (parts between white space) are None where the text is not UTF-8. On
      corpora whose published numbers count line ends, and over closed words, ``words`` counts each line end
      as one more.
    - ``unknown_words`` were read as ``<unk>``; None where nothing can be unknown.
    - ``continues`` (n) tells which documents are pieces that begin amid a document, at a cut, and ``cut``
      (n) which do not end, as they go on in another piece or another split. None: none is.
    - ``repeated`` (as ``tokens``) tells which tokens are of lines that stand in the training text too, None
      where that is not known, and ``repeated_bytes`` is what they come to.
    - ``form`` is the form of the text, None where that is not known.
    """

    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    bytes: int
    characters: int | None
    words: int | None
    unknown_words: int | None = None
    continues: NDArray[np.bool_] | None = None
    cut: NDArray[np.bool_] | None = None
    repeated: NDArray[np.bool_] | None = None
    repeated_bytes: int = 0
    form: Form | None = None

    @property
    def documents(self) -> int:
        """The number of documents, pieces of a cut one counted each."""
        return len(self.offsets) - 1

    @cached_property
    def ends(self) -> NDArray[np.bool_]:
        """Which of the documents (n) end where the text ends, and not at a cut."""
        if self.cut is None:
            return np.ones(self.documents, dtype=np.bool_)
        return ~self.cut

    @property
    def begun_documents(self) -> int:
        """The number of documents, a cut one counted once; at least one."""
        if self.continues is None:
            return self.documents
        return max(1, int((~self.continues).sum()))

    @property
    def ending_documents(self) -> int:
        """The number of documents that end where the text ends."""
        return int(self.ends.sum())

    @property
    def scored_tokens(self) -> int:
        """The number of tokens that are text, boundaries not counted."""
        return len(self.tokens) - self.documents

    @cached_property
    def identity(self) -> str:
        """A string that is another for another text or tokenizer."""
        return f"{len(self.tokens)}-{self.documents}-{zlib.crc32(np.ascontiguousarray(self.tokens).data):08x}"

    def lanes_that_fit(self, sequence_length: int) -> int:
        """Return how many lanes of ``sequence_length`` tokens the split can fill; 0 if not one."""
        return len(self.tokens) // sequence_length

    def document(self, index: int) -> NDArray[Any]:
        """Return the tokens of one document, the boundary first."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class PreparedData:
    """A corpus that is ready to train on; ``summary`` is one line for people.

    ``settled`` are the fields of :class:`weft.data.DataConfig` that the text decided: with these instead of
    "auto" it is split the same way again. ``remarks`` are sentences on what about the text may make the
    figures misleading. ``key`` names the entry of the cache, and ``rule`` says in words how the text was cut
    into the three parts.
    """

    tokenizer: Tokenizer
    train: TokenizedSplit | StreamedSplit
    validation: TokenizedSplit
    test: TokenizedSplit
    summary: str
    settled: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    key: str = ""
    rule: str = ""

    def told(self) -> dict[str, Any]:
        """Return, as plain data, the rule, the remarks, and each part's documents, bytes and tokens.

        Those of a training text that streams are estimates, and say so.
        """
        told: dict[str, Any] = {"rule": self.rule, "remarks": list(self.remarks)}
        for name in ("train", "validation", "test"):
            split: TokenizedSplit | StreamedSplit = getattr(self, name)
            told[name] = {"documents": 0, "bytes": split.bytes, "tokens": split.scored_tokens}
            if isinstance(split, StreamedSplit):
                told[name]["documents"] = split.documents
                told[name]["estimated"] = True
            else:
                told[name]["documents"] = split.begun_documents
        return told


def write_split(
    folder: Path,
    name: str,
    fragments: Iterable[Fragment],
    tokenizer: Tokenizer,
    *,
    line_ends: bool = False,
    repeats: Repeats | None = None,
) -> dict[str, Any]:
    """Write the tokens and offsets of one split as they come; return what is to be told of it.

    ``line_ends`` counts each line end as a word; ``repeats`` marks the tokens of lines that stand in the
    training text.
    """
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    boundary = np.array([tokenizer.boundary_id], dtype).tobytes()  # written before each document
    unknown = tokenizer.unknown_id
    counter = _Counter(line_ends=line_ends or tokenizer.kind == CLOSED)
    watch = FormWatch()
    # One entry a document; arrays of bare numbers, as there may be millions of them.
    offsets = array("q")
    continues = array("B")
    cut = array("B")
    position = 0  # in tokens
    with ExitStack() as files:
        stream = files.enter_context((folder / f"{name}.tokens").open("wb"))
        marks = None
        if repeats:
            marks = files.enter_context((folder / f"{name}.repeated").open("wb"))
        for piece, ids in tokenizer.encode_stream(tokenizer.cut(watch.passing(fragments))):
            if piece.first:
                offsets.append(position)
                continues.append(piece.continues)
                cut.append(False)
                position += 1
                stream.write(boundary)
            stream.write(ids.astype(dtype).tobytes())
            position += len(ids)
            cut[-1] |= piece.cut  # only the last piece of a document says so
            counter.add(piece, 0 if unknown is None else int((ids == unknown).sum()))
            if repeats and marks:
                if piece.first:
                    marks.write(b"\0")  # the boundary is no text
                marks.write(repeats.mark(piece, ids).tobytes())
    offsets.append(position)
    (folder / f"{name}.offsets").write_bytes(np.array(offsets, dtype=np.int64).tobytes())
    (folder / f"{name}.continues").write_bytes(continues.tobytes())
    (folder / f"{name}.cut").write_bytes(cut.tobytes())
    form = watch.form()
    return {
        "dtype": np.dtype(dtype).name,
        "documents": len(offsets) - 1,  # pieces of a cut one counted each
        "whole_documents": len(continues) - sum(continues),  # a cut one counted once
        "tokens": position,  # boundaries among them
        "form": None if form is None else form.to_json(),
        **counter.told(),
        "unknown": None if unknown is None else counter.unknown,
        "repeated_lines": repeats.lines if repeats else 0,
        "repeated_bytes": repeats.bytes if repeats else 0,
    }


def open_split(folder: Path, name: str, told: dict[str, Any]) -> TokenizedSplit:
    """Return a split that :func:`write_split` wrote and told of; its tokens stay on the disk."""
    marks = folder / f"{name}.repeated"
    repeated = None
    if marks.exists():
        repeated = np.fromfile(marks, dtype=np.bool_)
    return TokenizedSplit(
        tokens=np.memmap(folder / f"{name}.tokens", dtype=told["dtype"], mode="r"),
        offsets=np.fromfile(folder / f"{name}.offsets", dtype=np.int64),
        bytes=told["bytes"],
        characters=told["characters"],
        words=told["words"],
        unknown_words=told.get("unknown"),
        continues=np.fromfile(folder / f"{name}.continues", dtype=np.bool_),
        cut=np.fromfile(folder / f"{name}.cut", dtype=np.bool_),
        repeated=repeated,
        repeated_bytes=told["repeated_bytes"],
        form=Form.from_json(told.get("form")),
    )


class _Counter:
    """Counts the bytes, characters and words of pieces; the latter two only while all is UTF-8."""

    def __init__(self, *, line_ends: bool = False) -> None:
        self.bytes = self.characters = self.words = self.unknown = 0
        self._line_ends = line_ends
        self._is_text = True
        self._in_word = False

    def add(self, piece: Fragment, unknown: int) -> None:
        """Count a piece in which ``unknown`` words are ``<unk>``, with those that the text itself writes so."""
        self.bytes += len(piece.data)
        try:
            text = piece.data.decode()
        except UnicodeDecodeError:
            self._is_text = False
        if not self._is_text:
            return
        self.characters += len(text)
        words = text.split()
        self.words += len(words)
        # A word may go on from the piece before where that was cut without a line end.
        if self._in_word and not piece.first and not text[0].isspace():
            self.words -= 1
        self._in_word = not text[-1].isspace()
        if self._line_ends:
            self.words += text.count("\n")
        if unknown:  # else there is no <unk> to look for
            self.unknown += unknown - words.count(UNKNOWN_WORD)

    def told(self) -> dict[str, int | None]:
        if not self._is_text:
            return {"bytes": self.bytes, "characters": None, "words": None}
        return {"bytes": self.bytes, "characters": self.characters, "words": self.words}


def form_remarks(train: TokenizedSplit | StreamedSplit, validation: TokenizedSplit, test: TokenizedSplit) -> list[str]:
    """Say where the form of a corpus differs: within the training text, and between that and the other parts."""
    if train.form is None:
        return []
    told = train.form.remarks()
    for name, part in (("validation text", validation), ("test text", test)):
        if part.form:
            told += part.form.unlike(train.form, name)
    return told


def cache_settings(values: dict[str, Any], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return what the cache entry depends on besides the files."""
    settings = {**values, "format": FORMAT_VERSION}
    # Two tokenizers of one kind and size may have learned other pieces: the hash tells them apart.
    if tokenizer:
        settings.update(tokenizer=tokenizer.kind, vocab_size=tokenizer.vocab_size)
        settings["tokenizer_hash"] = hashlib.blake2b(tokenizer.to_json().encode()).hexdigest()
    return settings


def summarize(splits: list[dict[str, Any]], tokenizer: Tokenizer, rule: str) -> str:
    """Return one line for people on splits that :func:`write_split` wrote."""
    documents = 0
    size = 0
    tokens = 0
    unknown = 0
    for split in splits:
        documents += split["whole_documents"]
        size += split["bytes"]
        # Boundaries, one for each document or piece, are no text.
        tokens += split["tokens"] - split["documents"]
        unknown += split.get("unknown") or 0
    if unknown:
        rule = f"{rule}; {unknown:,} words outside the vocabulary are read as {UNKNOWN_WORD}"
    plural = "" if documents == 1 else "s"
    return (
        f"{documents:,} document{plural}, {size:,} bytes, {tokens:,} tokens ({size / tokens:.2f} bytes per token, "
        f"{tokenizer.kind}, vocabulary {tokenizer.vocab_size:,}), {rule}"
    )
