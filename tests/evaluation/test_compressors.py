"""The compressors' figures mean what they say."""

from __future__ import annotations

import lzma
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from weft.data import DataConfig, iter_documents, prepare
from weft.errors import UserError
from weft.evaluation.compressors import COMPRESSORS, conditional_bits_per_byte, pack, ppmd, xz

WORDS = ["guolli", "čáhci", "beaivi", "mánnu", "idja", "giella", "sápmi", "eatnu", "várri", "muohta"]


def text(seed: int, words: int) -> bytes:
    chosen = random.Random(seed).choices(WORDS, k=words)
    return " ".join(chosen).encode()


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_known_text_is_nearly_free_and_noise_costs_eight_bits(name):
    train = noise(0, 20_000)
    assert conditional_bits_per_byte(train, train, COMPRESSORS[name]) < 0.2
    assert conditional_bits_per_byte(train, noise(1, 20_000), COMPRESSORS[name]) == pytest.approx(8, abs=0.6)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_training_text_of_the_same_kind_helps(name):
    part = text(1, 300)
    alike = conditional_bits_per_byte(text(2, 3_000), part, COMPRESSORS[name])
    assert alike < conditional_bits_per_byte(b"", part, COMPRESSORS[name])


def test_the_part_follows_the_training_text_directly():
    seen = []

    def spy(data: bytes) -> int:
        seen.append(data)
        return len(data)

    assert conditional_bits_per_byte(b"train", b"part", spy) == 8
    assert sorted(seen) == [b"train", b"trainpart"]


def test_an_empty_part_is_a_user_error():
    with pytest.raises(UserError, match="empty"):
        conditional_bits_per_byte(b"train", b"", xz)


def test_xz_is_preset_nine_extreme_on_small_inputs():
    data = text(3, 2_000)
    assert xz(data) == len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def test_xz_finds_a_repetition_a_whole_text_away(monkeypatch):
    monkeypatch.setattr("weft.evaluation.compressors.SMALLEST_DICTIONARY", 4096)
    data = noise(4, 50_000)
    assert xz(data + data) < 1.05 * xz(data)


def test_ppmd_uses_its_order():
    data = text(5, 3_000)
    assert ppmd(data, order=6) < ppmd(data, order=2)


def test_without_pyppmd_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyppmd", None)
    with pytest.raises(UserError, match=r"weft-lm\[demo\]"):
        ppmd(b"text")


@pytest.fixture
def prepared(tmp_path, corpus_text):
    source = tmp_path / "text.txt"
    source.write_text(corpus_text, encoding="utf-8")
    config = DataConfig(
        sources=(str(source),),
        tokenizer="bpe",
        vocab_size=300,
        document_separator="\n",
        split="documents",
        longest_document=200,  # pieces of a document follow each other without a separator
    )
    return config, prepare(config)


def test_a_text_is_packed_as_it_stands_in_the_files(prepared):
    config, data = prepared
    train, test = (b"\n".join(iter_documents(config, name)) for name in ("train", "test"))
    shares = []
    packed = pack(
        data.train,
        data.test,
        data.tokenizer,
        separator="\n",
        progress=lambda name, share: shares.append((name, share)),
    )
    assert packed.bits_per_byte == {
        name: conditional_bits_per_byte(train, test, compressor) for name, compressor in COMPRESSORS.items()
    }
    assert (packed.primed_bytes, packed.training_bytes) == (len(train), len(train))
    assert (packed.packed_bytes, packed.text_bytes) == (len(test), len(test))
    assert packed.notes == ()
    assert [share for name, share in shares if name == "xz -9e"][-1] == 1


def test_of_a_long_text_no_more_is_read_than_is_told(prepared, monkeypatch):
    monkeypatch.setattr("weft.evaluation.compressors.MOST_BYTES", 2000)
    _, data = prepared
    seen = []
    monkeypatch.setitem(COMPRESSORS, "xz -9e", lambda text, **_: seen.append(text) or xz(text))
    packed = pack(data.train, data.test, data.tokenizer)
    assert 1700 < packed.primed_bytes < 2300 < packed.training_bytes
    assert packed.notes == ("Of the training text the compressors read 2.0 kB of 9.2 kB, evenly from all of it.",)
    assert len(max(seen, key=len)) == packed.primed_bytes + packed.packed_bytes


def test_documents_that_go_on_in_another_split_are_parted_as_others_are(prepared, monkeypatch):
    _, data = prepared
    cut = replace(data.train, cut=np.ones(data.train.documents, dtype=bool))
    whole = pack(data.train, data.test, data.tokenizer).training_bytes
    monkeypatch.setattr("weft.evaluation.compressors.MOST_BYTES", 2000)
    assert pack(data.train, data.test, data.tokenizer).training_bytes == whole
    assert pack(cut, data.test, data.tokenizer).training_bytes == whole


def test_what_cannot_be_packed_is_told_in_a_sentence(prepared, monkeypatch):
    def full(text, progress=None):
        raise MemoryError

    _, data = prepared
    monkeypatch.setitem(sys.modules, "pyppmd", None)
    packed = pack(None, data.test, data.tokenizer, unprimed="Nothing was read before.")
    assert set(packed.bits_per_byte) == {"xz -9e"}
    assert packed.primed_bytes == 0
    missing = "PPMd needs the package pyppmd: install it with pip install 'weft-lm[demo]'."
    assert packed.notes == ("Nothing was read before.", missing)
    monkeypatch.setitem(COMPRESSORS, "xz -9e", full)
    assert "There was not enough memory for xz -9e." in pack(data.train, data.test, data.tokenizer).notes


def test_importing_is_light():
    code = "import sys, weft.evaluation.compressors; print({'torch', 'pyppmd'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
