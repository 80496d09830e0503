"""Reading a published corpus from its file, archive or folder, or fetched; checked, and cut as published."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from weft.data.cache import downloads_dir
from weft.data.config import DataConfig, SplitName
from weft.data.documents import Fragment, whole_document
from weft.data.download import Progress, check_file, download
from weft.data.published import PublishedCorpus, PublishedFile
from weft.data.sources import SourceFile, require_file
from weft.data.text_blocks import checked, read_blocks
from weft.errors import UserError

_ORDER: dict[SplitName, int] = {"train": 0, "validation": 1, "test": 2}


class PublishedText:
    """The splits of a published corpus, each one document; it is read as :class:`weft.data.splits.Corpus` is.

    The files are those at ``config.path``, else of the corpus's name in the present folder, else downloaded.
    They are checked when :meth:`require_all_splits` is called, for size, checksum and number of words as far
    as those are known.
    """

    def __init__(self, config: DataConfig, *, any_bytes: bool, progress: Progress) -> None:
        assert config.published is not None
        self.corpus: PublishedCorpus = config.published
        self.any_bytes = any_bytes
        self._path = config.path
        self._tell = progress
        if self.corpus.cuts and not any_bytes:
            raise UserError(
                f"{self.corpus.name} is published over bytes, and this tokenizer is of another kind: give the path of "
                "the file as the source to read it in your own way."
            )

    @property
    def counts_line_ends(self) -> bool:
        """Whether a line end counts as a word, as in published perplexities per word."""
        return self.corpus.tokenizer == "closed-words"

    @cached_property
    def files(self) -> list[SourceFile]:
        """The corpus's files, in the order of the table; downloaded where they are not there."""
        if self._path:
            return find_files(self.corpus, Path(self._path).expanduser())
        if here := self._here():
            return here
        # What was downloaded before is taken as it is; else it is checked as it comes.
        archive = download(
            self.corpus.urls,
            downloads_dir() / self.corpus.name / self.corpus.archive,
            checksum=self.corpus.archive_checksum,
            progress=self._tell,
            verify=self._verify_archive,
        )
        return find_files(self.corpus, archive)

    def _here(self) -> list[SourceFile]:
        """Return the files where something of the corpus's name in the present folder has them; else none."""
        path = Path(self.corpus.name)
        if not path.exists():
            return []
        try:
            found = find_files(self.corpus, path)
        except UserError:  # a run of that name, say
            return []
        self._tell(f"Taking {self.corpus.name} from '{path.resolve()}'.")
        return found

    def _verify_archive(self, path: Path) -> None:
        """Raise UserError unless the archive holds the published files, as far as these are known."""
        if self.corpus.archive_checksum:
            return  # which says it all
        if not zipfile.is_zipfile(path):
            raise UserError("what came is no archive")
        for expected, file in zip(self.corpus.files, find_files(self.corpus, path), strict=True):
            check_published(self.corpus, expected, file, any_bytes=self.any_bytes)

    def groups(self) -> dict[str, tuple[SourceFile, ...]]:
        """Return the files whose contents the cache depends on."""
        # The members of one archive are one file on the disk.
        distinct = {file.path: file for file in self.files}
        return {self.corpus.name: tuple(distinct.values())}

    def describe_rule(self) -> str:
        """Say in a few words how the text is split and how sure it is that it is the text."""
        rule = "split as published"
        unverified = [file.name for file in self.corpus.files if not file.checksum]
        if unverified and not self._is_published_archive:
            names = ", ".join(unverified)
            rule += f"; unverified but for the number of words (no checksum is known): {names}"
        return rule

    @cached_property
    def _is_published_archive(self) -> bool:
        """Whether the files are in an archive with the published checksum, which holds for each of them."""
        checksum = self.corpus.archive_checksum
        archives = {file.path for file in self.files if file.member}
        if checksum is None or len(archives) != 1:
            return False
        return check_file(archives.pop(), checksum) is None

    def require_all_splits(self) -> None:
        """Check every file; UserError names what was expected and what was found."""
        self._tell(f"Checking {self.corpus.name}.")
        for expected, file in zip(self.corpus.files, self.files, strict=True):
            check_published(self.corpus, expected, file, any_bytes=self.any_bytes)

    def fragments(self, split: SplitName) -> Iterator[Fragment]:
        """Yield one split, which is one document, in fragments."""
        if self.corpus.cuts is None:
            return whole_document(read_blocks(self.files[_ORDER[split]]))
        starts = (0, *self.corpus.cuts)
        stops = (*self.corpus.cuts, None)  # the last part goes to the end of the file
        part = _ORDER[split]
        return whole_document(read_blocks(self.files[0], starts[part], stops[part]))

    def require_words(self, split: SplitName, words: int | None) -> None:
        """Raise UserError where a split has not the published number of words, line ends counted."""
        if self.corpus.cuts is not None:
            return  # one file, whose parts have no published numbers
        file = self.corpus.files[_ORDER[split]]
        if file.words is not None and words != file.words:
            raise UserError(
                f"'{file.name}' has {words or 0:,} words with its line ends, but that of {self.corpus.name} has "
                f"{file.words:,}: get the corpus again, or give the file itself as the source to use it as it is."
            )


def find_files(corpus: PublishedCorpus, path: Path) -> list[SourceFile]:
    """Return the files of ``corpus`` in ``path``: a folder, a zip archive or the one file, also compressed."""
    names = ", ".join(file.name for file in corpus.files)
    if not path.exists():
        raise UserError(f"There is no '{path}': give data.path the file, archive or folder that has {names}.")
    if path.is_dir():
        found: list[SourceFile] = []
        missing: list[str] = []
        for file in corpus.files:
            if at := _in_folder(path, file.name):
                found.append(SourceFile(at))
            else:
                missing.append(file.name)
        if not missing:
            return found
        if archive := _in_folder(path, corpus.archive):
            return find_files(corpus, archive)
        rest = "the others are there" if found else f"give data.path the folder or archive of {corpus.name}"
        raise UserError(f"The folder '{path}' has no {', '.join(missing)}: {rest}.")
    require_file(path)
    if zipfile.is_zipfile(path):  # by its content: the name may be any
        return [SourceFile(path, _in_archive(path, corpus, file.name)) for file in corpus.files]
    if len(corpus.files) > 1:
        raise UserError(f"'{path}' is one file, but {corpus.name} has {names}: give data.path their folder or archive.")
    return [SourceFile(path)]


def _in_folder(folder: Path, name: str) -> Path | None:
    """Return the file of this name in the folder, else the first in one of its subfolders."""
    if (folder / name).is_file():
        return folder / name
    for path in sorted(folder.rglob(name)):
        if path.is_file():
            return path
    return None


def _in_archive(path: Path, corpus: PublishedCorpus, name: str) -> str:
    with zipfile.ZipFile(path) as archive:
        found = [member for member in archive.namelist() if member.rpartition("/")[2] == name]
    if not found:
        raise UserError(f"The archive '{path}' has no {name}: give data.path the archive of {corpus.name}.")
    return min(found, key=len)  # some archives have a shadow of each file under __MACOSX


def check_published(corpus: PublishedCorpus, expected: PublishedFile, file: SourceFile, *, any_bytes: bool) -> None:
    """Raise UserError unless ``file`` has the published size and checksum, as far as they are known."""
    # The file is read once for its checksum, its size and whether it is text; without a checksum, any
    # algorithm will do.
    algorithm, _, digest = (expected.checksum or "md5:").partition(":")
    summer = hashlib.new(algorithm, usedforsecurity=False)
    size = 0
    for block in checked(file, read_blocks(file), any_bytes=any_bytes):
        summer.update(block)
        size += len(block)
    where = f"{file.member} in '{file.path}'" if file.member else f"'{file.path}'"
    if expected.bytes is not None and size != expected.bytes:
        raise UserError(
            f"{where} has {size:,} bytes, but the published {expected.name} has exactly {expected.bytes:,}: get the "
            f"whole file, or {_own_way(corpus, file)}."
        )
    if digest and summer.hexdigest() != digest:
        raise UserError(
            f"{where} is not the published {expected.name}: its checksum should be {expected.checksum}, but is "
            f"{algorithm}:{summer.hexdigest()}; get the file again, or {_own_way(corpus, file)}."
        )


def _own_way(corpus: PublishedCorpus, file: SourceFile) -> str:
    """Say how a file is trained on that is not the published one."""
    path = "FILE" if file.member else str(file.path)
    how = "data.split=bytes and data.tokenizer=bytes" if corpus.cuts else f"data.tokenizer={corpus.tokenizer}"
    return f"split this one in proportion: train on {path} with {how}"
