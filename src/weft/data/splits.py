"""Training, validation and test: which bytes of the sources belong to which."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import chain, pairwise
from typing import Any, NamedTuple

from weft.data.blocks import block_borders, read_ranges
from weft.data.config import AUTO_OF_0_1_0, DEFAULT_SEPARATOR, LINE_SEPARATOR, DataConfig, SplitName, SplitRule
from weft.data.documents import (
    Fragment,
    Layout,
    from_the_middle,
    join_fragments,
    read_fragments,
    whole_document,
)
from weft.data.formats import why_uncut
from weft.data.published_corpus import PublishedText
from weft.data.sentences import Shape, shape_of
from weft.data.sources import SourceFile, resolve_sources
from weft.data.text_blocks import checked, read_blocks, text_size
from weft.errors import UserError

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
DOCUMENTS_FOR_SPLIT = 200
FOLD = 20  # of this many documents or blocks, one is for validation and one for test: 90 %, 5 %, 5 %
VALIDATION_FOLD = 7
TEST_FOLD = 13
CUTS_PERCENT = (90, 95)
_RULES: dict[SplitRule, str] = {
    "documents": "documents (by a hash of what they say)",
    "numbered": "documents (by their number)",
    "blocks": "blocks (spread over each file)",
    "tail": "tail (each file's end is held out)",
    "bytes": "bytes (each file's end is held out)",
}


class Corpus:
    """The documents of a configuration, by split; every reading streams from the files.

    The files are found at once. They are read through and checked (UserError for what is wrong with them)
    when the first document is asked for. ``any_bytes`` says that the tokenizer takes any bytes, so that text
    need not be UTF-8.

    The rules, for what is not given in files of its own, where fold i is validation if i mod 20 is 7, test
    if it is 13, and else training:

    - ``documents``: a document's fold is a hash of its content, so that equal ones fall on one side and a
      new file moves no other document. The rule of ``auto`` from 200 documents on, and where all files are
      lists of sentences (:mod:`weft.data.sentences`), whose lines are then the documents.
    - ``blocks``: each file is cut into a hundred blocks of lines (:mod:`weft.data.blocks`), a block's fold
      is its number. The rule of ``auto`` for everything else.
    - ``numbered``: a document's fold is its number, from 0 over all sources in order. The split of the
      bundled corpus.
    - ``tail``: of each file of n (decompressed) bytes, [0, 90%) is training, [90%, 95%) validation and the
      rest test; p% is at floor(n * p / 100), moved forward to the next line end unless it is at one. Right
      for text in order of time.
    - ``bytes``: the same without moving, and each part is one document, separators and all. Unless
      ``any_bytes``, a cut inside a UTF-8 character is moved forward to the end of that character.

    A JSONL record is never cut: ``bytes`` is ``tail`` for such files.
    """

    def __init__(self, config: DataConfig, *, any_bytes: bool) -> None:
        self.any_bytes = any_bytes
        self.given: dict[SplitName, tuple[SourceFile, ...]] = {}
        if config.validation:
            self.given["validation"] = resolve_sources(config.validation, config.unify)
        if config.test:
            self.given["test"] = resolve_sources(config.test, config.unify)
        # A folder may hold its own validation or test file: what is scored is not trained on.
        held_out = {file.path.resolve() for file in chain(*self.given.values())}
        sources: list[SourceFile] = []
        for file in resolve_sources(config.sources, config.unify):
            if file.path.resolve() not in held_out:
                sources.append(file)
        self.sources = tuple(sources)
        self._config = config
        self._borders_of: dict[tuple[SourceFile, SplitRule], tuple[int, ...]] = {}
        if not self.sources:
            raise UserError("All of the sources are validation or test files: give other files to train on.")

    @cached_property
    def _plan(self) -> _Plan:
        """Read and check every file, and settle where the documents are and how they are split."""
        config = self._config
        layout = Layout(config.document_separator, config.text_key)
        folds = {file: self._check(file, layout) for file in self.sources}
        for file in chain(*self.given.values()):
            self._check(file, layout)
        many = sum(map(len, folds.values())) >= DOCUMENTS_FOR_SPLIT  # folds have a byte for each document
        if config.split == AUTO_OF_0_1_0:
            return _Plan("numbered" if many else "tail", layout, folds)
        if config.split != "auto":
            return _Plan(config.split, layout, folds)
        if config.bundled:
            return _Plan("numbered", layout, folds)
        if many:
            return _Plan("documents", layout, folds)
        if shape := self._list_of_sentences():
            # Its lines are the documents, so the folds above, which are of the whole file, no longer hold.
            layout = Layout(LINE_SEPARATOR, config.text_key)
            folds = {file: _folds(file, read_blocks(file), layout) for file in self.sources}
            return _Plan("documents", layout, folds, shape)
        return _Plan("blocks", layout, folds)

    @property
    def rule(self) -> SplitRule:
        """The split rule that holds, after ``auto``; reading it checks every file."""
        return self._plan.rule

    @property
    def layout(self) -> Layout:
        """Where the documents are."""
        return self._plan.layout

    def settled(self) -> dict[str, Any]:
        """Return the fields of the configuration that ``auto`` has settled."""
        return {"split": self.rule, "document_separator": self.layout.document_separator}

    def groups(self) -> dict[str, tuple[SourceFile, ...]]:
        """Return all files, by what they are for."""
        groups = {"sources": self.sources}
        for name, files in self.given.items():
            groups[name] = files
        return groups

    def describe_rule(self) -> str:
        """Say in a few words how the text is split."""
        lines = ""
        if self._plan.shape:
            lines = f"a list of sentences: {self._plan.shape.describe()}; "
        elif self.layout.document_separator == LINE_SEPARATOR:
            lines = "each line is a document; "
        if len(self.given) == 2:
            return f"{lines}validation and test given"
        rule = f"{lines}split by {_RULES[self.rule]}"
        for name in self.given:
            rule += f", {name} given"
        return rule

    def fragments(self, split: SplitName) -> Iterator[Fragment]:
        """Yield the documents of one split, in fragments; UserError where there are none."""
        rule = self.rule
        found = self._given(split) if split in self.given else self._ruled(split, rule)
        empty = True
        for fragment in found:
            empty = False
            yield fragment
        if not empty:
            return
        if uncut := self._uncut():
            raise UserError(uncut)
        alike = ", or all its documents are equal," if rule == "documents" else ""
        raise UserError(
            f"The text is too short{alike} to have a {split} part when split by {rule}: give more text, "
            "or files of their own with data.validation and data.test."
        )

    def _uncut(self) -> str:
        """Say which file has no lines to be cut at; "" where all have, or need none."""
        if self.rule == "bytes":
            return ""
        for file in self.sources:
            if file.is_jsonl:
                continue
            beginning = next(read_blocks(file), b"")
            if why := why_uncut(str(file.path), beginning):
                return why
        return ""

    def require_all_splits(self) -> None:
        """Raise UserError unless every split has a document."""
        for split in SPLITS:
            next(self.fragments(split))

    def _check(self, file: SourceFile, layout: Layout) -> bytes:
        """Read a file through; return the folds of its documents, a byte each."""
        folds = _folds(file, checked(file, read_blocks(file), any_bytes=self.any_bytes), layout)
        if not folds:
            raise UserError(f"'{file.path}' has no document that is not empty: give a file with text.")
        return folds

    def _list_of_sentences(self) -> Shape | None:
        """Return the shape of a file where all are lists of sentences, and nobody said what parts documents."""
        if self._config.document_separator != DEFAULT_SEPARATOR or any(file.is_jsonl for file in self.sources):
            return None
        shapes: list[Shape] = []
        for file in self.sources:
            shape = shape_of(read_blocks(file))
            if not shape.is_list:
                return None
            shapes.append(shape)
        return shapes[0]

    def _given(self, split: SplitName) -> Iterator[Fragment]:
        for file in self.given[split]:
            yield from self._read(file, read_blocks(file))

    def _read(self, file: SourceFile, blocks: Iterator[bytes]) -> Iterator[Fragment]:
        """Yield the documents in (a part of) a file under the rule that holds."""
        if self.rule == "bytes" and not file.is_jsonl:
            return whole_document(blocks)
        return read_fragments(file, blocks, self.layout)

    def _ruled(self, split: SplitName, rule: SplitRule) -> Iterator[Fragment]:
        if rule in ("documents", "numbered"):
            yield from self._dealt(split, rule)
            return
        for file in self.sources:
            size = self._borders(file, rule)[-1]
            ranges = self._ranges(file, split, rule)
            for (start, stop), blocks in zip(ranges, read_ranges(file, ranges), strict=True):
                fragments = self._read(file, blocks)
                if file.is_jsonl:  # which is cut between records
                    yield from fragments
                else:
                    yield from from_the_middle(fragments, begins=start == 0, ends=stop == size)

    def _dealt(self, split: SplitName, rule: SplitRule) -> Iterator[Fragment]:
        """Yield the documents that are dealt to ``split``, each whole."""
        number = -1  # of the document over all sources
        for file in self.sources:
            folds = self._plan.folds[file]
            place = -1  # of the document in this file
            for fragment in read_fragments(file, read_blocks(file), self.layout):
                number += fragment.first
                place += fragment.first
                fold = folds[place] if rule == "documents" else number % FOLD
                if self._owner(_split_of_fold(fold)) == split:
                    yield fragment

    def _owner(self, natural: SplitName) -> SplitName:
        """Return the split that gets what the rule says is ``natural``."""
        return "train" if natural in self.given else natural

    def _ranges(self, file: SourceFile, split: SplitName, rule: SplitRule) -> list[tuple[int, int]]:
        """Return the byte ranges of ``file`` in ``split``, neighbours made one."""
        borders = self._borders(file, rule)
        ranges: list[tuple[int, int]] = []
        for index, (start, stop) in enumerate(pairwise(borders)):
            natural = _split_of_fold(index % FOLD) if rule == "blocks" else SPLITS[index]
            if self._owner(natural) != split or start == stop:
                continue
            # Blocks side by side are read as one text, so that no document is cut between them.
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, stop))
        return ranges

    def _borders(self, file: SourceFile, rule: SplitRule) -> tuple[int, ...]:
        """Return where the parts of a file begin, and its size."""
        if (file, rule) not in self._borders_of:
            self._borders_of[file, rule] = self._find_borders(file, rule)
        return self._borders_of[file, rule]

    def _find_borders(self, file: SourceFile, rule: SplitRule) -> tuple[int, ...]:
        size = text_size(file)
        if rule == "blocks":
            return block_borders(file, size)
        borders = [0]
        for percent in CUTS_PERCENT:
            cut = size * percent // 100
            if rule == "tail" or file.is_jsonl:
                cut = _line_end(file, cut, size)
            elif not self.any_bytes:
                cut = _character_start(file, cut)
            borders.append(cut)
        return (*borders, size)


class _Plan(NamedTuple):
    """What ``auto`` has come to; ``folds`` has a byte for each document of a file."""

    rule: SplitRule
    layout: Layout
    folds: dict[SourceFile, bytes]
    shape: Shape | None = None  # of a list of sentences


def _folds(file: SourceFile, blocks: Iterable[bytes], layout: Layout) -> bytes:
    """Return the fold of each document, by a hash of its content."""
    folds = array("B")
    digest = None
    for fragment in read_fragments(file, blocks, layout):
        if fragment.first:
            if digest is not None:
                folds.append(int.from_bytes(digest.digest()) % FOLD)
            digest = hashlib.blake2b(digest_size=8)
        assert digest is not None
        digest.update(fragment.data)
    if digest is not None:
        folds.append(int.from_bytes(digest.digest()) % FOLD)
    return folds.tobytes()


def open_corpus(
    config: DataConfig, *, any_bytes: bool, progress: Callable[[str], None] = lambda _: None
) -> Corpus | PublishedText:
    """Return what reads the text of ``config``: its files, or a published corpus, fetched when it is read."""
    if config.published:
        return PublishedText(config, any_bytes=any_bytes, progress=progress)
    return Corpus(config, any_bytes=any_bytes)


def iter_documents(config: DataConfig, split: SplitName) -> Iterator[bytes]:
    """Yield the documents of one split as bytes, streaming from the files; see :class:`Corpus` for the rules.

    Separators belong to no document. Raises UserError for files that are missing, damaged or no text, and
    where the split is empty.
    """
    corpus = open_corpus(config, any_bytes=config.tokenizer_kind == "bytes")
    return join_fragments(corpus.fragments(split))


def iter_files(files: Iterable[SourceFile], layout: Layout, *, any_bytes: bool) -> Iterator[Fragment]:
    """Yield all documents of ``files`` in fragments, checking each file as it goes by."""
    for file in files:
        blocks = checked(file, read_blocks(file), any_bytes=any_bytes)
        yield from read_fragments(file, blocks, layout)


def _split_of_fold(fold: int) -> SplitName:
    if fold == VALIDATION_FOLD:
        return "validation"
    return "test" if fold == TEST_FOLD else "train"


def _line_end(file: SourceFile, position: int, size: int) -> int:
    """Return ``position`` moved forward to just after a newline, or to the end of the file."""
    at = max(position - 1, 0)
    for block in read_blocks(file, at):
        newline = block.find(b"\n")
        if newline >= 0:
            return at + newline + 1
        at += len(block)
    return size


def _character_start(file: SourceFile, position: int) -> int:
    """Return ``position`` moved forward to where a UTF-8 character begins."""
    following = b"".join(read_blocks(file, position, position + 4))  # no character has more than four bytes
    for offset, byte in enumerate(following):
        if byte & 0xC0 != 0x80:  # 10xxxxxx goes on with a character, all else begins one
            return position + offset
    return position + len(following)
