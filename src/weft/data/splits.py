"""Training, validation and test: which bytes of the sources belong to which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import chain

from weft.data.config import DataConfig, SplitName, SplitRule
from weft.data.documents import Fragment, Layout, join_fragments, read_fragments, whole_document
from weft.data.published_corpus import PublishedText
from weft.data.sources import SourceFile, checked, read_blocks, resolve_sources
from weft.errors import UserError

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
DOCUMENTS_FOR_SPLIT = 200
FOLD, VALIDATION_FOLD, TEST_FOLD = 20, 7, 13
CUTS_PERCENT = (90, 95)


class Corpus:
    """The documents of a configuration, by split; every reading streams from the files.

    The files are found at once. They are read through and checked (UserError for what is wrong with them)
    when the first document is asked for. ``any_bytes`` says that the tokenizer takes any bytes, so that text
    need not be UTF-8.

    The rules, for what is not given in files of its own:

    - ``documents``: document i, from 0 over all sources in order, is validation where i mod 20 is 7, test
      where it is 13, else training. The rule of ``auto`` from 200 documents on.
    - ``lines``: of each file of n (decompressed) bytes, [0, 90%) is training, [90%, 95%) validation and the
      rest test; p% is at floor(n * p / 100), moved forward to the next line end unless it is at one.
    - ``bytes``: the same without moving, and each part is one document, separators and all. Unless
      ``any_bytes``, a cut inside a UTF-8 character is moved forward to the end of that character.

    A JSONL record is never cut: ``bytes`` is ``lines`` for such files.
    """

    def __init__(self, config: DataConfig, *, any_bytes: bool) -> None:
        self.any_bytes = any_bytes
        self.layout = Layout(config.document_separator, config.text_key)
        self.given: dict[SplitName, tuple[SourceFile, ...]] = {}
        if config.validation:
            self.given["validation"] = resolve_sources(config.validation)
        if config.test:
            self.given["test"] = resolve_sources(config.test)
        held_out = {file.path.resolve() for files in self.given.values() for file in files}
        self.sources = tuple(f for f in resolve_sources(config.sources) if f.path.resolve() not in held_out)
        self._asked = config.split
        if not self.sources:
            raise UserError("All of the sources are validation or test files: give other files to train on.")

    @cached_property
    def rule(self) -> SplitRule:
        """The split rule that holds, after ``auto``; reading it checks every file."""
        documents = sum(self._check(file) for file in self.sources)
        for file in chain(*self.given.values()):
            self._check(file)
        if self._asked != "auto":
            return self._asked
        return "documents" if documents >= DOCUMENTS_FOR_SPLIT else "lines"

    def groups(self) -> dict[str, tuple[SourceFile, ...]]:
        """Return all files, by what they are for."""
        return {"sources": self.sources, **{str(name): files for name, files in self.given.items()}}

    def describe_rule(self) -> str:
        """Say in a few words how the text is split."""
        if len(self.given) == 2:
            return "validation and test given"
        names = "".join(f", {name} given" for name in self.given)
        return f"split by {self.rule}{names}"

    def fragments(self, split: SplitName) -> Iterator[Fragment]:
        """Yield the documents of one split, in fragments; UserError where there are none."""
        rule, empty = self.rule, True
        for fragment in self._given(split) if split in self.given else self._ruled(split, rule):
            empty = False
            yield fragment
        if empty:
            raise UserError(
                f"The text is too short to have a {split} part when split by {rule}: give more text, "
                "or files of their own with --validation and --test."
            )

    def require_all_splits(self) -> None:
        """Raise UserError unless every split has a document."""
        for split in SPLITS:
            next(self.fragments(split))

    def _check(self, file: SourceFile) -> int:
        """Read a file through; return the number of its documents."""
        blocks = checked(file, read_blocks(file), any_bytes=self.any_bytes)
        count = sum(fragment.first for fragment in read_fragments(file, blocks, self.layout))
        if not count:
            raise UserError(f"'{file.path}' has no document that is not empty: give a file with text.")
        return count

    def _given(self, split: SplitName) -> Iterator[Fragment]:
        for file in self.given[split]:
            yield from self._read(file, read_blocks(file))

    def _read(self, file: SourceFile, blocks: Iterator[bytes]) -> Iterator[Fragment]:
        """Yield the documents in (a part of) a file under the rule that holds."""
        if self.rule == "bytes" and not file.is_jsonl:
            return whole_document(blocks)
        return read_fragments(file, blocks, self.layout)

    def _ruled(self, split: SplitName, rule: SplitRule) -> Iterator[Fragment]:
        if rule == "documents":
            yield from self._numbered(split)
            return
        for file in self.sources:
            for start, stop in self._ranges(file, split, rule):
                yield from self._read(file, read_blocks(file, start, stop))

    def _numbered(self, split: SplitName) -> Iterator[Fragment]:
        index = -1
        for file in self.sources:
            for fragment in read_fragments(file, read_blocks(file), self.layout):
                index += fragment.first
                if self._owner(_split_of_document(index)) == split:
                    yield fragment

    def _owner(self, natural: SplitName) -> SplitName:
        """Return the split that gets what the rule says is ``natural``."""
        return "train" if natural in self.given else natural

    def _ranges(self, file: SourceFile, split: SplitName, rule: SplitRule) -> list[tuple[int, int]]:
        """Return the byte ranges of ``file`` in ``split``, neighbours made one."""
        borders = self._borders(file, rule)
        ranges: list[tuple[int, int]] = []
        for natural, start, stop in zip(SPLITS, borders, borders[1:], strict=False):
            if self._owner(natural) != split or start == stop:
                continue
            if ranges and ranges[-1][1] == start:
                start = ranges.pop()[0]
            ranges.append((start, stop))
        return ranges

    def _borders(self, file: SourceFile, rule: SplitRule) -> tuple[int, ...]:
        size = self._size(file)
        cuts = [size * percent // 100 for percent in CUTS_PERCENT]
        if rule == "lines" or file.is_jsonl:
            cuts = [_line_end(file, cut, size) for cut in cuts]
        elif not self.any_bytes:
            cuts = [_character_start(file, cut) for cut in cuts]
        return (0, *cuts, size)

    def _size(self, file: SourceFile) -> int:
        return sum(len(block) for block in read_blocks(file)) if file.compression else file.path.stat().st_size


def open_corpus(
    config: DataConfig, *, any_bytes: bool, progress: Callable[[str], None] = lambda _: None
) -> Corpus | PublishedText:
    """Return what reads the text of ``config``: its files, or a published corpus (fetched when it is read)."""
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


def _split_of_document(index: int) -> SplitName:
    fold = index % FOLD
    return "validation" if fold == VALIDATION_FOLD else "test" if fold == TEST_FOLD else "train"


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
    following = b"".join(read_blocks(file, position, position + 4))
    return position + next((i for i, byte in enumerate(following) if byte & 0xC0 != 0x80), len(following))
