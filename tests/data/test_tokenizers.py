from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.support import made_up_documents
from weft.data.config import CLOSED, TokenizerKind
from weft.data.documents import Fragment
from weft.data.pieces import LONGEST_PIECE_BYTES, PIECE_BYTES, cut_pieces
from weft.data.tokenizer_training import default_vocab_size, train_tokenizer
from weft.data.tokenizers import BOUNDARY, PADDING, Tokenizer
from weft.errors import UserError

KINDS: tuple[TokenizerKind, ...] = tuple(kind for kind in get_args(TokenizerKind) if kind != CLOSED)
TEXTS = st.lists(
    st.one_of(
        st.text(max_size=30),
        st.sampled_from([BOUNDARY, PADDING, "kami so", "रेक", "\r\n", "  \n\n ", " 2026", "e\u0301", "\u200d", "\0"]),
    ),
    max_size=8,
).map("".join)
"""Any Unicode, with the places where it hurts made frequent."""

ROOT = Path(__file__).parents[2]


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


_trained: dict[str, Tokenizer] = {}


def tokenizer_of(kind: TokenizerKind) -> Tokenizer:
    if kind not in _trained:
        size = 258 if kind == "bytes" else 300 if kind == "characters" else 400
        documents = [document.encode() for document in made_up_documents(100)]
        _trained[kind] = train_tokenizer(kind, documents, size, exact=False)
    return _trained[kind]


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return tokenizer_of(request.param)


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS)
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back_exactly(kind: TokenizerKind, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert b"".join(map(tokenizer.token_bytes, ids.tolist())) == text.encode()
    assert tokenizer.boundary_id not in ids
    assert tokenizer.padding_id not in ids


@given(st.binary())
def test_the_byte_kind_takes_any_bytes_and_its_ids_are_the_bytes(data: bytes) -> None:
    tokenizer = tokenizer_of("bytes")
    ids = tokenizer.encode_bytes(data)
    assert ids.tolist() == list(data)
    assert tokenizer.decode_bytes(ids) == data
    assert tokenizer.decode_bytes([*ids.tolist(), 256, 257]) == data


@given(TEXTS)
@settings(max_examples=40, deadline=None)
def test_the_fast_path_of_bytes_equals_the_library(text: str) -> None:
    tokenizer = tokenizer_of("bytes")
    assert tokenizer.encode(text).tolist() == tokenizer.backend.encode(text).ids


def test_every_kind_begins_with_the_bytes_and_ends_with_the_special_tokens(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_bytes(i) for i in range(256)] == [bytes([i]) for i in range(256)]
    size = tokenizer.vocab_size
    assert (tokenizer.boundary_id, tokenizer.padding_id) == (size - 2, size - 1)
    assert tokenizer.decode([tokenizer.boundary_id, 65, tokenizer.padding_id]) == "A"
    assert tokenizer.token_bytes(tokenizer.boundary_id) == b""
    if tokenizer.kind != "bytes":
        assert size > 258
        assert max(len(tokenizer.token_bytes(i)) for i in range(size)) > 1


def test_kinds_other_than_bytes_refuse_what_is_not_utf8() -> None:
    with pytest.raises(UnicodeDecodeError):
        tokenizer_of("bpe").encode_bytes(b"\xff")
    assert tokenizer_of("bpe").decode([0xE9]) == "�"


def test_characters_are_one_token_each_and_words_too() -> None:
    assert len(tokenizer_of("characters").encode("漢字жи")) == 4
    words = tokenizer_of("words")
    text = made_up_documents(1)[0].split(".")[0]
    known = [word for word in text.split() if len(words.encode(" " + word)) == 1]
    assert known


def test_training_is_deterministic_across_processes() -> None:
    code = (
        "from tests.data.support import made_up_documents\n"
        "from weft.data import train_tokenizer\n"
        "documents = [text.encode() for text in made_up_documents(60)]\n"
        "for kind in ('characters', 'words', 'bpe', 'unigram'):\n"
        "    print(train_tokenizer(kind, documents, 350, exact=False).to_json())\n"
    )
    runs = [python(code) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout) > 10_000
    assert not runs[0].stderr


@pytest.mark.parametrize("kind", ["characters", "words", "bpe", "unigram"])
def test_a_vocabulary_the_text_cannot_fill_names_the_largest(kind: TokenizerKind) -> None:
    documents = [text.encode() for text in made_up_documents(20)]
    most = train_tokenizer(kind, documents, 5000, exact=False).vocab_size
    assert 258 < most < 5000
    with pytest.raises(UserError, match=f"at most {most} tokens"):
        train_tokenizer(kind, documents, 5000)
    assert train_tokenizer(kind, documents, most).vocab_size == most
    assert train_tokenizer(kind, documents, most - 1).vocab_size == most - 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_vocabulary_is_bytes_and_special_tokens(kind: TokenizerKind) -> None:
    assert train_tokenizer(kind, [b"some text, some text"], 258).vocab_size == 258
    with pytest.raises(UserError, match="258 or more"):
        train_tokenizer(kind, [b"some text"], 257)
    if kind == "bytes":
        with pytest.raises(UserError, match="at most 258"):
            train_tokenizer(kind, [], 512)


def test_the_default_vocabulary_grows_with_the_text() -> None:
    sizes = [default_vocab_size(size) for size in (0, 10_000, 600_000, 2_000_000, 5_000_000, 10**9)]
    assert sizes == [512, 512, 512, 2048, 4096, 8192]


# Files


def test_save_and_load_give_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t")
    again = Tokenizer.load(tmp_path / "t")
    assert (again.kind, again.vocab_size) == (tokenizer.kind, tokenizer.vocab_size)
    assert again.to_json() == tokenizer.to_json()
    text = f"kami {BOUNDARY} रेक 7\n"
    assert again.encode(text).tolist() == tokenizer.encode(text).tolist()


def test_transformers_reads_the_folder_and_agrees(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs: Any = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.is_fast
    assert len(theirs) == tokenizer.vocab_size
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (
        tokenizer.boundary_id,
        tokenizer.boundary_id,
        tokenizer.padding_id,
    )
    for text in (*made_up_documents(3), f"a {BOUNDARY[:-1]} b{PADDING[1:]}", "  \n\n ünseen 🜀 ", " lead"):
        encoded = theirs(text, return_offsets_mapping=True)
        assert encoded["input_ids"] == [tokenizer.boundary_id, *tokenizer.encode(text).tolist()]
        assert theirs.decode(encoded["input_ids"], skip_special_tokens=True) == text
        covered = {i for start, end in encoded["offset_mapping"] for i in range(start, end)}
        assert covered == set(range(len(text)))
        starts = [start for start, _ in encoded["offset_mapping"]]
        assert starts == sorted(starts)
    theirs.save_pretrained(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").kind == tokenizer.kind


def test_to_transformers_a_special_token_in_a_text_is_that_token_and_to_us_it_is_text(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Trainers and chat templates write ``eos_token`` at the end of a text; ours never makes a token of a text."""
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    boundary, inside = tokenizer.boundary_id, tokenizer.encode("kami").tolist()
    for folder in (tmp_path, tmp_path / "again"):
        theirs: Any = transformers.AutoTokenizer.from_pretrained(folder)
        assert theirs("kami" + theirs.eos_token)["input_ids"] == [boundary, *inside, boundary]
        assert theirs(f"kami{PADDING}kami")["input_ids"] == [boundary, *inside, tokenizer.padding_id, *inside]
        messages = [{"role": "user", "content": "kami"}]
        template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
        chat = theirs.apply_chat_template(messages, chat_template=template)
        assert chat["input_ids"] == [boundary, *inside, boundary]
        spelled = [boundary, *Tokenizer.load(folder).encode(f"kami{BOUNDARY}").tolist()]
        assert theirs(f"kami{BOUNDARY}", split_special_tokens=True)["input_ids"] == spelled
        assert spelled.count(boundary) == 1
        assert tokenizer.decode(spelled) == f"kami{BOUNDARY}"


def test_a_folder_that_spelled_special_tokens_is_brought_up_to_date_by_saving_its_tokenizer(tmp_path: Path) -> None:
    saved = tokenizer_of("bpe")
    saved.save(str(tmp_path))
    config = tmp_path / "tokenizer_config.json"
    now = config.read_text()
    config.write_text(now.replace('"split_special_tokens": false', '"split_special_tokens": true'))
    assert config.read_text() != now
    again = Tokenizer.load(str(tmp_path))
    assert again.to_json() == saved.to_json()
    again.save(tmp_path)
    assert config.read_text() == now


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "no readable"),
        ("tokenizer.json", "{}", "damaged"),
        ("tokenizer_config.json", "{", "no readable"),
        ("tokenizer_config.json", "{}", "not made by Weft"),
    ],
)
def test_a_folder_without_our_tokenizer_is_an_error(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    tokenizer_of("bytes").save(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


# Long texts


def long_texts() -> list[str]:
    lines = "\n".join(made_up_documents(2000))
    unbroken = "ŋ漢" * 900_000
    return [lines, unbroken, lines[:70_000] + "\n\n  \n" + unbroken[:100] + "\n" + lines]


@pytest.mark.parametrize("block", [50_021, 1 << 20])
def test_pieces_do_not_depend_on_how_the_bytes_stream_by(block: int) -> None:
    for text in long_texts():
        data = text.encode()
        whole = list(cut_pieces([Fragment(True, data)]))
        parts = [Fragment(at == 0, data[at : at + block]) for at in range(0, len(data), block)]
        assert list(cut_pieces(parts)) == whole
        assert b"".join(piece.data for piece in whole) == data
        assert [piece.first for piece in whole] == [True] + [False] * (len(whole) - 1)
        assert max(len(piece.data) for piece in whole) <= LONGEST_PIECE_BYTES
        assert min(len(piece.data) for piece in whole[:-1]) >= PIECE_BYTES
        assert all(piece.data.decode() for piece in whole)


def test_pieces_never_join_two_documents() -> None:
    fragments = [Fragment(True, b"a"), Fragment(False, b"b"), Fragment(True, b"c")]
    assert list(cut_pieces(fragments)) == [Fragment(True, b"ab"), Fragment(True, b"c")]


def test_encoding_a_stream_equals_encoding_the_whole(tokenizer: Tokenizer) -> None:
    text = "\n".join(made_up_documents(700))
    data = text.encode()
    assert len(data) > 2 * PIECE_BYTES
    parts = [Fragment(at == 0, data[at : at + 9973]) for at in range(0, len(data), 9973)]
    streamed = np.concatenate([ids for _, ids in tokenizer.encode_stream(cut_pieces(parts))])
    assert streamed.tolist() == tokenizer.encode(text).tolist()
    assert streamed.tolist() == tokenizer.backend.encode(text).ids  # the cuts are where no token spans
    assert tokenizer.decode(streamed) == text


def test_a_fork_after_encoding_is_silent_and_the_users_choice_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    tokenizer_of("bpe").encode("text")
    assert os.environ["TOKENIZERS_PARALLELISM"] == "off"
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    tokenizer_of("bpe").encode("text")
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


def test_importing_the_room_is_light() -> None:
    names = "('torch', 'tokenizers', 'transformers', 'zstandard')"
    done = python(f"import sys, weft.data; print([name for name in {names} if name in sys.modules])")
    assert done.stdout.strip() == "[]"
