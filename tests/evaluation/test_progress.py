"""How far scoring is: the share that is done, and the time that is left."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace

import pytest
from rich.console import Console

import weft
from tests.command import run_weft
from tests.conftest import small_model
from weft import terminal
from weft.data import train_tokenizer
from weft.evaluation import progress as progress_module
from weft.evaluation.adaptation import Adaptation
from weft.evaluation.progress import Progress
from weft.pretrained import save_model


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until it is set."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_the_time_left_is_told_by_the_pace_after_the_first_piece(clock):
    told = []
    progress = Progress(1000, lambda far: told.append((far.share, far.seconds_left)))
    assert math.isnan(progress.seconds_left)
    assert progress.share == 0
    for seconds, tokens in ((50.0, 100), (51.0, 100), (52.0, 100)):  # the first waits for its kernels
        clock.seconds = seconds
        progress(tokens)
    assert told == [(0.1, 450.0), (0.2, 8.0), (0.3, pytest.approx(7.0))]
    assert progress.seconds_per_token == pytest.approx(0.01)


@pytest.fixture
def scored(tmp_path):
    """A folder with a model over bytes, and a text of a few hundred bytes."""
    folder, text = tmp_path / "model", tmp_path / "text.txt"
    save_model(small_model("a", vocab_size=258), train_tokenizer("bytes", (), 258), folder)
    text.write_text("Ruoŧŧa lea riika. " * 30, encoding="utf-8")
    return folder, text


@pytest.mark.parametrize("adapt", [False, True, Adaptation(rate=0.01)], ids=["frozen", "mixed", "alone"])
def test_evaluating_tells_how_far_the_whole_is(scored, adapt):
    folder, text = scored
    shares, tokens = [], []
    told = weft.evaluate(folder, text, adapt=adapt, watch=lambda far: shares.append(far.share), progress=tokens.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert sum(tokens) == told.tokens * (1 if adapt is False else 2)
    if adapt:
        assert shares[0] < 0.1  # learning takes most of the time


def test_the_command_shows_the_share_and_the_time_left(scored, monkeypatch):
    folder, text = scored
    assert run_weft("evaluate", folder, text).err == ""  # done before anybody asks
    monkeypatch.setattr(terminal, "PLAIN_SECONDS", 0.0)
    shown = run_weft("evaluate", folder, text)
    assert "scoring the text: 100%, 0:00 left" in shown.err
    assert "bits per byte" in shown.out


def test_a_terminal_shows_a_bar_with_the_share_and_the_time_left(clock):
    console = Console(force_terminal=True, width=100, record=True, file=io.StringIO())
    with terminal.scoring(console) as watch:
        progress = Progress(1000, watch)
        for seconds, tokens in ((1.0, 100), (101.0, 100)):
            clock.seconds = seconds
            progress(tokens)
        console.print(terminal.describe_scoring("the text", progress))
    assert "scoring the text: 20%, 13:20 left" in console.export_text()
