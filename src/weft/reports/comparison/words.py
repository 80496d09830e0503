"""What the figures of a comparison say, in sentences: the finding, and what to bear in mind with it."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from weft.records import finite, section
from weft.reports.comparison.records import Contender, StudyRecords
from weft.reports.sharing import without_places
from weft.words import count, duration

SEEDS_FOR_DEVIATION = 3  # with fewer a standard deviation says less than the figures themselves
BASELINES = (
    "Baselines are trained by the same loop on the same documents and tokens. They carry no state, so they are scored "
    "by a sliding window that gives each token at least half of its length as context (or all that its document has "
    "so far)."
)
_UNEQUAL = 0.02  # what is further apart than this is pointed out
_UNSTEADY = 0.1  # the like for runs of one architecture in equal time


def finding(study: StudyRecords) -> str:
    """Return in one sentence which architecture is best, by how much, and whether seeds could explain it."""
    measured = study.measured
    if not measured:
        return "Nothing has been measured yet: this page fills as the study goes on."
    said = ""
    if study.missing:
        said = f"So far ({len(measured)} of {len(study.planned)} done), "
    best = measured[0]
    bits = best.mean() or 0.0
    if len(measured) == 1:
        return f"{said}{best.label} needs {bits:.3f} bits per byte; there is nothing yet to compare it with."

    second = measured[1]
    behind = (second.mean() or 0.0) - bits
    if round(behind, 3) == 0:
        said += f"{best.label} and {second.label} are level at {bits:.3f} bits per byte"
    else:
        said += f"{best.label} is best at {bits:.3f} bits per byte; the next, {second.label}, is "
        said += f"{percent(behind / bits)} behind ({behind:.3f})" if bits > 0 else f"{behind:.3f} behind"
    return f"{said}{_against_noise(best, second, behind)}{_against_edges(measured)}."


def _against_noise(best: Contender, second: Contender, behind: float) -> str:
    """Say how the gap stands to the spread of the seeds, where there is one to speak of."""
    seeds = sorted((len(best.bits), len(second.bits)))
    if seeds[0] < 2:
        which = "one seed each" if seeds[1] < 2 else "one seed of one of them"
        return f"; with {which}, nothing can be said about noise"
    spread = max(max(one.bits) - min(one.bits) for one in (best, second))
    if max(best.bits) >= min(second.bits):
        # A seed of the second is as good as one of the best.
        return f", but their seeds overlap (they differ by up to {spread:.3f}), so the order of the two may be chance"
    differ = f"the {spread:.3f} by which seeds of one architecture differ"
    if behind > spread:
        return f", more than {differ}"
    return f", no more than {differ}, so the order of the two may be chance"


def _against_edges(measured: Sequence[Contender]) -> str:
    """Say that rates which were not tried could change the order, where a best rate of the first two has no neighbour.

    With one rate for all, none of them is at its best.
    """
    if all(edge(one) == "only" for one in measured):
        return "; one learning rate was tried, and another may change the order"
    if all(edge(one) for one in measured):
        return "; every best learning rate is at the edge of those tried, so rates beyond may change the order"
    said = _edge_words(measured[:2])
    return f"; the best learning rate is {said}, so a rate beyond may change the order" if said else ""


def _edge_words(contenders: Sequence[Contender]) -> str:
    """Return 'the largest tried for a, b and the smallest tried for c'; '' where no best rate is at the edge."""
    said = []
    for side in ("largest", "smallest"):
        names = [one.name for one in contenders if edge(one) == side]
        if names:
            said.append(f"the {side} tried for {', '.join(names)}")
    return " and ".join(said)


def notes(study: StudyRecords) -> list[str]:
    """Return what must be borne in mind with the finding, a sentence or two each."""
    measured = study.measured
    said = []
    if study.missing:
        said.append(f"Without a figure so far: {', '.join(study.missing)}.")
    if measured:
        said.append(_seeds(measured))
        said.append(_baselines(measured))
        said.append(_edges(measured))
        said.append(_sizes(measured))
        said.append(_unequal(study))
        said.append(_unsteady(study))
    failed = [trial for trial in study.trials if trial.get("status") == "failed"]
    if failed:
        runs = "training run" if len(study.trials) == 1 else "training runs"
        said.append(f"Failed: {len(failed)} of {len(study.trials)} {runs}; the last table says which, and why.")
    return [note for note in said if note]


def _seeds(measured: Sequence[Contender]) -> str:
    most = max(len(one.bits) for one in measured)
    if most < 2:
        return "Every figure is of one seed: small differences may be chance."
    said = f"Metrics are means over up to {most} seeds, each shown."
    if most < 5:
        said += " So few seeds show less than the whole of the noise."
    fewer = [one.name for one in measured if len(one.bits) < most]
    if fewer:
        said += f" Fewer seeds: {', '.join(fewer)}."
    return said


def _baselines(measured: Sequence[Contender]) -> str:
    best = measured[0].mean() or 1.0
    places = []
    for place, one in enumerate(measured, 1):
        if not one.is_baseline:
            continue
        said = f"{one.name} comes {ordinal(place)} of {len(measured)}"
        if place > 1:
            said += f", {percent((one.mean() or best) / best - 1)} behind the best"
        places.append(f"{said}. ")
    if not places:
        return ""
    return f"From outside the project: {''.join(places)}{BASELINES}"


def _edges(measured: Sequence[Contender]) -> str:
    if all(len(one.rates) == 1 for one in measured):
        return "One learning rate was tried: another may suit some of them better, and change the order."
    said = _edge_words(measured)
    return f"The best learning rate is {said}: a rate beyond may do better there." if said else ""


def edge(contender: Contender) -> str:
    """Return on which side the best learning rate has no neighbour that was tried: largest, smallest, only, ''."""
    rates = contender.rates
    if not contender.at_edge or contender.rate is None:
        return ""
    if len(rates) < 2:
        return "only"
    # Records may call a rate in the middle an edge: that is neither side.
    return {rates[0]: "smallest", rates[-1]: "largest"}.get(contender.rate, "")


def _sizes(measured: Sequence[Contender]) -> str:
    found = _least_and_most(measured, "parameters")
    if found is None:
        return ""
    (small, least), (large, most) = found
    return f"Sizes differ by {percent(most / least - 1)}: {small} has {count(least)} parameters, {large} {count(most)}."


def _unequal(study: StudyRecords) -> str:
    """Say what equal time (or equal text) leaves unequal."""
    by_time = _by_time(study)
    unequal = "tokens" if by_time else "seconds"
    found = _least_and_most(study.measured, unequal)
    if found is None:
        return ""
    (first, least), (last, most) = found
    if by_time:
        return f"Equal time is not equal text: from {count(least)} tokens ({first}) to {count(most)} tokens ({last})."
    return f"Equal text is not equal time: from {duration(least)} ({first}) to {duration(most)} ({last})."


def _least_and_most(measured: Sequence[Contender], key: str) -> tuple[tuple[str, float], tuple[str, float]] | None:
    """Return who has least and who has most of ``key``, and how much; None where they are about equal."""
    known = {}
    for one in measured:
        value = one.mean(key)
        if value:
            known[one.name] = value
    if len(known) < 2:
        return None
    least = min(known, key=lambda name: known[name])
    most = max(known, key=lambda name: known[name])
    if known[most] <= (1 + _UNEQUAL) * known[least]:
        return None
    return (least, known[least]), (most, known[most])


def _by_time(study: StudyRecords) -> bool:
    """Return whether what was held equal is time, not text."""
    return finite(section(study.settings, "budget").get("minutes")) is not None


def _unsteady(study: StudyRecords) -> str:
    """Say where runs of one architecture read unlike amounts in equal time: then the machine was not equally fast."""
    if not _by_time(study):
        return ""
    read: dict[str, list[float]] = {}
    for trial in study.trials:
        tokens = finite(trial.get("tokens"))
        if tokens and trial.get("status") != "failed":
            read.setdefault(str(trial.get("architecture")), []).append(tokens)
    if not read:
        return ""
    name = max(read, key=lambda name: max(read[name]) / min(read[name]))
    least = min(read[name])
    most = max(read[name])
    if most <= (1 + _UNSTEADY) * least:
        return ""
    return (
        f"The machine was not always equally fast: in equal time {name} read from {count(least)} to {count(most)} "
        "tokens. Rates and seeds that came in a slow while are at a disadvantage; --tokens does not depend on it."
    )


def facts(study: StudyRecords) -> dict[str, str]:
    """Return what was held equal and what it ran on, by name; what is not known is left out."""
    settings = study.settings
    machine = section(study.results, "machine")
    # What is shown only where it is known: each of these is None otherwise, and falls out at the end.
    parameters = finite(settings.get("parameters"))
    vocabulary = finite(settings.get("vocab_size"))
    top = finite(settings.get("top"))
    jobs = finite(settings.get("jobs"))
    seconds = finite(study.results.get("seconds_total"))
    tokenizer = [str(settings.get("tokenizer") or "")]
    if vocabulary:
        tokenizer.append(f"{vocabulary:,.0f} tokens")
    hardware = [machine.get("cpu"), _counted(machine, "cores"), machine.get("device"), _counted(machine, "threads")]
    found = {
        "corpus": str(settings.get("corpus") or ""),
        "tokenizer": ", ".join(filter(None, tokenizer)),
        "equal budget": budget(study),
        "parameters": parameters and f"{parameters:,.0f} asked for, embeddings included",
        "learning rates": ", ".join(rate_words(rate) for rate in _numbers(settings.get("learning_rates"))),
        "seeds": ", ".join(f"{seed:.0f}" for seed in _numbers(settings.get("seeds"))),
        "more seeds for": top and f"the best {top:.0f} on validation",
        "runs at once": jobs and f"{jobs:.0f}",
        "machine": ", ".join(str(part) for part in hardware if part),
        "versions": _versions(study),
        "whole study": seconds and duration(seconds),
    }
    return {name: str(value) for name, value in found.items() if value}


def _versions(study: StudyRecords) -> str:
    version = study.results.get("weft_version")
    revision = study.results.get("git_revision")
    torch = section(study.results, "machine").get("torch")
    parts = []
    if version and revision:
        parts.append(f"Weft {version} ({str(revision)[:10]})")
    elif version:
        parts.append(f"Weft {version}")
    if torch:
        parts.append(f"torch {torch}")
    return ", ".join(parts)


def budget(study: StudyRecords) -> str:
    """Return what each training run was given; '' where it is not known."""
    given = section(study.settings, "budget")
    minutes = finite(given.get("minutes"))
    tokens = finite(given.get("tokens"))
    if minutes is not None:
        unit = "minute" if minutes == 1 else "minutes"
        return f"{minutes:g} {unit} of training each (validation and test not counted)"
    if tokens is not None:
        return f"{tokens:,.0f} tokens of training text each"
    return ""


def command(study: StudyRecords) -> str:
    """Return the command that makes the study again, without telling the folders of this machine; '' if not known."""
    settings = study.settings
    if not study.planned:
        return ""
    given = section(settings, "budget")
    minutes = finite(given.get("minutes"))
    parts: list[str] = ["weft", "compare", *without_places(_list(settings.get("sources")))]
    # Who is compared.
    architectures = ",".join(_list(settings.get("architectures")))
    if architectures:
        parts += ["--architectures", architectures]
    if section(settings, "variants"):
        parts += ["--variants", f"{study.name}/variants.yaml"]
    for name in study.baselines:
        parts += ["--baseline", name]
    # With what; what the study did not say is left out, so that the command's defaults hold.
    options = {
        "parameters": _whole(settings.get("parameters")),
        "minutes": "" if minutes is None else f"{minutes:g}",
        "tokens": _whole(given.get("tokens")),
        "learning-rates": ",".join(rate_words(rate) for rate in _numbers(settings.get("learning_rates"))),
        "seeds": ",".join(f"{seed:.0f}" for seed in _numbers(settings.get("seeds"))),
        "top": _whole(settings.get("top")),
        "jobs": _whole(settings.get("jobs")),
    }
    for name, value in options.items():
        if value:
            parts += [f"--{name}", value]
    # What else the recipe of all says; the texts stand in front.
    for key, value in _values(section(settings, "base")):
        if key != "data.sources":
            parts += ["--set", f"{key}={value}"]
    return shlex.join([*parts, "--out", study.name])


def _values(nested: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values of a recipe as '--set' takes them: ``section.key`` and the value."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from _values(value, f"{before}{key}.")
        elif value is not None:
            shown = without_places(value)
            if not isinstance(shown, str):
                shown = json.dumps(shown)
            yield f"{before}{key}", shown


def _whole(value: object) -> str:
    known = finite(value)
    return "" if known is None else f"{known:.0f}"


def _counted(values: Any, key: str) -> str:
    """Return '4 cores', '1 core'; '' where it is not known."""
    known = finite(values.get(key))
    if known is None:
        return ""
    unit = key.removesuffix("s") if known == 1 else key
    return f"{known:.0f} {unit}"


def _list(value: object) -> list[str]:
    return [str(part) for part in value] if isinstance(value, list) else []


def _numbers(value: object) -> list[float]:
    if not isinstance(value, list):
        return []
    found = []
    for part in value:
        known = finite(part)
        if known is not None:
            found.append(known)
    return found


def rate_words(rate: float) -> str:
    """Return a learning rate as people write it: 3e-3, 1.6e-2."""
    if rate <= 0:
        return f"{rate:g}"
    digits, exponent = f"{rate:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def spread(contender: Contender) -> str:
    """Return the least and the most bits per byte of the seeds, the standard deviation where there are enough."""
    bits = contender.bits
    if len(bits) < 2:
        return "one seed" if bits else "–"
    said = f"{min(bits):.4f}–{max(bits):.4f}"
    if len(bits) >= SEEDS_FOR_DEVIATION:
        said += f" (± {statistics.stdev(bits):.4f})"
    return said


def context(length: int) -> str:
    """Return a length of context in thousands of 1,024: 1k, 16k, 64k."""
    whole = length >= 1024 and length % 1024 == 0
    return f"{length // 1024}k" if whole else f"{length:,}"


def percent(share: float) -> str:
    """Return a share in percent with two figures where it is small: 0.42 %, 2.3 %, 14 %."""
    value = 100 * share
    # The limits are those from which on rounding gives one digit more before the point.
    if value >= 9.95:
        return f"{value:.0f} %"
    if value >= 0.995:
        return f"{value:.1f} %"
    return f"{value:.2f} %"


def ordinal(place: int) -> str:
    """Return 1st, 2nd, 3rd, 4th, ..."""
    if 10 <= place % 100 <= 20:
        return f"{place}th"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place}{ending}"
