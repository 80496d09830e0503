"""What every measurement shares: contenders that take turns, ratios of medians with a spread, and the bars asked.

Nothing here knows what is measured. Torch is imported by no part of this module unless a GPU is waited for.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Unit = Callable[[], object]  # one piece of work; what it returns is dropped
RESAMPLES = 2000
LONGEST_REPEAT = 1000  # calls of a piece of work that is too short to be timed alone


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure: the device, and how long. ``quick`` asks for tiny sizes, to see that all runs."""

    device: str = "cpu"
    threads: int = 2
    quick: bool = False
    compiled: bool = False  # whether torch.compile'd contenders take part
    seed: int = 0
    rounds: int = 25  # at most
    least: int = 5  # rounds, however long they take
    seconds: float = 20.0  # after which no further round begins
    against: str = ""  # another revision, whose sources are in ``tree``
    tree: str = ""

    @property
    def gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def kind(self) -> str:
        """What result files are named after."""
        return "gpu" if self.gpu else "cpu"


class Seconds(float):
    """What a piece of work returns that tells itself how long it took, without what it needed beforehand."""


@dataclass(frozen=True)
class Bar:
    """What is asked of a ratio."""

    sense: Literal["at least", "at most"]
    value: float

    def holds(self, ratio: float) -> bool:
        return ratio >= self.value if self.sense == "at least" else ratio <= self.value

    def __str__(self) -> str:
        return f"{self.sense} {self.value:g}"


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians; ``low`` and ``high`` are its 95 % interval over resampled rounds."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Ratio:
        return Ratio(self.value * factor, self.low * factor, self.high * factor)


@dataclass
class Times:
    """Seconds of one piece of work, by contender and round (rounds correspond), and who could not take part."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return bool(self.seconds.get(name))

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def fastest(self, names: Iterable[str]) -> str | None:
        """Return the contender with the least median among those of ``names`` that could take part."""
        present = [name for name in names if name in self]
        return min(present, key=self.median, default=None)

    def ratio(self, over: str | None, under: str | None) -> Ratio | None:
        """Return the median time of ``over`` in medians of ``under``; None where either could not take part."""
        if over is None or under is None or over not in self or under not in self:
            return None
        above, below = np.array(self.seconds[over]), np.array(self.seconds[under])
        drawn = np.random.default_rng(0).integers(len(above), size=(RESAMPLES, len(above)))
        spread = np.median(above[drawn], axis=1) / np.median(below[drawn], axis=1)
        low, high = np.quantile(spread, (0.025, 0.975))
        return Ratio(float(np.median(above) / np.median(below)), float(low), float(high))

    def to_json(self) -> dict[str, Any]:
        """Return medians, quartiles and every measurement, in seconds."""
        told: dict[str, Any] = {}
        for name, values in self.seconds.items():
            lower, median, upper = (float(f"{q:.5g}") for q in np.quantile(values, (0.25, 0.5, 0.75)))
            told[name] = {"median": median, "quartiles": [lower, upper], "all": [float(f"{v:.4g}") for v in values]}
        return told


@dataclass(kw_only=True)
class Line:
    """One line of the table. ``met`` may be said where more than the bar decides."""

    what: str
    measured: str = ""
    ratio: Ratio | None = None
    bar: Bar | None = None
    met: bool | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.met is None and self.bar and self.ratio:
            self.met = self.bar.holds(self.ratio.value)


@dataclass
class Sheet:
    """What one row of measurements writes on: lines, the times behind them, notes, and facts about the contenders."""

    options: Options
    show: Callable[[str], None] = lambda _: None
    lines: list[Line] = field(default_factory=list)
    races: dict[str, Times] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def line(self, what: str, **rest: Any) -> None:
        self.lines.append(Line(what=what, **rest))

    def race(self, title: str) -> Race:
        """Return a new race, whose times are kept under ``title``."""
        self.races[title] = Times()
        return Race(title, self)


class Race:
    """Contenders that take turns, so that what disturbs the machine falls on all of them alike."""

    def __init__(self, title: str, sheet: Sheet) -> None:
        self.title, self.sheet, self.options = title, sheet, sheet.options
        self.times = sheet.races[title]
        self._units: dict[str, Unit] = {}

    def enter(self, name: str, make: Callable[[], Unit], *, warmups: int = 2) -> None:
        """Make a contender and run it a few times. One that cannot is written down, and stops nobody else."""
        self.sheet.show(f"{self.title}: {name}, first steps")
        with self._surviving(name):
            unit = make()
            for _ in range(warmups):
                unit()
            self._wait()
            self._units[name] = unit

    def run(self) -> Times:
        """Time round after round, each contender once a round and another one first each time."""
        repeats = {name: count for name in list(self._units) if (count := self._repeats(name))}
        names, started, done = list(repeats), time.perf_counter(), 0
        with _no_collection():
            while names and self._goes_on(done, started):
                self.sheet.show(f"{self.title}: round {done + 1}")
                for name in names[done % len(names) :] + names[: done % len(names)]:
                    self._time(name, repeats[name])
                names = [name for name in names if name in self._units]
                done += 1
                gc.collect()  # between rounds, where nobody pays for it
        self._units.clear()  # models are large
        gc.collect()
        return self.times

    def _goes_on(self, done: int, started: float) -> bool:
        options = self.options
        return done < options.rounds and (done < options.least or time.perf_counter() - started < options.seconds)

    def _repeats(self, name: str) -> int:
        """Return how many calls take long enough to be timed, 0 for a contender that fails now."""
        shortest = 0.001 if self.options.quick else 0.02
        with self._surviving(name):
            taken = self._clock(self._units[name], 1)
            if taken < shortest:
                taken = min(taken, self._clock(self._units[name], 1))
            return max(1, min(LONGEST_REPEAT, math.ceil(shortest / taken)))
        return 0

    def _time(self, name: str, repeats: int) -> None:
        with self._surviving(name):
            self.times.seconds.setdefault(name, []).append(self._clock(self._units[name], repeats))

    def _clock(self, unit: Unit, repeats: int) -> float:
        self._wait()
        started = time.perf_counter()
        for _ in range(repeats):
            told = unit()
        self._wait()
        return told if isinstance(told, Seconds) else (time.perf_counter() - started) / repeats

    def _wait(self) -> None:
        if self.options.gpu:
            import torch

            torch.cuda.synchronize()

    @contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        """Drop the contender that raises, whatever it raises, and keep the reason."""
        try:
            yield
        except Exception as error:
            self.times.failures[name] = reason(error)
            self.times.seconds.pop(name, None)
            self._units.pop(name, None)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python's collector out of the measurements, and collections between them short."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def figure(value: float) -> str:
    """Return a number with three figures, and without powers of ten."""
    return f"{value:.3g}" if value < 999.5 else f"{value:,.0f}"


def reason(error: BaseException) -> str:
    """Return what went wrong, and where, on one line."""
    if isinstance(error, ModuleNotFoundError):
        return f"not installed here ({error})"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else ""
    told = " ".join(str(error).split())
    return f"{type(error).__name__}{where}: {told[:300]}"
