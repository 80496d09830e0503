"""``weft merge``: dense maps that say the same."""

from __future__ import annotations

import pytest
import torch

import weft
from tests.command import assert_mistake, run_weft
from tests.conftest import MAPS, small_model
from weft.compress.merge import merge_maps
from weft.training.run import train


@pytest.mark.parametrize("pattern", ["fqafx", "f[qaf]2"])
@pytest.mark.parametrize("bias", [False, True])
def test_the_merged_model_says_the_same(pattern, bias):
    model = small_model(pattern, {"maps": MAPS, "bias": bias})
    merged = merge_maps(model)
    assert not merged.config.has_structured_maps
    tokens = torch.randint(0, 11, (2, 9))
    whole, ours = model(tokens)[0], merged(tokens)[0]
    torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-5 * whole.abs().max().item())
    assert merged.parameter_count == small_model(pattern, {"bias": bias}).parameter_count


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus_text):
    folder = tmp_path_factory.mktemp("merge")
    (folder / "text.txt").write_text(corpus_text)
    values = {
        "model": {"pattern": "fqaf", "hidden_size": 16, "maps": MAPS, "attention": {"window": 16}},
        "data": {"sources": [str(folder / "text.txt")], "tokenizer": "bytes"},
        "training": {
            "steps": 4,
            "batch": {"batch_size": 2, "sequence_length": 32},
            "logging": {"samples": 0},
            "precision": "fp32",
        },
    }
    train(values, folder / "run")
    return folder / "run"


def test_a_merged_run_scores_and_is_trained_on_from(run, tmp_path):
    ran = run_weft("merge", run, "--out", tmp_path / "dense", "--json")
    told = ran.json()
    assert told["parameters"] > told["before"]
    before, after = weft.evaluate(run), weft.evaluate(tmp_path / "dense")
    assert after.bits_per_byte == pytest.approx(before.bits_per_byte, rel=1e-6)
    text, further = run.parent / "text.txt", tmp_path / "further"
    further = run_weft("train", text, "--init-from", tmp_path / "dense", "--steps", 2, "--out", further)
    assert further.code == 0, further.err


def test_mistakes(run, tmp_path):
    weft.api.merge_factors(run, tmp_path / "dense")
    assert_mistake(run_weft("merge", run, "--out", tmp_path / "dense"), "already holds something")
    assert_mistake(run_weft("merge", tmp_path / "dense", "--out", tmp_path / "other"), "nothing to multiply out")
    assert_mistake(run_weft("train", "--out", tmp_path / "dense", "--resume"), "was made by 'weft merge", "--init-from")
