"""What text to read, how to split it, and how to cut it into tokens: the description, as data."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from weft.data.published import PUBLISHED, PublishedCorpus
from weft.data.unify import Unify
from weft.numbers import Vocabulary
from weft.settings import FrozenConfig

TokenizerKind = Literal["bytes", "characters", "words", "bpe", "unigram", "closed-words"]
CLOSED: Final = "closed-words"
SplitName = Literal["train", "validation", "test"]
SplitRule = Literal["documents", "numbered", "blocks", "tail", "bytes"]

DEFAULT_SEPARATOR = "\n\n\n"
# By number from 200 documents on, else the tail: where no recipe says which.
AUTO_OF_0_1_0: Final = "auto-0.1.0"
LINE_SEPARATOR = "\n"  # each line is a document
LONGEST_DOCUMENT = 1024  # bytes, some hundred tokens: docs/research/beginnings.md
HUB = "hf:"  # begins the name of a dataset that streams
BUNDLED = "weft:"  # begins the name of a corpus that comes with the package


class DataConfig(FrozenConfig):
    """Where the text is and what becomes of it, before any model is thought of.

    - ``sources``, ``validation``, ``test``: files, folders or globs. Given ``validation`` or ``test`` files
      replace that split, and whatever the split rule would have held out for it is trained on.
    - ``document_separator`` parts the documents of a text file; with "" each file is one document.
    - ``text_key`` names the text in a JSONL record, or the column of a table.
    - ``normalize`` and ``line_ends`` write every text that is read in one way (:mod:`weft.data.unify`): what
      is scored, and every byte that is counted, is then of that form.
    - ``verbatim`` reads every file but ``.jsonl`` as plain text, byte-order marks included, as runs of
      earlier versions did.
    - ``split`` is one of the rules of :class:`weft.data.splits.Corpus`; "auto" is what suits the text, and a
      run's recipe then says which that was.
    - ``longest_document``: training documents of more bytes are cut into pieces of about that size at line
      ends, each of which begins with the boundary token, so that the model learns how a text begins; 0 cuts
      nothing. None is :data:`LONGEST_DOCUMENT`, or 0 for a published corpus, whose published numbers are of
      uncut text.
    - ``tokenizer`` is a kind of tokenizer; "auto" is that of a published corpus, else "bpe".
    - ``vocab_size`` includes the two special tokens.

    Two kinds of source stand alone: the name of a published corpus (:data:`weft.data.published.PUBLISHED`;
    ``path`` is where its file, archive or folder is, for those who have it), and ``hf:...``, a dataset that
    streams (:mod:`weft.data.hub`).
    """

    sources: tuple[str, ...] = ()
    path: str | None = None
    text_key: str = "text"
    document_separator: str = DEFAULT_SEPARATOR
    normalize: Literal["nfc"] | None = None
    line_ends: Literal["lf"] | None = None
    verbatim: bool = False
    split: Literal["auto", "documents", "numbered", "blocks", "tail", "bytes", "auto-0.1.0"] = "auto"
    longest_document: int | None = Field(default=None, ge=0, le=10**12)
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    tokenizer: Literal["auto", "bytes", "characters", "words", "bpe", "unigram", "closed-words"] = "auto"
    vocab_size: Vocabulary | None = None

    @field_validator("sources", "validation", "test", mode="before")
    @classmethod
    def _one_is_a_tuple(cls, value: Any) -> Any:
        """Let a recipe say ``sources: corpus.txt`` where there is only one; ``texts/`` is ``texts``."""
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, tuple | list):
            return value  # pydantic says what is wrong with it
        names: list[Any] = []
        for name in value:
            if isinstance(name, str):
                name = name.rstrip("/") or name  # "/" itself stays
            names.append(name)
        return tuple(names)

    @field_validator("split", mode="before")
    @classmethod
    def _older_name(cls, value: Any) -> Any:
        """Read ``lines``, as ``tail`` was once called."""
        if value == "lines":
            return "tail"
        return value

    @property
    def tokenizer_kind(self) -> TokenizerKind:
        """The kind of tokenizer to train; ``auto`` is that of a published corpus, else ``bpe``."""
        if self.tokenizer != "auto":
            return self.tokenizer
        if self.published:
            return self.published.tokenizer
        return "bpe"

    @property
    def unify(self) -> Unify:
        """What is made one in the text as it is read."""
        return Unify(self.normalize, self.line_ends, self.verbatim)

    @property
    def published(self) -> PublishedCorpus | None:
        """The published corpus that the only source names, if it names one."""
        if len(self.sources) != 1:
            return None
        return PUBLISHED.get(self.sources[0])

    @property
    def bundled(self) -> bool:
        """Whether the only source is a corpus that comes with the package, which has a split of its own."""
        return len(self.sources) == 1 and self.sources[0].startswith(BUNDLED)

    @property
    def cut_above(self) -> int:
        """The bytes from which on a training document is cut; 0 where none is."""
        if self.longest_document is not None:
            return self.longest_document
        if self.published:  # its published figures are of uncut text
            return 0
        return LONGEST_DOCUMENT

    @property
    def streamed(self) -> bool:
        """Whether the training text streams from a Hugging Face dataset."""
        return any(source.startswith(HUB) for source in self.sources)

    @model_validator(mode="after")
    def _check(self) -> Self:
        known = ", ".join(PUBLISHED)
        if self.path and not self.published:
            raise ValueError(f"path goes with a published corpus as the only source: {known}")
        if self.streamed and len(self.sources) > 1:
            raise ValueError(f"a source '{HUB}...' stands alone: leave the others out")
        if self.published:
            self._check_published(self.published)
        return self

    def _check_published(self, corpus: PublishedCorpus) -> None:
        alone = f"to treat the file in your own way, give its path as the source instead of '{corpus.name}'"
        if self.normalize or self.line_ends:
            raise ValueError(f"{corpus.name} is scored as published: leave out normalize and line_ends, or {alone}")
        if self.validation or self.test:
            raise ValueError(f"{corpus.name} has published validation and test parts: leave yours out, or {alone}")
        published_splits = ["auto"]
        if corpus.cuts:  # at bytes, which "bytes" may as well say
            published_splits.append("bytes")
        if self.split not in published_splits:
            raise ValueError(f"{corpus.name} is split as published, not by {self.split}: leave split out, or {alone}")
        if corpus.cuts and self.tokenizer_kind != corpus.tokenizer:
            raise ValueError(
                f"{corpus.name} is published over {corpus.tokenizer}, not {self.tokenizer}: leave the tokenizer out, "
                f"or {alone}"
            )
