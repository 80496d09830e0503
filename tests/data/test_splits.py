from __future__ import annotations

import json
import lzma
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from weft.data.config import DataConfig
from weft.data.prepare import TokenizedSplit, prepare
from weft.data.splits import SPLITS, Corpus, iter_documents
from weft.errors import UserError


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def all_splits(**settings: Any) -> tuple[list[bytes], ...]:
    config = DataConfig(**settings)
    return tuple(list(iter_documents(config, split)) for split in SPLITS)


def test_numbered_documents_are_dealt_by_number_over_all_files(tmp_path: Path) -> None:
    names = [b"doc%d" % i for i in range(240)]
    one = write(tmp_path / "1.txt", b"\n\n\n".join(names[:15]))
    two = write(tmp_path / "2.txt", b"\n\n\n".join(names[15:]))
    train, validation, test = all_splits(sources=(one, two), split="numbered")
    assert validation == names[7::20]
    assert test == names[13::20]
    assert train == [name for i, name in enumerate(names) if i % 20 not in (7, 13)]


def test_documents_fall_by_their_content_whatever_stands_around_them(tmp_path: Path) -> None:
    names = [b"doc%d" % i for i in range(400)]
    one = write(tmp_path / "m.txt", b"\n\n\n".join(names))
    before = all_splits(sources=(one,))
    assert sorted(chain(*before)) == sorted(names)
    assert all(8 <= len(part) <= 35 for part in before[1:])
    # A file in front of the others, with some of their documents, moves none of them to another split.
    added = write(tmp_path / "a.txt", b"\n\n\n".join([*names[::7], b"new"]))
    after = all_splits(sources=(added, one))
    for old, new in zip(before, after, strict=True):
        assert [name for name in dict.fromkeys(new) if name != b"new"] == sorted(old, key=[*names[::7], *names].index)
    assert not set(after[0]) & set(after[1] + after[2])


@pytest.mark.parametrize("packed", [False, True])
def test_blocks_are_spread_over_the_whole_of_each_file(tmp_path: Path, packed: bool) -> None:
    lines = [b"%06d, a line of some words.\n" % i for i in range(20_000)]
    data = b"".join(lines)
    path = write(tmp_path / ("a.txt.xz" if packed else "a.txt"), lzma.compress(data) if packed else data)
    parts = all_splits(sources=path, split="blocks")
    read = [sorted(line for document in part for line in document.split(b"\n") if line) for part in parts]
    assert sorted(chain(*read)) == [line.strip() for line in lines]  # whole lines, each in one part
    for held_out in read[1:]:
        numbers = [int(line[:6]) for line in held_out]
        assert 0.045 < len(numbers) / len(lines) < 0.055
        fifths = {number * 5 // len(lines) for number in numbers}
        assert fifths == {0, 1, 2, 3, 4}


def test_blocks_are_cut_at_blank_lines_where_there_are_some(tmp_path: Path) -> None:
    paragraphs = [b"%d: one line\nand another\n" % i * (1 + i % 3) for i in range(3000)]
    path = write(tmp_path / "a.txt", b"\n".join(paragraphs))
    for part in all_splits(sources=path, split="blocks"):
        for document in part:
            assert (document + b"\n").split(b"\n\n")[0].strip() + b"\n" in [p.strip() + b"\n" for p in paragraphs]


def test_a_small_file_has_blocks_for_every_part(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"".join(b"line %d\n" % i for i in range(60)))
    train, validation, test = all_splits(sources=path)
    assert validation
    assert test
    assert b"line 0\n" in train[0]


def test_where_a_training_text_was_cut_it_has_not_ended(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"".join(b"line %d\n" % i for i in range(900)))
    corpus = Corpus(DataConfig(sources=(path,), split="blocks"), any_bytes=False)
    starts = [fragment for fragment in corpus.fragments("train") if fragment.first]
    assert len(starts) > 2
    assert [fragment.continues for fragment in starts] == [False] + [True] * (len(starts) - 1)


@pytest.mark.parametrize("split", ["tail", "blocks", "bytes"])
def test_no_part_of_a_file_ends_where_it_is_cut(tmp_path: Path, split: str) -> None:
    paths = []
    for number in range(3):
        text = b"".join(b"line %d of %d\n" % (i, number) for i in range(900))
        paths.append(write(tmp_path / f"{number}.txt", text))
    data = prepare(DataConfig(sources=tuple(paths), split=split, tokenizer="bytes", longest_document=0))  # type: ignore[arg-type]
    for part in (data.train, data.validation, data.test):
        assert isinstance(part, TokenizedSplit)
        for index, ends in enumerate(part.ends):
            document = data.tokenizer.decode(part.document(index))
            assert ends == document.rstrip().endswith(("line 899 of 0", "line 899 of 1", "line 899 of 2"))
    assert data.train.ending_documents == (3 if split == "blocks" else 0)
    assert data.told()["test"]["documents"] >= 1


def test_auto_is_documents_from_200_on_and_blocks_below(tmp_path: Path) -> None:
    for number, rule in ((200, "documents"), (199, "blocks")):
        path = write(tmp_path / "a.txt", b"\n\n\n".join([b"text"] * number))
        assert Corpus(DataConfig(sources=(path,)), any_bytes=False).rule == rule


def test_tail_cuts_each_file_at_the_next_line_end(tmp_path: Path) -> None:
    lines = [b"%03d\n" % i for i in range(100)]  # 400 bytes: cuts at 360 and 380, which are line ends
    whole = write(tmp_path / "1.txt", b"".join(lines))
    odd = write(tmp_path / "2.txt", b"".join(lines) + b"x\n")  # 402 bytes: cuts at 361 and 381, inside a line
    train, validation, test = all_splits(sources=(whole, odd), split="tail")
    assert [doc.count(b"\n") + 1 for doc in train] == [90, 91]
    assert validation == [b"".join(lines[90:95])[:-1], b"".join(lines[91:96])[:-1]]
    assert test == [b"".join(lines[95:])[:-1], b"".join(lines[96:])[:] + b"x"]


def test_tail_parts_are_split_into_documents(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", b"\n\n\n".join(b"line %d\nmore" % i for i in range(100)))
    train, validation, test = all_splits(sources=path, split="tail")
    assert min(len(train), len(validation), len(test)) >= 4
    assert b"".join(train + validation + test).replace(b"\n", b"").count(b"line") == 100


def test_bytes_cuts_exactly_and_keeps_separators(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4 + b"\n\n\n" * 5
    path = write(tmp_path / "a.bin", data)
    cuts = [len(data) * 90 // 100, len(data) * 95 // 100]
    parts = all_splits(sources=path, split="bytes", tokenizer="bytes")
    assert parts == ([data[: cuts[0]]], [data[cuts[0] : cuts[1]]], [data[cuts[1] :]])


def test_bytes_never_cuts_a_character_of_text(tmp_path: Path) -> None:
    text = "漢" * 101  # 303 bytes: cuts at 272 and 287, both inside a character
    path = write(tmp_path / "a.txt", text.encode())
    parts = all_splits(sources=path, split="bytes")
    assert [len(part[0]) for part in parts] == [273, 15, 15]
    assert b"".join(part[0] for part in parts).decode() == text


def test_the_same_rules_hold_for_compressed_files(tmp_path: Path) -> None:
    data = b"".join(b"line %d\n" % (i * i) for i in range(500))
    plain = write(tmp_path / "a.txt", data)
    packed = write(tmp_path / "b.txt.xz", lzma.compress(data))
    for split in ("blocks", "tail", "bytes"):
        assert all_splits(sources=plain, split=split) == all_splits(sources=packed, split=split)


@pytest.mark.parametrize("split", ["blocks", "tail", "bytes"])
def test_jsonl_is_cut_between_records(tmp_path: Path, split: str) -> None:
    lines = [json.dumps({"text": f"récord {i}"}).encode() + b"\n" for i in range(100)]
    path = write(tmp_path / "a.jsonl", b"".join(lines))
    train, validation, test = all_splits(sources=path, split=split)
    whole = train + validation + test
    if split == "blocks":  # parts of training text stand between the others
        whole.sort(key=lambda document: int(document.split()[1]))
    assert [doc.decode() for doc in whole] == [f"récord {i}" for i in range(100)]
    assert 4 <= len(validation) <= 6
    assert 4 <= len(test) <= 6


def test_given_validation_files_replace_that_split_only(tmp_path: Path) -> None:
    names = [b"doc%d" % i for i in range(240)]
    sources = write(tmp_path / "a.txt", b"\n\n\n".join(names))
    held_out = write(tmp_path / "v.txt", b"one\n\n\ntwo")
    train, validation, test = all_splits(sources=sources, validation=held_out, split="numbered")
    assert validation == [b"one", b"two"]
    assert test == names[13::20]
    assert train == [name for i, name in enumerate(names) if i % 20 != 13]


@pytest.mark.parametrize("split", ["documents", "numbered", "blocks", "tail", "bytes"])
def test_with_both_given_all_sources_are_training(tmp_path: Path, split: str) -> None:
    data = b"first line\nsecond line"
    sources = write(tmp_path / "a.txt", data)
    validation, test = write(tmp_path / "v.txt", b"v"), write(tmp_path / "t.txt", b"t")
    parts = all_splits(sources=sources, validation=validation, test=test, split=split)
    assert parts == ([data], [b"v"], [b"t"])


def test_held_out_files_among_the_sources_are_not_trained_on(tmp_path: Path) -> None:
    for name in "avt":
        write(tmp_path / f"{name}.txt", name.encode())
    given = {"validation": str(tmp_path / "v.txt"), "test": str(tmp_path / "t.txt")}
    assert all_splits(sources=str(tmp_path), **given) == ([b"a"], [b"v"], [b"t"])
    with pytest.raises(UserError, match="All of the sources"):
        all_splits(sources=(str(tmp_path / "v.txt"),), **given)


@pytest.mark.parametrize("split", ["auto", "documents", "numbered", "blocks", "tail", "bytes"])
def test_too_little_text_to_split_says_what_to_do(tmp_path: Path, split: str) -> None:
    path = write(tmp_path / "a.txt", b"word")
    corpus = Corpus(DataConfig(sources=(path,), split=split), any_bytes=False)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="data.validation and data.test"):
        corpus.require_all_splits()


def test_the_bundled_corpus_splits_as_its_reference_figures_say() -> None:
    train, validation, test = all_splits(sources="weft:sewiki")
    assert [len(train), len(validation), len(test)] == [5520, 307, 307]
    joined = [len(b"\n\n\n".join(split)) for split in (train, validation, test)]
    assert joined == [1_929_440, 123_752, 105_712]


def test_the_older_name_of_a_rule_is_read() -> None:
    assert DataConfig.parse({"sources": "a.txt", "split": "lines"}).split == "tail"


def test_one_name_may_stand_without_a_list() -> None:
    assert DataConfig.parse({"sources": "a.txt"}).sources == ("a.txt",)
    with pytest.raises(UserError, match="No text was given"):
        list(iter_documents(DataConfig(), "train"))
    with pytest.raises(UserError, match="did you mean 'sources'"):
        DataConfig.parse({"source": "a.txt"})
