"""Training that takes no time: what a Runner would start as processes leaves its results at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from weft.evaluation.metrics import Metrics
from weft.experiments import runner
from weft.training.result import TrainingResult

Recipe = dict[str, Any]


def pretend_training(monkeypatch: pytest.MonkeyPatch, bits: Callable[[Mapping[str, Any]], float]) -> list[Recipe]:
    """Let every trial come to the ``bits`` per byte of its recipe; return the recipes, more with each training."""
    recipes: list[Recipe] = []

    def run_jobs(jobs, at_once, ended, tick):
        for job in jobs:
            option, path = job.options
            assert option == "--recipe"
            recipe = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            recipes.append(recipe)
            job.run.mkdir(parents=True)
            (job.run / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
            (job.run / "results.json").write_text(json.dumps(result(job.run, bits(recipe)).to_json()), encoding="utf-8")
            ended(job, 0)
            tick([])
        assert at_once > 0

    monkeypatch.setattr(runner, "run_jobs", run_jobs)
    return recipes


def result(run: Path, bits: float) -> TrainingResult:
    """Return the result of a run that costs ``bits`` per byte on both texts."""
    metrics = Metrics(
        bits_per_byte=bits,
        bits_per_character=bits,
        perplexity_per_token=20.0,
        perplexity_per_word=None,
        tokens=100,
        bytes=300,
        seconds=0.1,
    )
    return TrainingResult(
        run=run,
        parameters=10,
        body_parameters=5,
        steps=3,
        tokens=1000,
        seconds=1.0,
        tokens_per_second=1000.0,
        best_step=3,
        validation=metrics,
        test=metrics,
    )
