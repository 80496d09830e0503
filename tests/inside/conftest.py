"""A small run that some steps have taught something."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import SHORT, SMALL, TEXT
from tests.command import run_weft


@pytest.fixture(scope="package")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    corpus = tmp_path_factory.mktemp("texts") / "corpus.txt"
    corpus.write_text(TEXT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        ran = run_weft("train", corpus, "--out", folder, "--steps", 30, *SMALL, *SHORT)
    assert ran.code == 0, ran.err
    return folder


@pytest.fixture
def run(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"
