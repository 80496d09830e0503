from __future__ import annotations

import hashlib
import lzma
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.site import Site
from tests.data.support import made_up_documents
from weft.data.cache import clear_cache
from weft.data.config import DataConfig
from weft.data.prepare import PreparedData, prepare
from weft.data.prepared import TokenizedSplit
from weft.data.published import PUBLISHED, PublishedFile
from weft.data.splits import iter_documents
from weft.errors import UserError
from weft.evaluation.metrics import compute_metrics
from weft.settings import FrozenConfig

BYTES = "".join(made_up_documents(60)).encode()[:4000]
CUTS = (3600, 3800)
LINES = {
    "train": " \n = A = \n \n the <unk> cat saw the dog . \n the cat saw the cat \n",
    "valid": " \n = B = \n the dog saw the unheard . \n",
    "test": " \n = C = \n the <unk> saw the dog and \n \n",
}


def counted(text: str) -> int:
    return len(text.split()) + text.count("\n")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, site: Site) -> Site:
    """Replicas of enwik8 and WikiText-103 that a test can hold, and a server that has them."""
    checksum = f"md5:{hashlib.md5(BYTES).hexdigest()}"
    one = PublishedFile(name="enwik8", bytes=len(BYTES), checksum=checksum)
    urls = (site.url("enwik8.zip"),)
    monkeypatch.setitem(PUBLISHED, "enwik8", replace(PUBLISHED["enwik8"], files=(one,), cuts=CUTS, urls=urls))
    files = tuple(PublishedFile(name=f"wiki.{part}.tokens", words=counted(text)) for part, text in LINES.items())
    wikitext = replace(PUBLISHED["wikitext-103"], files=files, urls=(site.url("w.zip"),), archive_checksum=None)
    monkeypatch.setitem(PUBLISHED, "wikitext-103", wikitext)
    return site


def wikitext_folder(folder: Path, **changed: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, text in (LINES | changed).items():
        (folder / f"wiki.{part}.tokens").write_text(text, "utf-8", newline="")
    return folder


def zipped(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def prepared(name: str, path: Path | None = None, **settings: Any) -> PreparedData:
    return prepare(DataConfig(sources=(name,), path=path and str(path), **settings))


def text_of(data: PreparedData, split: TokenizedSplit) -> bytes:
    assert split.documents == 1
    assert split.tokens[0] == data.tokenizer.boundary_id
    return data.tokenizer.decode_bytes(split.tokens)


# The table


def test_the_table_says_what_was_published() -> None:
    assert list(PUBLISHED) == ["enwik8", "text8", "wikitext-103", "wikitext-2"]
    for name in ("enwik8", "text8"):
        corpus = PUBLISHED[name]
        assert (corpus.files[0].bytes, corpus.cuts) == (100_000_000, (90_000_000, 95_000_000))
    for name, train, vocabulary in (("wikitext-103", 103_227_021, 267_735), ("wikitext-2", 2_088_628, 33_278)):
        corpus = PUBLISHED[name]
        assert [file.words for file in corpus.files] == [train, 217_646, 245_569]
        assert corpus.vocabulary == vocabulary
    for corpus in PUBLISHED.values():
        assert all(url.startswith("https://") and url.endswith(".zip") for url in corpus.urls)
        for checksum in (corpus.archive_checksum, *(file.checksum for file in corpus.files)):
            algorithm, _, digest = (checksum or "md5:" + "0" * 32).partition(":")
            assert len(bytes.fromhex(digest)) == hashlib.new(algorithm).digest_size


# Bytes, cut as published


def places(tmp_path: Path) -> dict[str, Path]:
    plain = tmp_path / "any name"
    plain.write_bytes(BYTES)
    packed = tmp_path / "enwik8.xz"
    packed.write_bytes(lzma.compress(BYTES))
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / "enwik8").write_bytes(BYTES)
    with_zip = tmp_path / "downloads"
    with_zip.mkdir()
    zipped(with_zip / "enwik8.zip", enwik8=BYTES)
    return {
        "file": plain,
        "compressed": packed,
        "folder": tmp_path / "deep",
        "zip": with_zip / "enwik8.zip",
        "folder with the zip": with_zip,
    }


@pytest.mark.usefixtures("small")
def test_the_splits_are_cut_at_the_published_bytes_wherever_the_file_is(tmp_path: Path) -> None:
    for path in places(tmp_path).values():
        data = prepared("enwik8", path)
        assert data.tokenizer.kind == "bytes"
        assert text_of(data, data.train) == BYTES[: CUTS[0]]
        assert text_of(data, data.validation) == BYTES[CUTS[0] : CUTS[1]]
        assert text_of(data, data.test) == BYTES[CUTS[1] :]
        assert "split as published" in data.summary
        assert "unverified" not in data.summary


@pytest.mark.usefixtures("small")
def test_a_file_in_the_present_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "enwik8").write_bytes(BYTES)
    said: list[str] = []
    prepare(DataConfig(sources=("enwik8",)), progress=said.append)
    assert any(f"Taking enwik8 from '{tmp_path}/enwik8'" in line for line in said)
    assert list(iter_documents(DataConfig(sources=("enwik8",)), "test")) == [BYTES[CUTS[1] :]]


def test_a_corpus_is_downloaded_once_and_freed_with_the_cache(
    small: Site, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small.files["/enwik8.zip"] = zipped(tmp_path / "enwik8.zip", enwik8=BYTES).read_bytes()
    for _ in range(2):
        data = prepared("enwik8")
        assert text_of(data, data.test) == BYTES[CUTS[1] :]
    assert small.asked == [("/enwik8.zip", "")]
    assert (own_cache / "weft-downloads" / "enwik8" / "enwik8.zip").is_file()
    assert clear_cache() > len(BYTES)
    assert not (own_cache / "weft-downloads").exists()


def test_a_wrong_archive_is_not_kept_and_the_next_mirror_is_asked(
    small: Site, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "enwik8").mkdir()  # a run of that name, say, which is not the corpus
    urls = (small.url("portal/enwik8.zip"), small.url("short/enwik8.zip"), small.url("enwik8.zip"))
    monkeypatch.setitem(PUBLISHED, "enwik8", replace(PUBLISHED["enwik8"], urls=urls))
    small.files["/portal/enwik8.zip"] = b"<html>Sign in first.</html>"
    small.files["/short/enwik8.zip"] = zipped(tmp_path / "short.zip", enwik8=BYTES[:-1]).read_bytes()
    with pytest.raises(UserError, match="no archive.*exactly 4,000.*404"):
        prepared("enwik8")
    assert not list((own_cache / "weft-downloads").rglob("*.zip*[!k]"))
    small.files["/enwik8.zip"] = zipped(tmp_path / "whole.zip", enwik8=BYTES).read_bytes()
    data = prepared("enwik8")
    assert text_of(data, data.test) == BYTES[CUTS[1] :]


@pytest.mark.usefixtures("small")
def test_a_short_file_is_told_the_length_and_the_way_to_use_it_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(BYTES[:1000])
    with pytest.raises(
        UserError, match=r"has 1,000 bytes.*exactly 4,000.*data.split=bytes and data.tokenizer=bytes"
    ) as told:
        prepared("enwik8", path)
    assert "\n" not in str(told.value)
    as_said = prepare(DataConfig(sources=(str(path),), split="bytes", tokenizer="bytes"))
    assert text_of(as_said, as_said.train) == BYTES[:900]


@pytest.mark.usefixtures("small")
def test_a_wrong_file_is_told_both_checksums(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(BYTES[::-1])
    expected, found = (hashlib.md5(data).hexdigest() for data in (BYTES, BYTES[::-1]))
    with pytest.raises(UserError, match=f"should be md5:{expected}, but is md5:{found}"):
        prepared("enwik8", path)
    with pytest.raises(UserError, match=rf"enwik8 in '.*other.zip' is not the published enwik8.*md5:{found}"):
        prepared("enwik8", zipped(tmp_path / "other.zip", enwik8=BYTES[::-1]))


@pytest.mark.usefixtures("small")
def test_a_path_that_has_something_else_says_what_it_should_have(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no '.*none': give data.path .* that has enwik8"):
        prepared("enwik8", tmp_path / "none")
    with pytest.raises(UserError, match="has no enwik8"):
        prepared("enwik8", tmp_path)
    with pytest.raises(UserError, match="has no enwik8"):
        prepared("enwik8", zipped(tmp_path / "x.zip", text8=BYTES))
    damaged = zipped(tmp_path / "damaged.zip", enwik8=BYTES)
    damaged.write_bytes(damaged.read_bytes()[:200] + bytes(300) + damaged.read_bytes()[500:])
    with pytest.raises(UserError, match="is damaged"):
        prepared("enwik8", damaged)
    (tmp_path / "wiki.valid.tokens").write_text("a\n")
    with pytest.raises(UserError, match="has no wiki.train.tokens, wiki.test.tokens"):
        prepared("wikitext-103", tmp_path)
    with pytest.raises(UserError, match="is one file, but wikitext-103 has wiki.train.tokens, wiki.valid"):
        prepared("wikitext-103", tmp_path / "wiki.valid.tokens")


# Words, counted as published


@pytest.mark.usefixtures("small")
def test_every_word_and_every_line_end_is_scored_and_counted(tmp_path: Path) -> None:
    folder = wikitext_folder(tmp_path / "wikitext-103")
    archive = zipped(
        tmp_path / "w.zip", **{f"wikitext-103/{path.name}": path.read_bytes() for path in folder.iterdir()}
    )
    for path in (folder, tmp_path / "wikitext-103" / "..", archive):
        data = prepared("wikitext-103", path)
        assert data.tokenizer.kind == "closed-words"
        for part, split in (("train", data.train), ("valid", data.validation), ("test", data.test)):
            assert split.scored_tokens == split.words == counted(LINES[part])
            assert split.bytes == len(LINES[part].encode())
            assert split.documents == 1
        assert text_of(data, data.train).decode() == LINES["train"]
        assert data.tokenizer.vocab_size == len(set(LINES["train"].split())) + 1 + 2
        assert [split.unknown_words for split in (data.train, data.validation, data.test)] == [0, 2, 2]
        shown = compute_metrics(2.0 * data.test.scored_tokens, data.test, 1.0)
        assert shown.perplexity_per_word == pytest.approx(np.exp(2.0))


@pytest.mark.usefixtures("small")
def test_what_has_no_checksum_is_called_unverified(tmp_path: Path) -> None:
    summary = prepared("wikitext-103", wikitext_folder(tmp_path / "w")).summary
    assert "unverified but for the number of words" in summary
    assert "wiki.train.tokens, wiki.valid.tokens, wiki.test.tokens" in summary


@pytest.mark.usefixtures("small")
def test_the_checksum_of_an_archive_verifies_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = wikitext_folder(tmp_path / "w")
    archive = zipped(tmp_path / "w.zip", **{path.name: path.read_bytes() for path in folder.iterdir()})
    known = replace(PUBLISHED["wikitext-103"], archive_checksum=f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}")
    monkeypatch.setitem(PUBLISHED, "wikitext-103", known)
    assert "unverified" not in prepared("wikitext-103", archive).summary
    assert "unverified" in prepared("wikitext-103", folder).summary


@pytest.mark.usefixtures("small")
def test_another_number_of_words_is_refused(tmp_path: Path) -> None:
    folder = wikitext_folder(tmp_path, test=LINES["test"].replace("\n", "", 1))
    expected = counted(LINES["test"])
    with pytest.raises(UserError, match=rf"'wiki.test.tokens' has {expected - 1} words.* has {expected}"):
        prepared("wikitext-103", folder)


@pytest.mark.usefixtures("small")
def test_another_tokenizer_leaves_the_published_words(tmp_path: Path) -> None:
    data = prepared("wikitext-103", wikitext_folder(tmp_path), tokenizer="bytes")
    assert data.test.words == counted(LINES["test"])
    assert data.test.scored_tokens == data.test.bytes
    assert text_of(data, data.test).decode() == LINES["test"]


# What a recipe may say


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sources": ["enwik8"], "test": ["a.txt"]}, "published validation and test parts"),
        ({"sources": ["enwik8"], "split": "documents"}, "split as published, not by documents"),
        ({"sources": ["wikitext-2"], "split": "bytes"}, "split as published, not by bytes"),
        ({"sources": ["text8"], "tokenizer": "bpe"}, "published over bytes, not bpe"),
        ({"sources": ["a.txt"], "path": "x"}, r"path goes with a published corpus.*enwik8, text8"),
        ({"sources": ["hf:a/b", "c.txt"]}, "stands alone"),
        ({"sources": ["enwik8"], "pth": "x"}, "did you mean 'path'"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(values: dict[str, Any], message: str) -> None:
    assert issubclass(DataConfig, FrozenConfig)
    with pytest.raises(UserError, match=message) as told:
        DataConfig.parse(values, where="data")
    assert "\n" not in str(told.value)


def test_a_tokenizer_of_another_kind_cannot_read_published_bytes(tmp_path: Path) -> None:
    from weft.data.closed_words import train_closed_words

    with pytest.raises(UserError, match="published over bytes"):
        prepare(DataConfig(sources=("enwik8",), path=str(tmp_path)), tokenizer=train_closed_words([b"a a"]))


def test_the_names_stand_for_the_corpora_only_alone() -> None:
    assert DataConfig(sources=("enwik8",), tokenizer="bytes", split="bytes").published is PUBLISHED["enwik8"]
    assert DataConfig(sources=("./enwik8",)).published is None
    assert DataConfig(sources=("enwik8", "more.txt")).published is None
