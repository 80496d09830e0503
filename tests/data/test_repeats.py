"""What of the held-out text stands in the training text too, and how unlike the two are, is told."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from weft.data.config import DataConfig
from weft.data.prepare import PreparedData, prepare

SHARED = "This line stands in the training text and in the test text: {}."
OWN = "No other text has this line, which is number {} of the text."


def prepared(tmp_path: Path, test: list[str], train: list[str], **settings) -> PreparedData:
    paths = {}
    for name, lines in {"train": train, "validation": [OWN.format(-n) for n in range(40)], "test": test}.items():
        paths[name] = tmp_path / f"{name}.txt"
        paths[name].write_text("\n".join(lines), encoding="utf-8")
    held_out = {name: str(paths[name]) for name in ("validation", "test")}
    return prepare(
        DataConfig(sources=(str(paths["train"]),), **held_out, **{"tokenizer": "bpe", "split": "tail", **settings})
    )


def train_lines() -> list[str]:
    return [SHARED.format(number) for number in range(30)] + [OWN.format(number) for number in range(100, 400)]


@pytest.mark.parametrize("tokenizer", ["bpe", "bytes", "words"])
def test_the_tokens_of_repeated_lines_are_marked(tmp_path: Path, tokenizer: str) -> None:
    lines = [OWN.format(number) for number in range(20)]
    lines[3:3] = [SHARED.format(3), SHARED.format(4)]
    lines[9:9] = ["short"]  # which is no repeat, though the training text has it too
    data = prepared(tmp_path, lines, [*train_lines(), "short"], tokenizer=tokenizer)
    assert data.test.repeated is not None
    repeated = data.tokenizer.decode(np.asarray(data.test.tokens)[data.test.repeated])
    assert repeated == f"{SHARED.format(3)}\n{SHARED.format(4)}\n"
    assert data.test.repeated_bytes == len(repeated)
    assert len(data.test.repeated) == len(data.test.tokens)
    assert data.validation.repeated_bytes == 0
    assert data.train.repeated is None
    (remark,) = [remark for remark in data.remarks if "training text too" in remark]
    assert remark.startswith("2 lines of the test text (")
    assert "without them" in remark


def test_a_line_that_is_a_document_counts_however_short(tmp_path: Path) -> None:
    train = [*train_lines(), "Ih.", "Uhu."]
    data = prepared(tmp_path, [OWN.format(1), "Ih.", OWN.format(2)], train, document_separator="\n")
    assert data.test.repeated is not None
    assert data.tokenizer.decode(np.asarray(data.test.tokens)[data.test.repeated]) == "Ih."


def test_blank_documents_repeat_nothing(tmp_path: Path) -> None:
    train = [*train_lines(), " "]
    data = prepared(tmp_path, [OWN.format(1), " ", OWN.format(2)], train, document_separator="\n")
    assert data.test.repeated_bytes == 0


def test_a_text_that_is_all_repeated_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    once = "".join(OWN.format(number) + "\n" for number in range(150))
    path.write_text(once * 6, encoding="utf-8")
    data = prepare(DataConfig(sources=(str(path),), split="blocks"))
    assert data.test.repeated_bytes == data.test.bytes
    assert any("its figures say nothing of new text" in remark for remark in data.remarks)
    # As documents, equal lines fall on one side.
    assert not any("training text too" in remark for remark in prepare(DataConfig(sources=(str(path),))).remarks)


def test_a_few_repeated_bytes_are_no_remark(tmp_path: Path) -> None:
    data = prepared(tmp_path, [OWN.format(number) for number in range(400, 900)] + [SHARED.format(1)], train_lines())
    assert data.test.repeated_bytes > 0
    assert not [remark for remark in data.remarks if "training text too" in remark]


def test_held_out_text_of_another_alphabet_is_told(tmp_path: Path) -> None:
    draw = random.Random(0)

    def lines(letters: str, count: int) -> list[str]:
        return ["".join(draw.choices(letters, k=60)) for _ in range(count)]

    cyrillic, latin = "абвгдежзиј ", "abcdefghij "
    data = prepared(tmp_path, lines(cyrillic, 30) + lines(latin, 15), lines(cyrillic, 400))
    (remark,) = [remark for remark in data.remarks if remark.startswith("The test text is unlike")]
    assert "another kind of text" in remark
    like = prepared(tmp_path, lines(cyrillic, 45), lines(cyrillic, 400))
    assert not [remark for remark in like.remarks if remark.startswith("The test text is unlike")]
