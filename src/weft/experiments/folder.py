"""The folder of a study: the names of its files, and which comparison it holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from weft.data import DataConfig
from weft.errors import UserError
from weft.experiments.plan import Plan, renamed_variants
from weft.experiments.runner import sweep_runs
from weft.files import json_object, sweep, write_atomic
from weft.plain_yaml import parse_yaml
from weft.records import CURVES, REPORT, RESULTS, TABLE
from weft.settings import renamed
from weft.training.recipe import flat

PLAN = "study.yaml"
VARIANTS = "variants.yaml"
SPEED = "generation.json"  # in a run directory: how fast the model writes
# What a study may be given more of when it goes on.
GROWING = ("architectures", "variants", "baselines", "learning_rates", "seeds", "top", "jobs")


def check_folder(plan: Plan, study: Path, *, overwrite: bool) -> None:
    """Raise UserError where ``study`` holds something else than this comparison, so far, or one to overwrite."""
    if study.exists() and not study.is_dir():
        raise UserError(f"'{study}' is a file: choose a folder for the study.")
    if study.is_dir() and any(study.iterdir()) and not (study / PLAN).is_file():
        raise UserError(f"'{study}' holds something that is not a comparison: choose another folder.")
    if (study / PLAN).is_file() and not overwrite:
        _check_same(Plan.parse(_saved_values(study / PLAN), where=PLAN), plan, study)


def save_plan(plan: Plan, study: Path) -> None:
    """Write the plan into the study's folder, which is made where it is not there."""
    study.mkdir(parents=True, exist_ok=True)
    write_atomic(study / PLAN, yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    if plan.variants:  # as a comparison takes them
        write_atomic(study / VARIANTS, yaml.safe_dump(plan.variants, sort_keys=False, allow_unicode=True))


def _saved_values(path: Path) -> Mapping[str, Any]:
    """Return the plan that a study began with, as this version says it; 0.1.0 had other names for keys."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        values = None
    if not isinstance(values, dict):
        raise UserError(f"'{path}' is damaged: begin the comparison anew, with overwrite.")
    if "peers" in values:
        values["baselines"] = values.pop("peers")
    if isinstance(values.get("base"), dict):
        values["base"] = renamed(values["base"], warn=False)
    if isinstance(values.get("variants"), dict):
        values["variants"] = renamed_variants(values["variants"], warn=False)
    return values


def _check_same(before: Plan, now: Plan, study: Path) -> None:
    """Raise UserError where ``now`` changes what ``before`` began with; more contenders, rates and seeds are none."""
    old = flat(_fixed(before))
    new = flat(_fixed(now))
    # A variant that both have must be the same.
    for name in before.variants.keys() & now.variants.keys():
        old |= flat(before.variants[name], f"{name}.")
        new |= flat(now.variants[name], f"{name}.")
    changed = [key for key in old | new if old.get(key) != new.get(key)]
    if changed:
        told = ", ".join(f"{key} (was {old.get(key)}, now {new.get(key)})" for key in changed)
        raise UserError(
            f"'{study}' holds a comparison with other {told}; give the values that it began with to go on, or "
            "choose another folder."
        )


def _fixed(plan: Plan) -> dict[str, Any]:
    """Return what may not change when a study goes on, as a user gives it."""
    fixed = plan.model_dump(mode="json", exclude={"base", *GROWING}, exclude_none=True)
    # With every value, so that one that is given as it is anyway is no change, nor 'texts/' for 'texts'.
    data = DataConfig.parse(plan.base.get("data", {}), where="data")
    return fixed | plan.base | {"data": data.model_dump(mode="json")}


def read_results(folder: Path) -> dict[str, Any]:
    """Return ``results.json`` of a study's folder; empty where there is none that can be read."""
    try:
        return json_object((folder / RESULTS).read_bytes()) or {}
    except OSError:
        return {}


def sweep_study(folder: Path) -> None:
    """Remove what killed processes left half written in a study's folder; each run sweeps its own."""
    sweep(folder, PLAN, VARIANTS, RESULTS, CURVES, TABLE, REPORT)
    sweep_runs(folder)
    for run in (folder / "runs").glob("*"):
        sweep(run, SPEED)
