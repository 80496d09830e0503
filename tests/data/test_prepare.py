from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weft.data.cache import cache_dir, cached, clear_cache
from weft.data.config import DataConfig
from weft.data.prepare import PreparedData, TokenizedSplit, prepare, tokenize_sources
from weft.data.splits import iter_documents
from weft.data.tokenizer_training import train_tokenizer
from weft.data.tokenizers import Tokenizer
from weft.errors import UserError


def config_of(path: Path, **settings: Any) -> DataConfig:
    return DataConfig(sources=(str(path),), **{"tokenizer": "bpe", "vocab_size": 320, **settings})


def counted(config: DataConfig) -> tuple[PreparedData, list[str]]:
    said: list[str] = []
    return prepare(config, progress=said.append), said


def was_built(said: list[str]) -> bool:
    return any(line.startswith("Tokenizing") for line in said)


def texts(split: TokenizedSplit, tokenizer: Tokenizer) -> list[bytes]:
    return [tokenizer.decode_bytes(split.document(i)) for i in range(split.documents)]


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_the_splits_hold_every_document_behind_its_boundary(corpus_file: Path, kind: str) -> None:
    config = config_of(corpus_file, tokenizer=kind, vocab_size=None)
    data = prepare(config)
    for name in ("train", "validation", "test"):
        split: TokenizedSplit = getattr(data, name)
        documents = list(iter_documents(config, name))  # type: ignore[arg-type]
        assert texts(split, data.tokenizer) == documents
        assert split.documents == len(documents)
        assert np.array_equal(np.flatnonzero(split.tokens == data.tokenizer.boundary_id), split.offsets[:-1])
        assert (split.offsets[0], split.offsets[-1]) == (0, len(split.tokens))
        assert split.scored_tokens == len(split.tokens) - len(documents)
        assert split.bytes == sum(map(len, documents))
        assert split.characters == sum(len(document.decode()) for document in documents)
        assert split.words == sum(len(document.decode().split()) for document in documents)
        assert split.tokens.dtype == np.uint16
        assert isinstance(split.tokens, np.memmap)


def test_the_tokenizer_learns_from_the_training_split_only(corpus_file: Path) -> None:
    config = config_of(corpus_file)
    expected = train_tokenizer("bpe", iter_documents(config, "train"), 320)
    assert prepare(config).tokenizer.to_json() == expected.to_json()


def test_the_summary_is_one_line_with_the_figures(corpus_file: Path, documents: list[str]) -> None:
    data, said = counted(config_of(corpus_file))
    assert said[-1] == data.summary
    assert "\n" not in data.summary
    size = sum(len(document.encode()) for document in documents)
    for part in ("240 documents", f"{size:,} bytes", "bytes per token", "split by documents"):
        assert part in data.summary


def test_a_default_vocabulary_takes_what_there_is_and_an_asked_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("word other\n" * 100, "utf-8")
    assert 258 < prepare(config_of(path, vocab_size=None)).tokenizer.vocab_size < 512
    with pytest.raises(UserError, match="supports at most"):
        prepare(config_of(path, vocab_size=512))


def test_a_given_tokenizer_is_used_as_it_is(corpus_file: Path) -> None:
    given = train_tokenizer("characters", [b"kami kami"], 258)
    data = prepare(config_of(corpus_file), tokenizer=given)
    assert data.tokenizer is given
    assert data.train.scored_tokens == data.train.bytes
    assert prepare(config_of(corpus_file)).train.scored_tokens < data.train.scored_tokens


def test_bytes_that_are_no_text_have_no_characters_or_words(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)) * 20)
    data = prepare(DataConfig(sources=(str(path),), tokenizer="bytes", split="bytes"))
    assert (data.train.bytes, data.train.characters, data.train.words) == (4608, None, None)
    with pytest.raises(UserError, match="data.tokenizer=bytes"):
        prepare(config_of(path))


def test_words_are_counted_across_the_pieces_of_a_line_that_has_no_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    text = "x" * 1_500_000 + " y" * 10
    path.write_text(text, "utf-8")
    tokenizer = train_tokenizer("bytes", [], 258)
    split = tokenize_sources([str(path)], tokenizer)
    assert (split.words, split.characters) == (11, len(text))


def test_sources_are_tokenized_without_a_split(corpus_file: Path, documents: list[str]) -> None:
    tokenizer = train_tokenizer("bytes", [], 258)
    split = tokenize_sources([str(corpus_file)], tokenizer)
    assert texts(split, tokenizer) == [document.encode() for document in documents]
    whole = tokenize_sources([str(corpus_file)], tokenizer, document_separator="")
    assert texts(whole, tokenizer) == [corpus_file.read_bytes()]
    with pytest.raises(UserError, match="no file"):
        tokenize_sources([str(corpus_file) + ".none"], tokenizer)


# The cache


def test_the_second_time_comes_from_the_cache_and_is_the_same(corpus_file: Path) -> None:
    first, said = counted(config_of(corpus_file))
    again, said_again = counted(config_of(corpus_file))
    assert was_built(said)
    assert not was_built(said_again)
    assert np.array_equal(first.train.tokens, again.train.tokens)
    assert first.tokenizer.to_json() == again.tokenizer.to_json()
    assert (first.summary, first.test.words) == (again.summary, again.test.words)


def test_the_cache_looks_at_contents_and_settings_not_at_names(corpus_file: Path, tmp_path: Path) -> None:
    prepare(config_of(corpus_file))
    moved = shutil.move(corpus_file, tmp_path / "moved.txt")
    assert not was_built(counted(config_of(moved))[1])
    assert was_built(counted(config_of(moved, vocab_size=300))[1])
    assert was_built(counted(config_of(moved, split="lines"))[1])
    times = moved.stat()
    moved.write_bytes(moved.read_bytes().replace(b"ka", b"ko"))
    os.utime(moved, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert was_built(counted(config_of(moved))[1])


@pytest.mark.parametrize("damage", ["cut", "flip", "delete", "meta"])
def test_a_damaged_entry_is_built_again(corpus_file: Path, own_cache: Path, damage: str) -> None:
    first = prepare(config_of(corpus_file))
    tokens = np.array(first.train.tokens)
    (path,) = own_cache.rglob("meta.json" if damage == "meta" else "train.tokens")
    data = path.read_bytes()
    path.unlink()
    if damage != "delete":
        path.write_bytes(data[:-2] if damage != "flip" else data[:50] + bytes([data[50] ^ 1]) + data[51:])
    again, said = counted(config_of(corpus_file))
    assert was_built(said)
    assert np.array_equal(again.train.tokens, tokens)


def test_a_build_that_fails_leaves_nothing_behind(own_cache: Path) -> None:
    def build(folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("written")
        raise UserError("no.")

    with pytest.raises(UserError, match="no"):
        cached("key", build)
    assert not list((own_cache / "weft-prepared").iterdir())


def test_two_that_build_at_once_both_succeed(own_cache: Path) -> None:
    barrier = threading.Barrier(2)
    entries: list[Path] = []

    def build(folder: Path) -> dict[str, Any]:
        (folder / "data").write_text("same")
        barrier.wait(10)
        return {}

    threads = [threading.Thread(target=lambda: entries.append(cached("key", build)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entries == [own_cache / "weft-prepared" / "key"] * 2
    assert len(list((own_cache / "weft-prepared").iterdir())) == 1


def test_a_cache_that_cannot_be_written_says_what_to_do(
    corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set WEFT_CACHE"):
        prepare(config_of(corpus_file))


def test_a_full_disk_says_what_to_do() -> None:
    def build(_: Path) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"No space left on device.*make room"):
        cached("key", build)


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "weft-cache"
    monkeypatch.delenv("WEFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "weft"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "weft"


def test_clearing_frees_what_was_prepared_and_nothing_else(corpus_file: Path, own_cache: Path) -> None:
    assert clear_cache() == 0
    prepare(config_of(corpus_file))
    (own_cache / "other").write_text("mine")
    meta = json.loads(next(own_cache.rglob("meta.json")).read_text())
    assert clear_cache() > sum(size for size, _ in meta["files"].values())
    assert [path.name for path in own_cache.rglob("*")] == ["other"]
    assert was_built(counted(config_of(corpus_file))[1])
