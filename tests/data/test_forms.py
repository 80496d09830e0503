"""The form of a text: counted, told, and made one where that is asked for."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data import DataConfig, prepare, train_tokenizer
from weft.data.documents import Fragment
from weft.data.forms import Form, FormWatch
from weft.data.prepare import tokenize_sources
from weft.data.splits import iter_documents
from weft.data.unify import LONGEST_RUN, Unify
from weft.errors import UserError

MARK = "\ufeff"
# Letters, marks that join and marks that only stack, Hangul in parts, characters that fall apart under composition.
PIECES = ["a", "e", "\u0301", "\u0323", "\u0344", "é", "\u1100", "\u1161", "\u11a8", "\u0958", "\u0f73", "\u09c7",
          "\u09be", "漢", " ", "\r", "\n", "\r\n", "\u212b", "q"]  # fmt: skip


def form_of(*documents: str) -> Form:
    watch = FormWatch()
    list(watch.passing(Fragment(True, document.encode()) for document in documents))
    form = watch.form()
    assert form is not None
    return form


def blocks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


# What is made one


@settings(deadline=None)  # the first needs a table
@given(st.lists(st.sampled_from(PIECES), max_size=40), st.integers(1, 7))
def test_a_text_in_blocks_is_made_one_as_the_whole_is(pieces: list[str], size: int) -> None:
    text = "".join(pieces)
    unify = Unify("nfc", "lf")
    whole = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    assert unify.text(text) == whole
    assert b"".join(unify.blocks(blocks(text.encode(), size))).decode() == whole


def test_what_is_no_utf8_stays_as_it_is() -> None:
    data = b"\xff\xfee\xcc\x81\xc3 \x80"
    assert b"".join(Unify("nfc").blocks(blocks(data, 2))) == b"\xff\xfe\xc3\xa9\xc3 \x80"


def test_marks_without_end_are_not_held_without_end() -> None:
    marks = "a" + "\u0301" * (3 * LONGEST_RUN)
    held = most = 0
    for block in Unify("nfc").blocks(iter(pieces := blocks(marks.encode(), 1 << 12))):
        held += len(block)
        most = max(most, len(block))
    assert held < sum(map(len, pieces))  # the first of them joined its letter
    assert most < 4 * LONGEST_RUN


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


@pytest.mark.parametrize("split", ["documents", "lines", "bytes"])
def test_all_parts_of_a_text_are_made_one(tmp_path: Path, split: str) -> None:
    text = "\n\n\n".join(f"Éin Text, der {number} Mal ümgeht\nund ändet" for number in range(100))
    other = unicodedata.normalize("NFD", text).replace("\n", "\r\n")
    sources = {name: write(tmp_path / f"{name}.txt", one) for name, one in (("one", text), ("other", other))}
    plain = DataConfig(sources=(sources["one"],), split=split)
    made = DataConfig(sources=(sources["other"],), split=split, normalize="nfc", line_ends="lf")
    for part in ("train", "validation", "test"):
        assert list(iter_documents(made, part)) == list(iter_documents(plain, part))


def test_records_are_made_one_too(tmp_path: Path) -> None:
    record = json.dumps({"text": "e\u0301\r\nx"})
    path = write(tmp_path / "a.jsonl", f"{record}\n" * 40)
    made = DataConfig(sources=(path,), normalize="nfc", line_ends="lf")
    assert set(iter_documents(made, "train")) == {"é\nx".encode()}


def test_text_whose_lines_end_in_cr_can_be_split_by_lines_once_they_are_made_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a line of an old Mac\r" * 100)
    with pytest.raises(UserError, match="too short|data.split=bytes"):
        list(iter_documents(DataConfig(sources=(path,), split="lines"), "test"))
    assert list(iter_documents(DataConfig(sources=(path,), split="lines", line_ends="lf"), "test"))


def test_the_summary_says_which_bytes_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "e\u0301 \r\n" * 400)
    made = prepare(DataConfig(sources=(path,), tokenizer="bytes", normalize="nfc", line_ends="lf"))
    assert "read with composed letters (NFC) and line ends LF, of which every byte counts" in made.summary
    assert sum(part.bytes for part in (made.train, made.validation, made.test)) < 400 * len("é \n".encode()) + 1
    assert made.train.form is not None
    assert made.train.form.remarks() == []


def test_a_published_corpus_is_not_made_one() -> None:
    with pytest.raises(UserError, match="scored as published"):
        DataConfig.parse({"sources": "enwik8", "normalize": "nfc"})


# The byte-order mark


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_a_byte_order_mark_at_the_start_is_no_text(tmp_path: Path, kind: str) -> None:
    text = "\n".join(f"line {number} of a text" for number in range(300))
    plain, marked = write(tmp_path / "a.txt", text), write(tmp_path / "b.txt", MARK + text)
    one, other = (prepare(DataConfig(sources=(path,), tokenizer=kind)) for path in (plain, marked))
    for part in ("train", "validation", "test"):
        assert getattr(one, part).tokens.tolist() == getattr(other, part).tokens.tolist()
    tokenizer = one.tokenizer
    assert tokenize_sources([marked], tokenizer).tokens.tolist() == tokenize_sources([plain], tokenizer).tokens.tolist()


def test_a_byte_order_mark_in_records_and_given_files_is_no_text(tmp_path: Path) -> None:
    record = json.dumps({"text": f"{MARK}a text"}) + "\n"
    records = write(tmp_path / "a.jsonl", MARK + record * 3)
    held = write(tmp_path / "held.txt", f"{MARK}held out")
    config = DataConfig(sources=(records,), validation=(held,), test=(held,))
    assert list(iter_documents(config, "train")) == [b"a text"] * 3
    assert list(iter_documents(config, "test")) == [b"held out"]


# What is told


def test_a_clean_text_has_no_remarks() -> None:
    assert form_of("Ein Text, ältlich.\nEr hat zwei Zeilen.\n" * 9).remarks() == []
    assert form_of("हिन्दी क़लम ज़मीन\n" * 9).remarks() == []  # nukta letters, which NFC itself takes apart


def test_line_ends_are_told() -> None:
    assert "All lines end in CR LF" in form_of("a\r\nb\r\n" * 9).remarks()[0]
    (mixed,) = form_of("a\r\nb\n" * 9).remarks()
    assert "9 LF, 9 CR LF" in mixed
    assert "data.line_ends=lf" in mixed


def test_a_line_end_across_two_blocks_is_one() -> None:
    watch = FormWatch()
    half = "x" * ((1 << 20) - 1) + "\r"
    list(watch.passing([Fragment(True, half.encode()), Fragment(False, b"\ny")]))
    form = watch.form()
    assert form is not None
    assert (form.lf, form.crlf, form.cr) == (0, 1, 0)


def test_marks_apart_from_their_letters_are_told() -> None:
    (line,) = form_of("e\u0301 " * 9 + "é " * 4).remarks()
    assert "9 letters are apart from their marks (not NFC), 4 are one with them" in line
    assert "data.normalize=nfc" in line


def test_letters_of_another_script_that_look_alike_are_told() -> None:
    kabyle = "taεrict yeεna aεrab iɛedda aɛlal taɛekkemt " * 4
    (line,) = form_of(kabyle).remarks()
    assert "Greek ε (U+03B5) stands in Latin words, 12 times, beside Latin ɛ (U+025B), 12 times" in line
    assert "Latin a (U+0061) stands in Cyrillic words" in form_of("слaво слaва слaвить слава " * 4).remarks()[0]


@pytest.mark.parametrize(
    "text",
    [
        "Однажды in Paris он купил iPhone за 500 долларов, а она нет. ",
        "The angle α, the velocity ν, a μm of νe and kε; Δp = ρgh, γ-rays and β-carotene. ",
        "Ο Γιάννης έγραψε email στο Google και πήγε. ",
    ],
)
def test_text_in_several_scripts_is_no_mistake(text: str) -> None:
    assert form_of(text * 20).remarks() == []


def test_a_mark_within_the_text_is_told() -> None:
    assert "U+FEFF" in form_of(f"one file {MARK}another").remarks()[0]


def test_another_form_than_that_of_the_training_text_is_told() -> None:
    trained = form_of("Ein ältlicher Text, öd und übel.\n" * 9)
    (line,) = form_of("Ein Text\r\n" * 9).unlike(trained)
    assert line.startswith("100% of the lines of this text end in CR LF, of the training text's 0%")
    (line,) = form_of(unicodedata.normalize("NFD", "ältlich öde Übel\n")).unlike(trained)
    assert "apart from their letters" in line
    assert trained.unlike(trained) == []
    few = "Ein Text\n" * 95 + "Ein Text\r\n" * 5
    assert "5% of the lines" in form_of(few).unlike(trained)[0]
    assert form_of(few).unlike(form_of(few + "Ein Text\r\n" * 9)) == []  # two samples of a mixture


def test_another_letter_than_that_of_the_training_text_is_told() -> None:
    latin, greek = form_of("taɛrict yeɛna aɛrab " * 9), form_of("taεrict yeεna aεrab " * 9)
    assert latin.remarks() == greek.remarks() == []  # each is of one form
    assert "has Latin ɛ (U+025B) where the training text has Greek ε (U+03B5)" in latin.unlike(greek)[0]
    assert "has Greek ε (U+03B5) where the training text has Latin ɛ (U+025B)" in greek.unlike(latin)[0]


def test_a_form_survives_json_and_nothing_else_passes_for_one() -> None:
    form = form_of("taεrict aɛrab\r\n" * 9)
    assert Form.from_json(json.loads(json.dumps(form.to_json()))) == form
    for other in (None, [], {"lf": "1"}, {"letters": 3}):
        assert Form.from_json(other) is None


def test_remarks_are_told_when_a_text_is_prepared(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "a line\r\n" * 400)
    held = write(tmp_path / "b.txt", "a line\n" * 40)
    for _ in range(2):  # also where it comes from the cache
        said: list[str] = []
        prepare(DataConfig(sources=(path,), tokenizer="bytes", test=(held,)), progress=said.append)
        assert any("All lines end in CR LF" in line for line in said)
        assert any("0% of the lines of this test text end in CR LF" in line for line in said)


def test_bytes_that_are_no_text_have_no_form(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)) * 20)
    assert tokenize_sources([str(path)], train_tokenizer("bytes", [], 258)).form is None
