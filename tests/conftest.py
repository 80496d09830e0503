"""One thread a worker (the suite runs with ``-n 2``), a cache of its own, and helpers to make small models."""

from __future__ import annotations

import lzma
import os
import shutil
import signal
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import Tensor

from weft.architectures import PRESETS
from weft.blocks import Block
from weft.config import ModelConfig, merge
from weft.model import WeftModel, build
from weft.sizing import configure

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a shell's background, where nothing could be interrupted
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Settings under which every part of every block does something.
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "attention": {"num_heads": 2, "head_dim": 8, "window": 5},
    "feed_forward": {"inner_size": 24},
    "qrnn": {"cell_size": 12, "kernel_size": 2},
    "attn_qrnn": {"attention_size": 8, "num_heads": 2},
}


# Every map of every block of a kind of its own; a feed-forward that stays dense comes first.
MAPS: dict[str, Any] = {
    "feed_forward": {"kind": "block_shuffle", "blocks": 2},
    "attention": {"kind": "low_rank", "rank": 5},
    "qrnn": {"kind": "block_dense", "blocks": 2, "rank": 6},
}


BIGRAMS: dict[str, Any] = {"heads": 2, "clusters": 5, "table_size": 13, "width": 3}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep tests away from the user's cache."""
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def browser():
    """A real browser, where there is one."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    if executable is None:
        pytest.skip("no Chromium or Chrome is installed")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def corpus_text() -> str:
    """Ten kilobytes of the bundled corpus."""
    packed = (files("weft") / "corpora" / "sewiki.txt.xz").read_bytes()
    return lzma.decompress(packed)[:10_000].decode("utf-8", "ignore")


def small_config(
    pattern: str, settings: Mapping[str, Any] | None = None, preset: str = "modern", vocab_size: int = 11
) -> ModelConfig:
    """Return a small configuration of ``pattern``."""
    return configure(pattern, vocab_size, merge(merge(PRESETS[preset], SMALL), settings or {}))


def block_by_hand(block: Block, x_BTD: Tensor, mixed_BTD: Tensor) -> Tensor:
    """Return what a block gives that adds ``mixed_BTD`` to its input: normed behind where it is not normed before."""
    return x_BTD + mixed_BTD if block.pre_norm else block.norm(x_BTD + mixed_BTD)


def block_case(kind: str, settings: Mapping[str, Any], preset: str) -> tuple[Block, Tensor, Tensor]:
    """Return the block of a small model, an input (2, 5, 16), and what the block reads: the input, normed or not."""
    block = small_model(kind, settings, preset).blocks[0]
    assert isinstance(block, Block)
    x_BTD = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    return block, x_BTD, block.norm(x_BTD) if preset == "modern" else x_BTD


def small_model(
    pattern: str,
    settings: Mapping[str, Any] | None = None,
    preset: str = "modern",
    seed: int = 0,
    **kwargs: Any,
) -> WeftModel:
    """Return a small model in which nothing is zero, so that every path can show itself."""
    model = build(small_config(pattern, settings, preset, **kwargs), seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
        for parameter in model.embedding.parameters():
            if parameter.dim() > 1:
                parameter.normal_(generator=generator)
        for parameter in model.ngrams.parameters() if model.ngrams else ():
            parameter.normal_(generator=generator)
    return model


def mixed_model(
    pattern: str,
    own: Mapping[int, Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
    preset: str = "modern",
) -> WeftModel:
    """Return a small model in which the blocks of these numbers have settings of their own."""
    model = small_model(pattern, settings, preset)
    for number, changes in own.items():
        other = small_model(pattern, merge(settings or {}, changes), preset, seed=number + 1)
        model.blocks[number] = other.blocks[number]
    model.config = model.config.with_blocks(tuple(block.config for block in model.own_blocks))
    return model
