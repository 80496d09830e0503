"""``results.json`` and ``curves.json`` of a comparison, from the run directories of its trials."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from weft.baselines.llama import Peer, is_peer, load_any
from weft.description import STATE_CONTEXTS, describe
from weft.evaluation.speed import generation_speed
from weft.experiments.plan import Trial
from weft.experiments.runner import check_stopped
from weft.files import json_object, write_atomic
from weft.pretrained import load_config, load_tokenizer
from weft.records import Event, number, read_run
from weft.signals import stop_signals
from weft.training.recipe import git_revision
from weft.version import __version__

if TYPE_CHECKING:
    from weft.experiments.compare import Study

RESULTS, CURVES = "results.json", "curves.json"
SPEED = "generation.json"


def write_results(study: Study) -> None:
    """Write what there is so far."""
    trials, chosen = study.trials(), study.chosen()
    results = {
        "weft_version": __version__,
        "git_revision": git_revision(),
        "machine": machine(study.threads),
        "seconds_total": study.seconds,
        "settings": _settings(study, trials),
        "rows": [_row(study, trial) for trial in chosen],
        "trials": [_trial(study, trial) for trial in trials],
    }
    write_atomic(study.folder / RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    curves = [_curve(study, trial, trial in chosen) for trial in trials if study.result(trial)]
    write_atomic(study.folder / CURVES, json.dumps(curves) + "\n")


def measure_generation(study: Study) -> None:
    """Time how fast the chosen models write, one after another with the threads of a job, where that is not known.

    Raises Interrupted when a signal to stop came.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(study.threads)
    try:
        with stop_signals() as received:
            for trial in study.chosen():
                if not (study.run_of(trial) / SPEED).is_file():
                    study.listener.message(f"Timing how fast {trial.contender} writes ...")
                    _measure(study.run_of(trial))
                check_stopped(received)
    finally:
        torch.set_num_threads(before)


def _measure(run: Path) -> None:
    speed = generation_speed(load_any(run), load_tokenizer(run))
    told = {"tokens_per_second": speed if math.isfinite(speed) else None}
    write_atomic(run / SPEED, json.dumps(told) + "\n")


def read_results(folder: Path) -> dict[str, Any]:
    """Return ``results.json`` of a study's folder; empty where there is none that can be read."""
    return _read(folder / RESULTS)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json_object(path.read_bytes()) or {}
    except OSError:
        return {}


def _settings(study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    plan = study.plan
    done = [trial for trial in trials if study.result(trial)]
    data: Mapping[str, Any] = read_run(study.run_of(done[0])).recipe.get("data", {}) if done else {}
    return {
        "sources": list(plan.base.get("data", {}).get("sources", [])),
        "architectures": list(plan.architectures),
        "variants": dict(plan.variants),
        "peers": list(plan.peers),
        "parameters": plan.parameters,
        "budget": plan.budget,
        "learning_rates": list(plan.learning_rates),
        "seeds": list(plan.seeds),
        "top": plan.top,
        "jobs": plan.jobs,
        "tokenizer": data.get("tokenizer"),
        "vocab_size": data.get("vocab_size"),
        "corpus": study.summary,
        "base": dict(plan.base),
    }


def _row(study: Study, trial: Trial) -> dict[str, Any]:
    run, result = study.run_of(trial), study.result(trial)
    assert result is not None, "a row is of a trial that has ended well"
    rates = sorted(study.plan.learning_rates)
    return {
        "architecture": trial.contender,
        "kind": "peer" if trial.contender in study.plan.peers else "weft",
        **_shape(run),
        "parameters": result.parameters,
        "body_parameters": result.body_parameters,
        "learning_rate": trial.learning_rate,
        "best_at_edge": len(rates) > 1 and trial.learning_rate in (rates[0], rates[-1]),
        "seed": trial.seed,
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "bits_per_byte": result.test.bits_per_byte,
        "validation_bits_per_byte": result.validation.bits_per_byte,
        "training_tokens_per_second": result.tokens_per_second,
        "generation_tokens_per_second": _read(run / SPEED).get("tokens_per_second"),
        "run": str(run.relative_to(study.folder)),
    }


def _trial(study: Study, trial: Trial) -> dict[str, Any]:
    result = study.result(trial)
    return {
        "architecture": trial.contender,
        "learning_rate": trial.learning_rate,
        "seed": trial.seed,
        "validation_bits_per_byte": result.validation.bits_per_byte if result else None,
        "bits_per_byte": result.test.bits_per_byte if result else None,
        "tokens": result.tokens if result else None,
        "seconds": result.seconds if result else None,
        "status": "done" if result else "failed",
        "error": None if result else study.failure(trial),
        "run": str(study.run_of(trial).relative_to(study.folder)),
    }


def _curve(study: Study, trial: Trial, chosen: bool) -> dict[str, Any]:
    records = read_run(study.run_of(trial))
    return {
        "architecture": trial.contender,
        "learning_rate": trial.learning_rate,
        "seed": trial.seed,
        "chosen": chosen,
        "train": [_point(event) for event in records.train],
        "validation": [_point(event) for event in records.validation],
    }


def _point(event: Event) -> dict[str, Any]:
    """Return a point of a curve; JSON knows no NaN."""
    point = {key: event.get(key) for key in ("step", "tokens", "seconds", "bits_per_byte")}
    return {key: value if number(value) is not None else None for key, value in point.items()}


def _shape(run: Path) -> dict[str, Any]:
    """Return a model's pattern, width and bytes of state after some lengths of context."""
    if is_peer(run):
        peer = load_any(run)
        assert isinstance(peer, Peer)
        layers, width = peer.config.num_hidden_layers, peer.config.hidden_size
        state = {context: peer.state_bytes(context) for context in STATE_CONTEXTS}
        return {"pattern": f"{layers} decoder layers", "hidden_size": width, "state_bytes": _named(state)}
    told = describe(load_config(run))
    return {"pattern": told.pattern, "hidden_size": told.hidden_size, "state_bytes": _named(told.state_bytes)}


def _named(state: Mapping[int, int]) -> dict[str, int]:
    return {str(context): size for context, size in state.items()}


def machine(threads: int) -> dict[str, Any]:
    """Return what the runs were trained on."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "device": str(torch.accelerator.current_accelerator() or "cpu") if torch.accelerator.is_available() else "cpu",
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
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
