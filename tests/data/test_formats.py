"""What a file may hold that is not the text itself, and what is said of it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import time
from pathlib import Path

import pytest

from weft.data import DataConfig, prepare, tokenize_sources, train_tokenizer
from weft.data.formats import encoding_of
from weft.data.sources import left_out, resolve_sources
from weft.data.splits import iter_documents
from weft.data.text_blocks import LARGE_BYTES
from weft.errors import UserError

SENTENCES = [f'Satz {number}, mit "Komma"\nund Ümlaut' for number in range(300)]


def table(delimiter: str = ",") -> bytes:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerow(["id", "satz"])
    writer.writerows(enumerate(SENTENCES))
    return stream.getvalue().encode()


def train_part(path: Path, **settings: str) -> list[bytes]:
    return list(iter_documents(DataConfig(sources=(str(path),), **settings), "train"))


# Tables


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_the_cells_of_a_column_are_documents(tmp_path: Path, name: str, mark: bytes) -> None:
    path = tmp_path / name
    data = mark + table()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    records = tmp_path / "same.jsonl"
    records.write_text("".join(json.dumps({"satz": sentence}) + "\n" for sentence in SENTENCES), "utf-8")
    for part in ("train", "validation", "test"):
        of_table, of_records = (
            list(iter_documents(DataConfig(sources=(str(one),), text_key="satz"), part)) for one in (path, records)
        )
        assert of_table == of_records
    assert train_part(path, text_key="satz", split="lines")[:2] == [sentence.encode() for sentence in SENTENCES[:2]]


def test_a_tsv_has_one_record_a_line_and_quotes_are_letters(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("lang\ttext\n" + 'kab\t"Azul, ulac\n' * 200, "utf-8")
    assert train_part(path)[0] == b'"Azul, ulac'


def test_a_table_without_the_column_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(table())
    for kind in ("bpe", "bytes"):
        with pytest.raises(UserError, match="no 'text', but id, satz: name the column .* data.text_key"):
            train_part(path, tokenizer=kind)
    with pytest.raises(UserError, match="data.text_key"):
        tokenize_sources([str(path)], train_tokenizer("bytes", [], 258))


def test_a_row_of_another_length_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,text\n1,one\n2,two,three\n", "utf-8")
    with pytest.raises(UserError, match="Line 3 of .* has 3 cells, but the first line names 2"):
        train_part(path)


def test_a_quote_that_never_ends_is_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"one\n2,two\n', "utf-8")
    with pytest.raises(UserError, match="unexpected end of data"):
        train_part(path)


# Other kinds of files


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.html", "is HTML, not plain text"),
        ("a.HTM.gz", "is HTML"),
        ("a.json", "rename it to .jsonl"),
        ("a.pdf", "is a PDF"),
        ("a.docx", "is a Word file"),
        ("a.zip", "unpack it"),
        ("a.tar.gz", "unpack it"),
        ("a.parquet", "hf:FILE"),
    ],
)
def test_what_wraps_its_text_is_refused_by_name(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    data = b"<p>A text</p>\n" * 100
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(UserError, match=message):
        train_part(path)
    with pytest.raises(UserError, match=message):
        tokenize_sources([str(path)], train_tokenizer("characters", [b"aa"], 258))


def test_the_byte_tokenizer_takes_packed_files_but_no_markup(tmp_path: Path) -> None:
    for name in ("a.zip", "a.html"):
        (tmp_path / name).write_bytes(bytes(range(256)) * 20)
    config = {"tokenizer": "bytes", "split": "bytes"}
    assert train_part(tmp_path / "a.zip", **config)
    with pytest.raises(UserError, match="is HTML"):
        train_part(tmp_path / "a.html", **config)


def test_a_file_is_read_as_it_is_where_that_is_meant(tmp_path: Path) -> None:
    for name in ("a.html", "a.csv", "a.txt"):
        path = tmp_path / name
        path.write_text("\ufeff<p>,a text\n" * 100, "utf-8")
        config = DataConfig(sources=(str(path),), verbatim=True, split="bytes")
        assert b"".join(b"".join(iter_documents(config, part)) for part in ("train", "validation", "test")) == (
            path.read_bytes()
        )


def test_newline_delimited_json_is_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_text('{"text": "one"}\n' * 40, "utf-8")
    assert train_part(path)[0] == b"one"


# Encodings


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("text", ["A plain text.\n", "Простой текст, и всё.\n"])
def test_another_encoding_is_named_with_the_command_that_converts_it(tmp_path: Path, encoding: str, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes((text * 100).encode(encoding))
    with pytest.raises(UserError, match=rf"is {encoding[:6].upper()}.*iconv -f {encoding[:6].upper()}"):
        train_part(path)


def test_text_and_plain_binary_are_no_other_encoding() -> None:
    for data in (b"plain text", "漢字かな交じり文".encode(), bytes(range(256)), b"\0" * 100, b"abc\0def" * 20, b""):
        assert encoding_of(data) is None


def test_a_late_nul_in_a_large_file_is_found_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a line of text\n" * 1000)
    with path.open("r+b") as stream:
        stream.truncate(200 * LARGE_BYTES)  # a hole: six gigabytes that take no room
    began = time.monotonic()
    with pytest.raises(UserError, match="looks binary"):
        train_part(path)
    assert time.monotonic() - began < 2


# Folders


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    for name in ("a.txt", "b.md", "c.csv", "sub/d.csv", "sub/e.csv", ".hidden.csv", "README"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a line of text\n" * 100, "utf-8")
    told = left_out([str(folder)])
    assert "3 .csv, 1 without a suffix, 1 .md (README, b.md, c.csv, ...)" in told
    assert left_out([str(folder / "a.txt"), str(folder / "*.txt")]) == ""
    said: list[str] = []
    prepare(DataConfig(sources=(str(folder),), tokenizer="bytes"), progress=said.append)
    tokenize_sources([str(folder)], train_tokenizer("bytes", [], 258), progress=said.append)
    assert said.count(told) == 2


def test_a_folder_without_text_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.md").touch()
    with pytest.raises(UserError, match=r"no .txt or .jsonl files .*it has 1 \.md"):
        resolve_sources([str(tmp_path)])


# Texts without lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one line without an end. " * 200, "is one long line, .* data.split=bytes"),
        ("a line of an old Mac\r" * 200, "end in CR alone, .*data.line_ends=lf, .*data.split=bytes"),
        ("short", "is too short"),
    ],
)
def test_a_text_that_cannot_be_cut_at_lines_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, "utf-8", newline="")
    with pytest.raises(UserError, match=message):
        prepare(DataConfig(sources=(str(path),)))


def test_an_empty_file_in_a_folder_is_passed_over_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "b.html").write_text("<p>", encoding="utf-8")
    assert [file.path.name for file in resolve_sources([str(tmp_path)])] == ["a.txt"]
    told = left_out([str(tmp_path)])
    assert "Not read, as they are empty: 1 (empty.txt)." in told
    assert "1 .html (b.html)" in told
