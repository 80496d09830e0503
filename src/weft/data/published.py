"""The published corpora: where they are, how they are known, how they are cut, and what is reported on them.

A checksum stands here only where its publisher or several independent projects state it; ``None`` is
unverified.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LINE_END_WORD = "<eos>"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file of a corpus and how it is known again.

    ``bytes`` is its exact size and ``checksum`` is written ``md5:...`` or ``sha256:...``; ``words`` counts
    the parts between white space and one more for the end of every line. None is what nobody has stated for
    certain.
    """

    name: str
    bytes: int | None = None
    checksum: str | None = None
    words: int | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedCorpus:
    """A corpus under its published name.

    ``urls`` are mirrors of one archive (zip). ``cuts`` are the bytes where validation and test begin in a
    single file; where it is None, the files are training, validation and test. ``vocabulary`` is the
    published number of words, ``<unk>`` and ``<eos>`` among them.
    """

    name: str
    urls: tuple[str, ...]
    archive_checksum: str | None
    files: tuple[PublishedFile, ...]
    cuts: tuple[int, int] | None
    tokenizer: Literal["bytes", "closed-words"]
    vocabulary: int | None
    metric: str

    @property
    def archive(self) -> str:
        """The file name of the archive."""
        return self.urls[0].rpartition("/")[2]


_PUBLISHED = (
    PublishedCorpus(
        name="enwik8",
        urls=("https://mattmahoney.net/dc/enwik8.zip", "https://data.deepai.org/enwik8.zip"),
        archive_checksum=None,  # what is inside has one
        files=(PublishedFile(name="enwik8", bytes=100_000_000, checksum="md5:a1fa5ffddb56f4953e226637dabbb36a"),),
        cuts=(90_000_000, 95_000_000),
        tokenizer="bytes",
        vocabulary=None,
        metric="bits per byte (published as bits per character)",
    ),
    PublishedCorpus(
        name="text8",
        urls=("https://mattmahoney.net/dc/text8.zip", "https://data.deepai.org/text8.zip"),
        archive_checksum=None,  # what is inside has one
        files=(PublishedFile(name="text8", bytes=100_000_000, checksum="md5:3bea1919949baf155f99411df5fada7e"),),
        cuts=(90_000_000, 95_000_000),
        tokenizer="bytes",
        vocabulary=None,
        metric="bits per byte (published as bits per character)",
    ),
    PublishedCorpus(
        name="wikitext-103",
        urls=(
            "https://wikitext.smerity.com/wikitext-103-v1.zip",
            "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-103-v1.zip",
        ),
        archive_checksum="md5:9ddaacaf6af0710eda8c456decff7832",
        files=(
            PublishedFile(name="wiki.train.tokens", words=103_227_021),
            PublishedFile(
                name="wiki.valid.tokens",
                bytes=1_142_309,
                checksum="sha256:9aee9f52d6e77de6c7751fc5e7c44287db3ec0eaf15477098acc6b93c1c4250b",
                words=217_646,
            ),
            PublishedFile(
                name="wiki.test.tokens",
                bytes=1_281_077,
                checksum="sha256:56db52eb157b1ab5c89646eef70510c1eca6e12a3bfdb99f0d6b05b4eacb75b9",
                words=245_569,
            ),
        ),
        cuts=None,
        tokenizer="closed-words",
        vocabulary=267_735,
        metric="perplexity per word, <eos> counted",
    ),
    PublishedCorpus(
        name="wikitext-2",
        urls=(
            "https://wikitext.smerity.com/wikitext-2-v1.zip",
            "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip",
        ),
        archive_checksum="md5:542ccefacc6c27f945fb54453812b3cd",
        files=(
            PublishedFile(name="wiki.train.tokens", words=2_088_628),
            PublishedFile(name="wiki.valid.tokens", words=217_646),
            PublishedFile(name="wiki.test.tokens", words=245_569),
        ),
        cuts=None,
        tokenizer="closed-words",
        vocabulary=33_278,
        metric="perplexity per word, <eos> counted",
    ),
)
PUBLISHED: dict[str, PublishedCorpus] = {corpus.name: corpus for corpus in _PUBLISHED}
