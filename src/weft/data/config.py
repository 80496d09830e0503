"""What text to read, how to split it, and how to cut it into tokens: the description, as data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from weft.config import FrozenConfig

TokenizerKind = Literal["bytes", "characters", "words", "bpe", "unigram"]
SplitName = Literal["train", "validation", "test"]
SplitRule = Literal["documents", "lines", "bytes"]

DEFAULT_SEPARATOR = "\n\n\n"


class DataConfig(FrozenConfig):
    """Where the text is and what becomes of it, before any model is thought of.

    ``sources``, ``validation`` and ``test`` are files, folders or globs. Given ``validation`` or ``test``
    files replace that split, and whatever the split rule would have held out for it is trained on.
    ``document_separator`` parts the documents of a text file ("" makes each file one document);
    ``text_key`` names the text in a JSONL record; ``vocab_size`` includes the two special tokens.
    """

    sources: tuple[str, ...] = ()
    text_key: str = "text"
    document_separator: str = DEFAULT_SEPARATOR
    split: Literal["auto", "documents", "lines", "bytes"] = "auto"
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    tokenizer: Literal["auto", "bytes", "characters", "words", "bpe", "unigram"] = "auto"
    vocab_size: int | None = None

    @field_validator("sources", "validation", "test", mode="before")
    @classmethod
    def _one_is_a_tuple(cls, value: Any) -> Any:
        """Let a recipe say ``sources: corpus.txt`` where there is only one."""
        return (value,) if isinstance(value, str) else value

    @property
    def tokenizer_kind(self) -> TokenizerKind:
        """The kind of tokenizer to train; ``auto`` is ``bpe``."""
        return "bpe" if self.tokenizer == "auto" else self.tokenizer
