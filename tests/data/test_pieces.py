"""Long training documents are cut at line ends, so that a model learns how a text begins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.data import open_stream
from weft.data.config import DataConfig
from weft.data.documents import Fragment
from weft.data.pieces import cut_documents
from weft.data.prepare import prepare
from weft.data.segments import IGNORED

LINES = st.lists(st.text("ab ü", max_size=12), min_size=1, max_size=60)


@given(st.lists(LINES, min_size=1, max_size=4), st.integers(1, 40), st.integers(1, 50))
@settings(max_examples=80, deadline=None)
def test_pieces_are_the_documents_whatever_the_blocks(documents: list[list[str]], length: int, block: int) -> None:
    texts = [data for lines in documents if (data := "\n".join(lines).encode())]
    whole = [Fragment(True, text) for text in texts]
    parts = [Fragment(at == 0, text[at : at + block]) for text in texts for at in range(0, len(text), block)]
    pieces = list(cut_documents(whole, length))
    assert pieces == list(cut_documents(parts, length))
    assert all(piece.first for piece in pieces)
    joined: list[bytes] = []
    for piece in pieces:
        assert len(piece.data) <= 4 * length
        piece.data.decode()  # no character is cut
        if piece.continues:
            joined[-1] += piece.data
        else:
            joined.append(piece.data)
    assert joined == texts


def test_a_cut_is_at_a_line_end_and_short_documents_are_not_cut() -> None:
    text = b"".join(b"line %03d\n" % number for number in range(100))
    pieces = [piece.data for piece in cut_documents([Fragment(True, text)], 50)]
    assert pieces == [text[start : start + 54] for start in range(0, len(text), 54)]  # whole lines, six of nine bytes
    assert list(cut_documents([Fragment(True, text)], 0)) == [Fragment(True, text)]
    assert [piece.data for piece in cut_documents([Fragment(True, text)], 900)] == [text]


def test_a_text_with_hardly_a_blank_has_no_tiny_pieces() -> None:
    text = ("一 " + "漢" * 5000).encode()
    lengths = [len(piece.data) for piece in cut_documents([Fragment(True, text)], 1000)]
    assert min(lengths[:-1]) >= 1000
    assert sum(lengths) == len(text)


@pytest.fixture
def prepared(tmp_path: Path):
    """Fifty training documents, of which each second is longer than a piece."""
    path = tmp_path / "a.txt"
    documents = [
        "\n".join(f"line {line} of document {number}" for line in range(60 if number % 2 else 2))
        for number in range(240)
    ]
    path.write_text("\n\n\n".join(documents), encoding="utf-8")
    return prepare(DataConfig(sources=(str(path),), tokenizer="bytes", longest_document=300))


def test_training_text_is_cut_and_held_out_text_is_not(prepared) -> None:
    train = prepared.train
    lengths = np.diff(train.offsets) - 1
    assert lengths.max() < 400
    assert train.documents > train.ending_documents
    assert np.diff(prepared.test.offsets).max() > 1000
    assert prepared.test.continues is not None
    assert not prepared.test.continues.any()
    whole = train.ending_documents + prepared.validation.documents + prepared.test.documents
    assert whole == 240
    assert "240 documents" in prepared.summary


def test_the_end_of_a_document_is_a_target_and_a_cut_is_not(prepared) -> None:
    boundary = prepared.tokenizer.boundary_id
    stream = open_stream(prepared, batch_size=1, sequence_length=64, seed=0, predict_boundary=True)
    inputs, targets, resets = [], [], []
    while stream.epoch < 1:
        segment = next(stream)
        inputs.append(segment.inputs_BT[0])
        targets.append(segment.targets_BT[0])
        resets.append(segment.reset_BT[0])
    read, asked = np.concatenate(inputs), np.concatenate(targets)
    ends = cuts = 0
    for place in np.flatnonzero(read[1:] == boundary):
        before = prepared.tokenizer.decode(read[max(place - 40, 0) : place + 1])
        if asked[place] == boundary:
            ends += 1
            assert not before.endswith("\n")
        else:
            cuts += 1
            assert asked[place] == IGNORED
            assert before.endswith("\n")  # where a document was cut, its line end is still there
    assert cuts > 20
    assert ends > 150
    assert np.array_equal(np.concatenate(resets)[1:], (read == boundary)[1:])


def test_published_corpora_are_not_cut_unless_asked() -> None:
    assert DataConfig(sources=("enwik8",)).cut_above == 0
    assert DataConfig(sources=("enwik8",), longest_document=100).cut_above == 100
    assert DataConfig(sources=("a.txt",)).cut_above > 0
