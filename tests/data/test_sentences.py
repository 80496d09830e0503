from __future__ import annotations

import random
import textwrap
from pathlib import Path

import pytest

from weft.data.config import DataConfig
from weft.data.prepare import prepare
from weft.data.sentences import shape_of
from weft.data.splits import Corpus, iter_documents

WORDS = ["kra", "tisedi", "tasint", "amcic", "axxam", "aman", "tafukt", "iger", "asif", "adrar", "agdud", "aseggas"]


def sentence(draw: random.Random, *, most: int = 9, sign: str = ".") -> str:
    count = draw.randint(2, most)
    return " ".join(draw.choices(WORDS, k=count)).capitalize() + f" {draw.randint(0, 10**6)}{sign}"


def sentences(count: int, sign: str = ".") -> list[str]:
    draw = random.Random(1)
    return [sentence(draw, sign=sign) for _ in range(count)]


def novel(paragraphs: int) -> list[str]:
    """Paragraphs of several sentences, each of which takes up words of the one before."""
    draw = random.Random(2)
    told, topic = [], "Sidi"
    for _ in range(paragraphs):
        told.append(" ".join(f"{topic} {sentence(draw, most=14)}" for _ in range(draw.randint(1, 9))))
        topic = draw.choice(told[-1].split())
    return told


def chained_lines(count: int) -> list[str]:
    """Short lines without signs, as of a song: each says again most of what the one before said."""
    draw = random.Random(3)
    line = draw.choices(WORDS, k=6)
    told = []
    for number in range(count):
        line = [*line[1:], f"{draw.choice(WORDS)}{number % 57}"]
        told.append(" ".join(line))
    return told


def shape(lines: list[str]):
    return shape_of(iter(["\n".join(lines).encode()]))


def test_lists_of_sentences_are_told_from_running_text() -> None:
    assert shape(sentences(500)).is_list
    assert shape(sentences(500, sign="。")).is_list
    assert not shape(sentences(150)).is_list  # too few to tell
    assert not shape(novel(500)).is_list
    wrapped = [line for paragraph in novel(500) for line in textwrap.wrap(paragraph, 72)]
    assert not shape(wrapped).is_list
    apart = [line for text in sentences(500) for line in (text, "")]
    assert not shape(apart).is_list  # blank lines are structure


def test_without_signs_the_order_of_the_lines_tells() -> None:
    assert shape(sentences(500, sign="")).is_list
    assert "no more words with the next" in shape(sentences(500, sign="")).describe()
    assert not shape(chained_lines(500)).is_list


def test_armenian_sentences_end_with_a_colon_and_lists_of_items_do_not() -> None:
    armenian = [f"Բարեւ աշխարհ {number} տուն:" for number in range(300)]
    assert shape(armenian).ending == 1
    assert shape([f"key {number}:" for number in range(300)]).ending == 0


def test_only_the_beginning_of_each_block_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.data import sentences as module

    monkeypatch.setattr(module, "SAMPLED_BYTES", 100)
    blocks = [b"one. line\n" * 50, b"gment\ntwo.\n" * 50]
    told = shape_of(iter(blocks))
    assert told.lines == 10 + 17  # the first line of the second block began in the one before, the last is cut


def test_a_list_with_running_text_behind_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from weft.data import sentences as module

    monkeypatch.setattr(module, "MOST_SAMPLED", 4800)
    blocks = ["\n".join(sentences(300)).encode()] * 5 + ["\n".join(novel(300)).encode()] * 35
    assert shape_of(iter(blocks[:1])).is_list
    assert not shape_of(iter(blocks)).is_list


def test_the_lines_of_a_list_are_documents_and_fall_by_their_content(tmp_path: Path) -> None:
    lines = sentences(600)
    path = tmp_path / "kab.txt"
    # Its end is sorted, and some lines stand twice.
    path.write_text("\n".join([*lines[:300], *sorted(lines[300:]), *lines[:40]]) + "\n", encoding="utf-8")
    config = DataConfig(sources=(str(path),))
    parts = [
        [document.decode() for document in iter_documents(config, part)] for part in ("train", "validation", "test")
    ]
    assert sorted(parts[0] + parts[1] + parts[2]) == sorted([*lines, *lines[:40]])
    assert min(map(len, parts)) > 10
    assert not set(parts[0]) & set(parts[1] + parts[2])
    data = prepare(config)
    assert data.settled["split"] == "documents"
    assert data.settled["document_separator"] == "\n"
    assert "a list of sentences: its lines are short" in data.summary
    # What was settled splits the same text the same way, without looking at it again.
    again = DataConfig(sources=(str(path),), **data.settled)
    assert [document.decode() for document in iter_documents(again, "test")] == parts[2]
    assert "each line is a document" in prepare(again).summary


def test_what_is_asked_for_is_not_second_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(sentences(600)), encoding="utf-8")
    for asked in ({"split": "tail"}, {"split": "blocks"}, {"document_separator": "\n\n"}):
        corpus = Corpus(DataConfig(sources=(str(path),), **asked), any_bytes=False)
        assert corpus.layout.document_separator == asked.get("document_separator", "\n\n\n")
    novels = tmp_path / "b.txt"
    novels.write_text("\n".join(novel(300)), encoding="utf-8")
    both = Corpus(DataConfig(sources=(str(path), str(novels))), any_bytes=False)
    assert both.rule == "blocks"  # one of the files is no list
