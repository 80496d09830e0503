"""What the folder of a comparison holds, read so that nothing missing, half written or unknown is an error."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.errors import UserError
from weft.records import CURVES, RESULTS, Event, finite, section

BITS = "bits_per_byte"
VALIDATION = "validation_bits_per_byte"
WITH_MEMORY = "bits_per_byte_memory"  # of the test text


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One architecture: its ``rows`` (its best learning rate, by seed) and all its ``trials`` (every rate)."""

    name: str
    is_baseline: bool
    rows: tuple[Event, ...]
    trials: tuple[Event, ...]

    @property
    def label(self) -> str:
        """The name, with a word where it comes from outside the project."""
        return f"{self.name} (baseline)" if self.is_baseline else self.name

    @property
    def pattern(self) -> str:
        """The pattern of blocks; '' where none is known."""
        for row in self.rows:
            if isinstance(row.get("pattern"), str):
                return str(row["pattern"])
        return ""

    @property
    def rate(self) -> float | None:
        """The best learning rate."""
        return next(iter(self.values("learning_rate")), None)

    @property
    def rates(self) -> list[float]:
        """The learning rates that were tried, ascending."""
        tried = set()
        for trial in (*self.trials, *self.rows):
            rate = finite(trial.get("learning_rate"))
            if rate is not None:
                tried.add(rate)
        return sorted(tried)

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate is the smallest or the largest of those tried."""
        said = [row["best_at_edge"] for row in self.rows if isinstance(row.get("best_at_edge"), bool)]
        if said:
            return any(said)
        return self.rate in (*self.rates[:1], *self.rates[-1:])

    @property
    def bits(self) -> list[float]:
        """Test bits per byte, one for each seed."""
        return self.values(BITS)

    @property
    def state_bytes(self) -> dict[int, float]:
        """Bytes of state by tokens of context, ascending."""
        for row in self.rows:
            sizes = {}
            for context, told in section(row, "state_bytes").items():
                size = finite(told)
                if size and str(context).isascii() and str(context).isdigit():
                    sizes[int(context)] = size
            if sizes:
                return dict(sorted(sizes.items()))
        return {}

    def values(self, key: str) -> list[float]:
        """Return what was measured under ``key``, in the order of the seeds."""
        found = []
        for row in self.rows:
            value = finite(row.get(key))
            if value is not None:
                found.append(value)
        return found

    def mean(self, key: str = BITS) -> float | None:
        """Return the mean over the seeds; None where nothing was measured."""
        values = self.values(key)
        return statistics.fmean(values) if values else None


@dataclass(frozen=True, kw_only=True)
class StudyRecords:
    """A comparison of architectures, finished or not; the ``contenders`` stand best first."""

    name: str
    results: Mapping[str, Any]
    settings: Mapping[str, Any]
    contenders: tuple[Contender, ...]
    curves: tuple[Event, ...]
    planned: tuple[str, ...]
    baselines: tuple[str, ...]

    @property
    def measured(self) -> tuple[Contender, ...]:
        """The contenders with test bits per byte, best first."""
        return tuple(contender for contender in self.contenders if contender.bits)

    @property
    def missing(self) -> list[str]:
        """Names of what was planned and has no figure yet."""
        done = {contender.name for contender in self.measured}
        return [name for name in self.planned if name not in done]

    @property
    def trials(self) -> list[Event]:
        """Every training run, contender by contender, by learning rate and seed."""
        return [trial for contender in self.contenders for trial in contender.trials]

    @property
    def contexts(self) -> list[int]:
        """The lengths at which the size of the state is known, ascending."""
        return sorted({length for contender in self.contenders for length in contender.state_bytes})


def read_study(folder: Path) -> StudyRecords:
    """Read ``results.json`` and ``curves.json`` of ``folder``; UserError where there is no such directory."""
    if not folder.is_dir():
        raise UserError(f"There is no study '{folder}': give the folder that a comparison was written into.")
    return study_records(folder.resolve().name, _json(folder / RESULTS), _json(folder / CURVES))


def study_records(name: str, results: object, curves: object = ()) -> StudyRecords:
    """Return the comparison that ``results`` and ``curves`` (as read from JSON) describe."""
    whole: Mapping[str, Any] = results if isinstance(results, Mapping) else {}
    settings = section(whole, "settings")
    rows = _of_architectures(whole.get("rows"))
    trials = _of_architectures(whole.get("trials"))
    baselines = [*_names(settings.get("baselines")), *_names(settings.get("peers"))]  # peers: as 0.1.0 called them
    variants = [str(variant) for variant in section(settings, "variants")]
    planned = [*_names(settings.get("architectures")), *variants, *baselines]
    of_others = {*baselines}
    for row in rows:
        if row.get("kind") in ("baseline", "peer"):
            of_others.add(str(row["architecture"]))
    # What has rows or trials without being planned comes too: a plan that cannot be read hides no figures.
    contenders = []
    for one in dict.fromkeys([*planned, *(str(event["architecture"]) for event in (*rows, *trials))]):
        contender = _contender(one, one in of_others, rows, trials)
        if contender.rows or contender.trials:
            contenders.append(contender)
    return StudyRecords(
        name=name,
        results=whole,
        settings=settings,
        contenders=tuple(sorted(contenders, key=_rank)),
        curves=tuple(_of_architectures(curves)),
        planned=tuple(dict.fromkeys(planned)),
        baselines=tuple(baselines),
    )


def _rank(contender: Contender) -> tuple[bool, float]:
    mean = contender.mean()
    return mean is None, mean or 0.0


def _contender(name: str, is_baseline: bool, rows: Iterable[Event], trials: Iterable[Event]) -> Contender:
    own = [row for row in rows if row["architecture"] == name]
    tried = [trial for trial in trials if trial["architecture"] == name]
    return Contender(
        name=name,
        is_baseline=is_baseline,
        rows=tuple(sorted(own, key=_by_seed)),
        trials=tuple(sorted(tried, key=_by_rate)),
    )


def _by_seed(event: Event) -> float:
    return finite(event.get("seed")) or 0.0


def _by_rate(event: Event) -> tuple[float, float]:
    return finite(event.get("learning_rate")) or 0.0, _by_seed(event)


def _of_architectures(events: object) -> list[Event]:
    """Return those of ``events`` that say which architecture they are of."""
    found = []
    for event in _list(events):
        if isinstance(event, Mapping) and isinstance(event.get("architecture"), str):
            found.append(event)
    return found


def _names(value: object) -> list[str]:
    return [name for name in _list(value) if isinstance(name, str)]


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None
