"""The compressors' figures mean what they say."""

from __future__ import annotations

import lzma
import random
import subprocess
import sys

import pytest

from weft.errors import UserError
from weft.evaluation.compressors import BASELINES, conditional_bits_per_byte, ppmd, xz

WORDS = ["guolli", "čáhci", "beaivi", "mánnu", "idja", "giella", "sápmi", "eatnu", "várri", "muohta"]


def text(seed: int, words: int) -> bytes:
    chosen = random.Random(seed).choices(WORDS, k=words)
    return " ".join(chosen).encode()


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("name", BASELINES)
def test_known_text_is_nearly_free_and_noise_costs_eight_bits(name):
    train = noise(0, 20_000)
    assert conditional_bits_per_byte(train, train, BASELINES[name]) < 0.2
    assert conditional_bits_per_byte(train, noise(1, 20_000), BASELINES[name]) == pytest.approx(8, abs=0.6)


@pytest.mark.parametrize("name", BASELINES)
def test_training_text_of_the_same_kind_helps(name):
    part = text(1, 300)
    alike = conditional_bits_per_byte(text(2, 3_000), part, BASELINES[name])
    assert alike < conditional_bits_per_byte(b"", part, BASELINES[name])


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
    with pytest.raises(UserError, match=r"weft\[demo\]"):
        ppmd(b"text")


def test_importing_is_light():
    code = "import sys, weft.evaluation.compressors; print({'torch', 'pyppmd'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
