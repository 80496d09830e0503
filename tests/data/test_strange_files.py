"""Names, pipes and links that no text can be read from are told in one sentence, and none is waited for."""

from __future__ import annotations

import gzip
import json
import os
import time

import pytest

from tests.command import assert_mistake, run_weft
from weft.data import tokenizer_training, train_tokenizer
from weft.data.hub import HubDataset, parse_source
from weft.data.sources import resolve_sources
from weft.errors import UserError


@pytest.mark.parametrize("name", ["a" * 5000, "a*" * 3000, "~nobody-of-this-name/text.txt", "weft:" + "a" * 5000])
def test_a_name_that_no_file_can_have_is_told(name):
    with pytest.raises(UserError, match="check the path") as mistake:
        resolve_sources([name])
    assert len(str(mistake.value)) < 250


def test_a_long_argument_is_told_wherever_a_path_may_stand(tmp_path):
    long, text = "a" * 5000, tmp_path / "text.txt"
    text.write_text("some text")
    for arguments in (
        ["evaluate", long],
        ["train", text, "--out", long],
        ["train", text, "--out", tmp_path / "run", "--recipe", long],
        ["train", text, "--out", tmp_path / "run", "--init-from", long],
    ):
        assert_mistake(run_weft(*arguments), "aaa", "File name too long")
    assert run_weft("describe", "qf" * 300, "--parameters", "100M").code == 0  # a pattern may be as long


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    for name in (str(tmp_path / "pipe.txt"), str(tmp_path), "/dev/zero"):
        with pytest.raises(UserError, match="is a pipe or a device"):
            resolve_sources([name])


def test_links_that_go_round_are_told_or_passed_over(tmp_path):
    (tmp_path / "to_itself.txt").symlink_to("to_itself.txt")
    for name in (str(tmp_path), f"{tmp_path}/*"):
        with pytest.raises(UserError, match=r"to_itself.txt' \(Too many levels of symbolic links\)"):
            resolve_sources([name])
    with pytest.raises(UserError, match="There is no file"):
        resolve_sources([str(tmp_path / "to_itself.txt")])


def test_two_asterisks_come_to_an_end_where_links_go_round(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "text.txt").write_text("some text")
    for name in ("ring", "other", "inner/third"):
        (tmp_path / name).symlink_to(tmp_path)
    for pattern in ("**", "**/*.txt", "**/**", "**/inner/**"):
        assert [file.path for file in resolve_sources([f"{tmp_path}/{pattern}"])] == [tmp_path / "inner" / "text.txt"]


@pytest.mark.parametrize("text", [b"a" * 2_000_000, b"acgt" * 500_000, b"-" * 2_000_000], ids=["a", "acgt", "-"])
def test_a_long_word_does_not_hold_the_trainer(text):
    begun = time.process_time()
    tokenizer = train_tokenizer("bpe", [text], 300, exact=False)
    assert time.process_time() - begun < 20  # once a word of 2,000,000 letters took many minutes
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(text[:5000])) == text[:5000]


@pytest.mark.parametrize("place", ["deep.jsonl", "folder/deep.jsonl", "deep.jsonl.gz"])
def test_a_deeply_nested_line_of_a_dataset_is_told(tmp_path, place):
    pytest.importorskip("datasets")
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    flat = json.dumps({"text": "[" * 500 + '\\"{'})
    lines = f'{flat}\n{{"text": "b", "x": {"[" * 100_000}{"]" * 100_000}}}\n'.encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    source = path.parent if place.startswith("folder") else path
    with pytest.raises(UserError, match="Line 2 of .* nests more than 64 deep"):
        HubDataset(parse_source(f"hf:{source}"))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_ordinary_text_gives_the_tokenizer_that_it_gave(corpus_text, monkeypatch, kind):
    documents = [corpus_text.encode()]
    bounded = train_tokenizer(kind, documents, 400).to_json()
    monkeypatch.setattr(tokenizer_training, "LONGEST_WORD", None)
    assert train_tokenizer(kind, documents, 400).to_json() == bounded
