"""What is validated on while training: little enough, the same all the way, and not what is reported at the end."""

from __future__ import annotations

import hashlib
import io
import json
import math
import random
import signal

import numpy as np
import pytest
from rich.console import Console

import weft
from tests.training.test_run import Hear, StopAt, assert_same_run
from weft import terminal
from weft.config import merge
from weft.errors import Interrupted
from weft.evaluation import scoring
from weft.training import objective, validation
from weft.training.recipe import TrainingConfig
from weft.training.run import train
from weft.training.validation import COST, FEWEST, MOST, Sample, choose_sample


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("validations", [1, 4, 10])
def test_all_validations_together_take_at_most_a_tenth(bf16, processes, validations):
    config = TrainingConfig(logging={"validations": validations})
    sizes = []
    for trained in (1e6, 1e7, 1e10):
        tokens = choose_sample(config, trained, bf16=bf16, processes=processes).tokens
        if tokens > FEWEST:
            assert processes * validations * tokens * COST[bf16] <= 0.1 * trained + processes * validations
        sizes.append(tokens)
    assert sizes == sorted(sizes)
    assert FEWEST <= sizes[0] <= sizes[-1] == MOST


def test_what_is_given_and_the_demonstration_stay_as_they_were():
    assert choose_sample(TrainingConfig(logging={"validation_tokens": 10**6}), 1000, bf16=True, processes=1) == Sample(
        10**6
    )
    demo = TrainingConfig(tokens=1_300_000, logging={"validations": 4})
    for bf16 in (False, True):
        assert choose_sample(demo, 1_300_000, bf16=bf16, processes=1).tokens > 44_027  # those of its validation text


@pytest.fixture
def scored(monkeypatch):
    """Let tiny samples be taken, and keep the splits that are scored while training."""
    monkeypatch.setattr(validation, "FEWEST", 100)
    monkeypatch.setattr(scoring, "PIECE", 20)
    splits = []

    def score(model, split, **how):
        splits.append(split)
        return scoring.score(model, split, **how)

    monkeypatch.setattr(objective, "score", score)
    return splits


def test_a_long_validation_text_is_sampled_and_the_figures_are_of_all_of_it(tiny, tmp_path, corpus, scored):
    heard = Hear()
    result = train(tiny(data={"validation": [str(other_text(corpus))]}), tmp_path / "run", listener=heard)
    assert len(scored) == 3
    assert len({split.identity for split in scored}) == 1
    sample = scored[0]
    trained = 12 * 4 * 32
    assert 50 < sample.scored_tokens * 3 * COST[False] <= 0.1 * trained + 3
    assert sample.documents > 2
    assert result.validation.bytes == 5000 > sample.bytes
    evaluated = weft.evaluate(tmp_path / "run", split="validation")
    assert result.validation.bits_per_byte_of_weights == evaluated.bits_per_byte_of_weights
    (line,) = (line for line in heard.lines if line.startswith("Validating on"))
    assert f"{sample.scored_tokens:,} of the 5,000 tokens" in line


def other_text(corpus):
    """A text of 5,000 bytes and one document, beside the corpus."""
    path = corpus.parent.parent / "validation.txt"
    path.write_bytes(corpus.read_text("utf-8").replace("\n", " ").encode("ascii", "ignore")[-5000:])
    return path


@pytest.mark.parametrize("stops", [(2, 9), (5, 11)], ids=["before any validation", "between validations"])
def test_a_run_that_is_resumed_validates_on_the_same_sample(tiny, tmp_path, corpus, scored, stops):
    values = tiny(data={"validation": [str(other_text(corpus))]})
    train(values, tmp_path / "straight")
    for step, resume in zip(stops, (False, True), strict=True):
        with pytest.raises(Interrupted):
            train(values, tmp_path / "run", listener=StopAt(step, signal.SIGINT), resume=resume)
    train({}, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "run")
    assert len(scored) == 6
    assert len({split.identity for split in scored}) == 1
    train({"training": {"steps": 60}}, tmp_path / "run", resume=True)  # time for more, but it would not compare
    assert len({split.identity for split in scored}) == 1


def test_a_run_of_an_older_version_goes_on_with_the_head_of_its_validation_text(tiny, tmp_path, corpus, scored):
    values = tiny(data={"validation": [str(other_text(corpus))]}, training={"logging": {"validation_tokens": 1000}})
    with pytest.raises(Interrupted):
        train(values, tmp_path / "run", listener=StopAt(5, signal.SIGINT))
    forget(tmp_path / "run", "sample", "planned_pace")
    train({}, tmp_path / "run", resume=True)
    spread, *rest = scored
    assert spread.documents > 1
    for split in rest:
        assert (len(split.tokens), split.documents) == (1000, 1)
        np.testing.assert_array_equal(split.tokens[1:], np.frombuffer(other_text(corpus).read_bytes()[:999], np.uint8))


def forget(run, *keys: str) -> None:
    """Take what older versions did not keep out of the last checkpoint."""
    newest = max((run / "checkpoints").glob("step-*"))
    progress, manifest = newest / "progress.json", newest / "manifest.json"
    told, sums = json.loads(progress.read_text()), json.loads(manifest.read_text())
    assert all(key in told for key in keys)
    progress.write_text(json.dumps({key: value for key, value in told.items() if key not in keys}))
    sums["progress.json"] = hashlib.sha256(progress.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(sums))


def test_scoring_that_takes_long_is_told_beforehand_and_shown(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(terminal, "PLAIN_SECONDS", 0.0)
    for name, seconds in (("quick", math.inf), ("long", 0.0)):
        monkeypatch.setattr(validation, "LONG", seconds)
        monkeypatch.setattr("weft.training.run.LONG", seconds)
        shown = io.StringIO()
        train(tiny(), tmp_path / name, listener=terminal.listener(Console(file=shown, width=200)))
        lines = shown.getvalue().split("\n")
        before = [number for number, line in enumerate(lines) if line.startswith("After the training, scoring valid")]
        assert len(before) == (name == "long")
        assert all(line.endswith("about 0 s.") for line in (lines[number] for number in before))
        announced = lines.index(f"Scoring the test text{' (about 0 s)' if name == 'long' else ''} ...")
        assert "scoring the test text: 100%, 0:00 left" in lines[announced:]
        assert all(number < announced for number in before)


def test_validation_text_of_another_kind_is_told_at_the_first_validation(tiny, tmp_path):
    paths = {}
    for name, letters in {"train": "абвг", "validation": "xyzw", "test": "абвг"}.items():
        draw = random.Random(name)
        paths[name] = tmp_path / f"{name}.txt"
        words = ("".join(draw.choices(letters, k=6)) for _ in range(2000 if name == "train" else 200))
        paths[name].write_text(" ".join(words), encoding="utf-8")
    data = {"sources": [str(paths["train"])], "validation": [str(paths["validation"])], "test": [str(paths["test"])]}
    said = Hear()
    train(
        merge(tiny(training={"steps": 40, "logging": {"validations": 2}}), {"data": data}),
        tmp_path / "run",
        listener=said,
    )
    told = [line for line in said.lines if "is of another kind than most of the training text" in line]
    assert len(told) == 1
    assert any("so the model was chosen for another text" in line for line in said.lines)
    like = Hear()
    train(tiny(), tmp_path / "like", listener=like)
    assert not [line for line in like.lines if "another kind than most" in line]
