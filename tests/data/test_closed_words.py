from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.support import made_up_documents
from weft.data.closed_words import train_closed_words
from weft.data.config import DataConfig
from weft.data.documents import Fragment
from weft.data.pieces import LONGEST_PIECE_BYTES, PIECE_BYTES, cut_pieces
from weft.data.prepare import prepare, tokenize_sources
from weft.data.tokenizer_training import train_tokenizer
from weft.data.tokenizers import BOUNDARY, PADDING, Tokenizer
from weft.errors import UserError

TEXT = " the cat saw the <unk> \n \n Ŋu the cat , the 漢 \n Ŋu\n"


def words_of(tokenizer: Tokenizer) -> list[str]:
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=True)
    return sorted(vocabulary, key=vocabulary.__getitem__)


def test_the_vocabulary_falls_in_frequency_and_ties_stand_in_order() -> None:
    tokenizer = train_closed_words([TEXT.encode()])
    most, ties, once = ["<eos>", "the"], ["cat", "Ŋu"], [",", "<unk>", "saw", "漢"]
    assert words_of(tokenizer) == [*most, *ties, *once, BOUNDARY, PADDING]
    assert (tokenizer.boundary_id, tokenizer.padding_id, tokenizer.unknown_id) == (8, 9, 5)


def test_a_text_without_unk_leaves_out_what_occurs_once() -> None:
    assert words_of(train_closed_words([b"b a b c c\nb"])) == ["b", "c", "<eos>", "<unk>", BOUNDARY, PADDING]


def test_a_smaller_vocabulary_keeps_the_most_frequent_and_the_special_words() -> None:
    assert words_of(train_closed_words([TEXT.encode()], 6)) == ["<eos>", "the", "cat", "<unk>", BOUNDARY, PADDING]
    assert "a" in words_of(train_closed_words([b"b a b a <unk>"], 5))
    with pytest.raises(UserError, match="at most 10 tokens of kind closed-words, not 11"):
        train_tokenizer("closed-words", [TEXT.encode()], 11)
    assert train_tokenizer("closed-words", [TEXT.encode()], 11, exact=False).vocab_size == 10
    with pytest.raises(UserError, match="vocab_size 5 or more"):
        train_closed_words([TEXT.encode()], 4)


def test_the_special_tokens_spelled_in_a_text_are_unknown_words() -> None:
    text = f"{BOUNDARY} a {PADDING} a {BOUNDARY} {PADDING} <unk>"
    tokenizer = train_closed_words([text.encode()])
    assert words_of(tokenizer) == ["a", "<unk>", "<eos>", BOUNDARY, PADDING]
    assert tokenizer.decode(tokenizer.encode(text)) == " <unk> a <unk> a <unk> <unk> <unk>"


WORDS = st.sampled_from(["the", "cat", "Ŋu", "漢", ",", "unseen", "é", "<unk>"])
BLANKS = st.sampled_from([" ", "  ", "\n", " \n ", "\n\n", "\t", "\r\n", "\u3000"])


@given(st.lists(st.tuples(BLANKS, WORDS), max_size=20), BLANKS)
@settings(max_examples=80, deadline=None)
def test_words_lie_between_white_space_and_line_ends_are_words(parts: list[tuple[str, str]], last: str) -> None:
    tokenizer = train_closed_words([TEXT.encode()])
    text = "".join(blank + word for blank, word in parts) + last
    names = words_of(tokenizer)
    expected = [
        word if word in names else "<unk>"
        for index, line in enumerate(text.split("\n"))
        for word in ([] if index == 0 else ["<eos>"]) + line.split()
    ]
    ids = tokenizer.encode(text)
    assert [names[i] for i in ids] == expected
    shown = "".join(" \n" if word == "<eos>" else f" {word}" for word in expected)
    assert tokenizer.decode(ids) == shown
    assert b"".join(map(tokenizer.token_bytes, ids.tolist())).decode() == shown


def test_text_with_the_spacing_of_wikitext_comes_back_to_the_byte() -> None:
    text = " \n = Title = \n \n A cat , the <unk> . \n"
    tokenizer = train_closed_words([text.encode()])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_transformers_reads_the_folder_and_offsets_are_right(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = train_closed_words([TEXT.encode()])
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert (again.kind, again.vocab_size, again.to_json()) == ("closed-words", 10, tokenizer.to_json())
    theirs: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.is_fast, len(theirs)) == (True, tokenizer.vocab_size)
    for text in (TEXT, "the unseen\n\n  cat", f"漢 {BOUNDARY[1:]}\r\n"):
        encoded = theirs(text, return_offsets_mapping=True, add_special_tokens=False)
        assert encoded["input_ids"] == tokenizer.encode(text).tolist()
        pieces = [text[start:end] for start, end in encoded["offset_mapping"]]
        assert pieces == spelled(text)
        assert theirs.decode(encoded["input_ids"]) == tokenizer.decode(tokenizer.encode(text))


def spelled(text: str) -> list[str]:
    """The words and line ends of a text, as they stand in it."""
    return [part for part in text.replace("\r", "").replace("\n", " \n ").split(" ") if part == "\n" or part.strip()]


# Long texts


def test_pieces_end_between_words_however_the_bytes_stream_by() -> None:
    lines = " \n".join([" = a = ", *made_up_documents(1500)]).replace("\n", " \n ")
    unbroken = "漢字 " * 400_000
    for text in (lines, unbroken):
        data = text.encode()
        whole = list(cut_pieces([Fragment(True, data)], between_words=True))
        assert len(whole) > 1
        for block in (50_021, 1 << 20):
            parts = [Fragment(at == 0, data[at : at + block]) for at in range(0, len(data), block)]
            assert list(cut_pieces(parts, between_words=True)) == whole
        assert b"".join(piece.data for piece in whole) == data
        assert all(piece.data[-1:] in b" \n" for piece in whole[:-1])
        assert min(len(piece.data) for piece in whole[:-1]) >= PIECE_BYTES
        assert max(len(piece.data) for piece in whole) <= LONGEST_PIECE_BYTES


def test_a_long_text_is_encoded_as_it_would_be_whole() -> None:
    text = " \n ".join(made_up_documents(1500)).replace("\n", " \n ")
    tokenizer = train_closed_words([text.encode()])
    assert len(text.encode()) > 2 * PIECE_BYTES
    assert tokenizer.encode(text).tolist() == tokenizer.backend.encode(text).ids


# A text of one's own


def test_any_text_can_be_read_over_closed_words(tmp_path: Path, documents: list[str]) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n\n".join(documents), "utf-8")
    data = prepare(DataConfig(sources=(str(path),), tokenizer="closed-words", vocab_size=100))
    assert data.tokenizer.vocab_size == 100
    for split in (data.train, data.validation, data.test):
        assert split.words == split.scored_tokens
        assert split.unknown_words == np.count_nonzero(split.tokens == data.tokenizer.unknown_id)
        assert split.unknown_words
    total = sum(split.unknown_words for split in (data.train, data.validation, data.test))
    assert f"{total:,} words outside the vocabulary are read as <unk>" in data.summary


def test_unk_that_stands_in_the_text_is_no_unknown_word(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("the <unk> saw the dog\n", "utf-8")
    split = tokenize_sources([str(path)], train_closed_words([TEXT.encode()]))
    assert (split.unknown_words, split.words) == (1, 5)  # the line end around a document belongs to the separator
