"""``results.json`` and ``curves.json`` of a comparison: its plan, and what its finished trials have come to."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from weft.baselines import is_baseline, load_any, model_type_in, source
from weft.description import STATE_CONTEXTS, describe
from weft.evaluation.speed import generation_speed
from weft.experiments.choice import Finished, chosen
from weft.experiments.folder import SPEED
from weft.experiments.jobs import check_stopped
from weft.experiments.plan import Plan, Trial
from weft.experiments.runner import Outcome
from weft.files import json_object, write_atomic
from weft.pretrained import load_config, load_tokenizer
from weft.records import CURVES, RESULTS, Event, finite, read_run
from weft.signals import stop_signals
from weft.training.recipe import git_revision
from weft.version import __version__


class Session(NamedTuple):
    """What the results tell of the work itself: the text in words, the threads of a run, the seconds so far."""

    corpus: str
    threads: int
    seconds: float


def write_results(folder: Path, plan: Plan, finished: Finished, session: Session) -> None:
    """Write what the finished trials of ``plan`` have come to so far."""
    rows = chosen(plan, finished)
    results = {
        "weft_version": __version__,
        "git_revision": git_revision(),
        "machine": machine(session.threads),
        "seconds_total": session.seconds,
        "settings": _settings(plan, finished, session.corpus),
        "rows": [_row(plan, trial, finished[trial], folder) for trial in rows],
        "trials": [_trial(trial, outcome, folder) for trial, outcome in finished.items()],
    }
    write_atomic(folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    curves = []
    for trial, outcome in finished.items():
        if outcome.result:
            curves.append(_curve(trial, outcome.run, trial in rows))
    write_atomic(folder / CURVES, json.dumps(curves) + "\n")


def measure_generation(runs: Iterable[tuple[str, Path]], threads: int, message: Callable[[str], None]) -> None:
    """Time how fast the models of ``runs`` (contender and run) write, one after another, where that is not known.

    Raises Interrupted when a signal to stop came.
    """
    # As many threads as each run trained with, whatever this process has.
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with stop_signals() as received:
            for contender, run in runs:
                if not (run / SPEED).is_file():
                    message(f"Timing how fast {contender} writes ...")
                    speed = generation_speed(load_any(run), load_tokenizer(run))
                    told = {"tokens_per_second": speed if math.isfinite(speed) else None}
                    write_atomic(run / SPEED, json.dumps(told) + "\n")
                check_stopped(received)
    finally:
        torch.set_num_threads(before)


def _settings(plan: Plan, finished: Finished, corpus: str) -> dict[str, Any]:
    """Return what the study was asked for, and the tokenizer as it was made, which the recipe of any run tells."""
    data: Mapping[str, Any] = {}
    done = [outcome.run for outcome in finished.values() if outcome.result]
    if done:
        data = read_run(done[0]).recipe.get("data", {})
    return {
        "sources": list(plan.base.get("data", {}).get("sources", [])),
        "architectures": list(plan.architectures),
        "variants": dict(plan.variants),
        "baselines": list(plan.baselines),
        "parameters": plan.parameters,
        "budget": plan.budget,
        "learning_rates": list(plan.learning_rates),
        "seeds": list(plan.seeds),
        "top": plan.top,
        "jobs": plan.jobs,
        "tokenizer": data.get("tokenizer"),
        "vocab_size": data.get("vocab_size"),
        "corpus": corpus,
        "base": dict(plan.base),
    }


def _row(plan: Plan, trial: Trial, outcome: Outcome, folder: Path) -> dict[str, Any]:
    """Return what a trial at a best rate has come to."""
    run = outcome.run
    result = outcome.result
    assert result is not None, "a row is of a trial that has ended well"
    rates = sorted(plan.learning_rates)
    with_memory = {}
    if result.test.bits_per_byte_memory is not None:
        with_memory["bits_per_byte_memory"] = result.test.bits_per_byte_memory
    return {
        "architecture": trial.contender,
        "kind": "baseline" if trial.contender in plan.baselines else "weft",
        **_shape(run),
        "parameters": result.parameters,
        "body_parameters": result.body_parameters,
        "learning_rate": trial.learning_rate,
        "best_at_edge": len(rates) > 1 and trial.learning_rate in (rates[0], rates[-1]),
        "seed": trial.seed,
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "bits_per_byte": result.test.bits_per_byte_of_weights,
        **with_memory,
        "validation_bits_per_byte": result.validation.bits_per_byte_of_weights,
        "training_tokens_per_second": result.tokens_per_second,
        "generation_tokens_per_second": _generation_speed(run),
        "run": str(run.relative_to(folder)),
    }


def _trial(trial: Trial, outcome: Outcome, folder: Path) -> dict[str, Any]:
    """Return how any trial ended; every key is there, whether it ended well or not."""
    result = outcome.result
    told = {
        "architecture": trial.contender,
        "learning_rate": trial.learning_rate,
        "seed": trial.seed,
        "validation_bits_per_byte": None,
        "bits_per_byte": None,
        "tokens": None,
        "seconds": None,
        "status": "failed",
        "error": outcome.failure,
        "run": str(outcome.run.relative_to(folder)),
    }
    if result is not None:
        told |= {
            "validation_bits_per_byte": result.validation.bits_per_byte_of_weights,
            "bits_per_byte": result.test.bits_per_byte_of_weights,
            "tokens": result.tokens,
            "seconds": result.seconds,
            "status": "done",
        }
    return told


def _curve(trial: Trial, run: Path, is_chosen: bool) -> dict[str, Any]:
    records = read_run(run)
    return {
        "architecture": trial.contender,
        "learning_rate": trial.learning_rate,
        "seed": trial.seed,
        "chosen": is_chosen,
        "train": [_point(event) for event in records.train],
        "validation": [_point(event) for event in records.validation],
    }


def _point(event: Event) -> dict[str, Any]:
    """Return a point of a curve; JSON knows no NaN."""
    point = {}
    for key in ("step", "tokens", "seconds", "bits_per_byte"):
        value = event.get(key)
        point[key] = None if finite(value) is None else value
    return point


def _generation_speed(run: Path) -> float | None:
    """Return the tokens a second that were measured; None where they were not."""
    try:
        told = json_object((run / SPEED).read_bytes()) or {}
    except OSError:
        return None
    return told.get("tokens_per_second")


def _shape(run: Path) -> dict[str, Any]:
    """Return a model's pattern, width and bytes of state after some lengths of context; no weights are read."""
    if is_baseline(run):
        with torch.device("meta"):
            model = source(model_type_in(run)).fresh_model(run, seed=0)
        pattern = f"{model.depth} decoder layers"
        width = model.config.hidden_size
        state = {context: model.state_bytes(context) for context in STATE_CONTEXTS}
    else:
        told = describe(load_config(run))
        pattern = told.pattern
        width = told.hidden_size
        state = told.state_bytes
    named = {str(context): size for context, size in state.items()}
    return {"pattern": pattern, "hidden_size": width, "state_bytes": named}


def machine(threads: int) -> dict[str, Any]:
    """Return what the runs were trained on."""
    device = "cpu"
    if torch.accelerator.is_available():
        device = str(torch.accelerator.current_accelerator() or "cpu")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "device": device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": threads,
    }


def _cpu() -> str:
    """Return the processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n")
    except OSError:
        return platform.processor() or platform.machine()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
