from __future__ import annotations

import bz2
import gzip
import json
import lzma
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from weft.data.config import DataConfig
from weft.data.documents import join_fragments, split_documents
from weft.data.sources import SourceFile, resolve_sources
from weft.data.splits import iter_documents
from weft.data.text_blocks import checked, read_blocks
from weft.errors import UserError

COMPRESS = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def read(path: Path, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join(read_blocks(SourceFile(path), start, stop))


def check(path: Path, *, any_bytes: bool = False) -> bytes:
    file = SourceFile(path)
    return b"".join(checked(file, read_blocks(file), any_bytes=any_bytes))


def split(data: bytes, separator: str = "\n\n\n", block: int = 1 << 20) -> list[bytes]:
    blocks = [data[at : at + block] for at in range(0, len(data), block)]
    return list(join_fragments(split_documents(blocks, separator)))


# Finding files


def test_a_folder_gives_its_text_files_sorted_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl.gz", "c/d.txt.xz", "note.md", "c/.hidden.txt", ".git/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [file.path.relative_to(tmp_path).as_posix() for file in resolve_sources([str(tmp_path)])]
    assert found == ["a.jsonl.gz", "b.txt", "c/d.txt.xz"]


def test_names_and_patterns_are_taken_in_order_and_each_file_once(tmp_path: Path) -> None:
    for name in ("one.txt", "two.txt", "three.xml"):
        (tmp_path / name).write_text("x")
    files = resolve_sources([str(tmp_path / "two.txt"), str(tmp_path / "*.txt"), str(tmp_path / "three.xml")])
    assert [file.path.name for file in files] == ["two.txt", "one.txt", "three.xml"]


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].txt").write_text("x")
    assert [file.path.name for file in resolve_sources([str(tmp_path / "a[1].txt")])] == ["a[1].txt"]


def test_a_pattern_reaches_into_folders(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "deep.txt").write_text("x")
    assert len(resolve_sources([str(tmp_path / "*")])) == 1
    assert len(resolve_sources([str(tmp_path / "**" / "*.txt")])) == 1


@pytest.mark.parametrize("name", ["missing.txt", "*.none", "empty", ""])
def test_a_name_that_leads_nowhere_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name.replace("*", r"\*") or "No text was given"):
        resolve_sources([str(tmp_path / name) if name else ""])


# Reading


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_read_like_plain_ones(tmp_path: Path, suffix: str) -> None:
    data = bytes(range(65, 91)) * 100_000
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(COMPRESS[suffix](data[:1000]) + COMPRESS[suffix](data[1000:]))
    assert read(path) == data
    assert read(path, 999, 2_000_001) == data[999:2_000_001]
    assert [file.path for file in resolve_sources([str(tmp_path)])] == [path]


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_compressed_file_is_an_error(tmp_path: Path, suffix: str, damage: str) -> None:
    whole = COMPRESS[suffix](bytes(range(256)) * 50)
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"no such format " * 9)
    with pytest.raises(UserError, match="is damaged"):
        read(path)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_that_is_not_there_is_not_called_damaged(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError, match="Cannot read"):
        read(tmp_path / f"a.txt{suffix}")


def test_zst_without_zstandard_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt.zst"
    path.write_bytes(COMPRESS[".zst"](b"text"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match=r"weft-lm\[zstd\]"):
        read(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n\t\n", "only white space"),
        (b"abc\0def", "looks binary.*byte 3"),
        (b"a" * (1 << 20) + b"\xff", "not UTF-8 at byte 1048576"),
        (b"a" * ((1 << 20) - 1) + "é".encode() + b"\xe9", "not UTF-8 at byte 1048577"),
        (b"ends in half a character \xc3", "not UTF-8 at byte 25"),
    ],
)
def test_what_is_no_text_is_an_error(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        check(path)


def test_the_byte_tokenizer_takes_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)))
    assert check(path, any_bytes=True) == bytes(range(256))


# Documents


def test_two_blank_lines_part_documents_and_empty_ones_are_dropped() -> None:
    assert split(b"\n\none\n\ntwo\n\n\n\n\n\n\n\nthree\n\n\n\nfour\n") == [b"one\n\ntwo", b"three", b"four"]


def test_windows_line_ends_part_documents_and_stay_inside_them() -> None:
    assert split(b"one\r\ntwo\r\n\r\n\r\nthree\r\n") == [b"one\r\ntwo", b"three"]


def test_without_a_separator_the_file_is_one_document_to_the_byte() -> None:
    assert split(b"\n\n\n one\n\n\n\n", "") == [b"\n\n\n one\n\n\n\n"]


def test_a_visible_separator_leaves_the_line_ends_alone() -> None:
    assert split(b"one\n<end>\ntwo\n<end>", "<end>") == [b"one\n", b"\ntwo\n"]


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"--", b"-", b"  "]), max_size=60), st.integers(1, 5))
def test_documents_do_not_depend_on_how_the_bytes_stream_by(parts: list[bytes], block: int) -> None:
    data = b"".join(parts)
    for separator in ("\n\n\n", "---", "\n", "-\n"):
        assert split(data, separator, block) == split(data, separator)


def test_long_documents_come_in_fragments_that_join_to_the_whole() -> None:
    documents = [b"x" * 3_500_000 + b"\n\ny", b"short", b"z" * 2_100_000]
    blocks = b"\n\n\n".join(documents)
    fragments = list(split_documents([blocks[at : at + 999_983] for at in range(0, len(blocks), 999_983)], "\n\n\n"))
    assert len(fragments) > 3
    assert max(len(fragment.data) for fragment in fragments) < 1 << 21
    assert list(join_fragments(fragments)) == documents


# JSONL


def records(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_jsonl_gives_the_text_of_each_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(records({"body": "één\n\n\ntwee"}, {"body": ""}, {"body": "drie", "id": 3}) + "\n", "utf-8")
    config = DataConfig(sources=(str(path),), text_key="body", validation=(str(path) + "2",), test=(str(path) + "2",))
    Path(str(path) + "2").write_text("held out", "utf-8")
    assert list(iter_documents(config, "train")) == ["één\n\n\ntwee".encode(), b"drie"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "Line 2 of '.*a.jsonl' is not JSON"),
        ('{"other": 1}', "Line 2 .* has no 'text'"),
        ("[1]", "Line 2 .* has no 'text'"),
        ('{"text": 3}', "Line 2 .* must be a string"),
        ('{"text": "\\ud800"}', "Line 2 .* surrogate"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(records({"text": "fine"}) + line + "\n", "utf-8")
    with pytest.raises(UserError, match=message):
        list(iter_documents(DataConfig(sources=(str(path),)), "train"))


def test_jsonl_without_any_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(records({"text": ""}), "utf-8")
    with pytest.raises(UserError, match="no document"):
        list(iter_documents(DataConfig(sources=(str(path),)), "train"))
