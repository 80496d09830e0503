"""A corpus, and a run that the command line trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import Ran, run_weft

TEXT = "\n\n\n".join(f"Number {n}: the weaver threw the shuttle {n * n} times,\nand the cloth grew." for n in range(60))
SMALL = ["--tokenizer", "bytes", "--pattern", "qfa", "--set", "model.hidden_size=16"]
SMALL += ["--set", "training.precision=fp32"]
SHORT = ["--set", "model.attention.window=16", "--set", "training.batch.batch_size=4"]
SHORT += ["--set", "training.batch.sequence_length=32"]


@pytest.fixture(scope="package")
def corpus(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "corpus.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="package")
def trained(tmp_path_factory, corpus) -> tuple[Path, Ran]:
    """A run that the command line trained, cut short by the environment, and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("WEFT_MAX_STEPS", "3")
        ran = run_weft("train", corpus, "--out", folder, "--steps", 500, *SMALL, *SHORT)
    assert ran.code == 0, ran.err
    return folder, ran


@pytest.fixture(scope="package")
def run(trained) -> Path:
    return trained[0]


@pytest.fixture
def ascii_file(tmp_path) -> Path:
    path = tmp_path / "more.txt"
    path.write_text("It's 'quoted', \\ and\n\ttabbed.", encoding="utf-8")
    return path
