"""How fast this machine trains: the seconds that a token takes, measured on a few steps over random tokens.

Other programs come and go while it is measured. So models are timed in turns, each several times for a
moment, and the fastest counts: a model that was slowed down once is quick in another turn. What a run then
does is compared with it (:class:`ThroughputCheck`). Shapes: B rows of the batch, T positions of a segment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import repeat

import torch

from weft import words
from weft.language_model import LanguageModel
from weft.training.learner import Learner
from weft.training.parallel import Processes
from weft.training.prefetch import Batch
from weft.training.recipe import TrainingConfig
from weft.training.step import train_step

TURNS = 3  # of each model
# Steps in a turn, of which the first finds kernels and memory.
FEWEST_STEPS = 2
MOST_STEPS = 5
ENOUGH_SECONDS = 0.4  # for a turn

CHECKED_AFTER = 0.1  # of a run: when its throughput is compared with the plan
CLOSE_TO_PLAN = 1.5  # times faster or slower: nothing is said


def seconds_per_token(model: LanguageModel, config: TrainingConfig, processes: Processes) -> float:
    """Return the seconds that a training token takes all ``processes`` together; ``model`` is spoilt by it.

    One turn: the fastest of a few steps (:func:`weft.training.step.train_step`) on random tokens, with the
    objective and the hooks that ``config`` asks for, as they are at the start of a run. They run on this
    process's device alone: what the processes tell each other is not in it, nor what ``torch.compile`` gains
    on a GPU, as compiling each size would take longer than it saves. Infinite where the device's memory does
    not hold a step.
    """
    device = processes.device
    batch = config.batch
    forked = [device] if device.type == "cuda" else []  # devices whose random numbers a run must find as they were
    try:
        with torch.random.fork_rng(forked):
            learner = Learner(model, config.model_copy(update={"compile": "off"}), processes.alone())
            shape = (batch.batch_size, batch.sequence_length)
            tokens_BT = torch.randint(model.config.vocab_size, shape, device=device)
            batches = repeat(Batch(tokens_BT, tokens_BT, tokens_BT < 0))

            def take_step() -> None:
                told = train_step(learner, batches, learning_rate=config.optimizer.learning_rate, done=0.0)
                told.tolist()  # which waits for the device

            taken = _fastest(take_step)
    except torch.OutOfMemoryError:
        taken = math.inf
    # The slowest process counts, as the others wait for it in every step.
    seconds: float = processes.most(taken)[0] / (batch.step_tokens * processes.count)
    return seconds


def _fastest(take: Callable[[], None]) -> float:
    """Return the least seconds of ``take`` in one turn."""
    times: list[float] = []
    while len(times) < FEWEST_STEPS or (len(times) < MOST_STEPS and sum(times) < ENOUGH_SECONDS):
        begun = time.perf_counter()
        take()
        times.append(time.perf_counter() - begun)
    return min(times)


class ThroughputBySize:
    """The seconds a token takes by model size: ``measure`` is asked for a few sizes, the rest is drawn through them.

    ``measured`` has the fastest of what is known, in seconds a token; ``too_large`` is the smallest size that
    did not fit into memory.
    """

    def __init__(self, measure: Callable[[int], float]) -> None:
        self._measure = measure
        self._turns: dict[int, int] = {}  # how many each size has had
        self.measured: dict[int, float] = {}
        self.too_large = math.inf

    def learn(self, size: int) -> None:
        """Give ``size`` its first turn, if it is not known."""
        if size in self.measured or size >= self.too_large:
            return
        seconds = self._measure(size)
        if math.isfinite(seconds):
            self.measured[size] = seconds
            self._turns[size] = 1
        else:
            self.too_large = size

    def take_turns(self) -> bool:
        """Measure all that is known again until each size has had its turns; False where all have had them.

        Where one came later, those that have had theirs take part too: a size that is timed alone could not
        be told from what else the machine does at that moment.
        """
        if min(self._turns.values(), default=TURNS) >= TURNS:
            return False
        while min(self._turns.values()) < TURNS:
            for size, fastest in self.measured.items():
                self.measured[size] = min(fastest, self._measure(size))
                self._turns[size] += 1
        return True

    def seconds_per_token(self, size: int) -> float:
        """Return the seconds a token at ``size`` parameters: on the line through the two nearest measurements.

        Below the smallest it is in proportion to size, above the largest on the line through the two largest,
        or where there is one, the same: both too little, so that whoever wants to believe in a size has to
        measure it.
        """
        if size in self.measured:
            return self.measured[size]
        known = sorted(self.measured)
        if size < known[0]:
            return self.measured[known[0]] * size / known[0]
        if len(known) == 1:
            return self.measured[known[0]]

        # The line through the next larger size and the one below it; beyond the largest, through the last two.
        high = next((n for n in known if n > size), known[-1])
        low = known[known.index(high) - 1]
        slope = (self.measured[high] - self.measured[low]) / (high - low)
        if size > high:
            slope = max(0.0, slope)  # on a busy machine the largest may look the faster: it does not go on like that
        return self.measured[high] + (size - high) * slope


class ThroughputCheck:
    """Compares the throughput of a run with the plan by which it was made, once, after a tenth of the run.

    ``planned`` is in tokens a second, None where nothing was planned; a run that is resumed is looked at
    anew, as the machine may be another or no longer busy.
    """

    def __init__(self, planned: float | None) -> None:
        self.planned = planned
        self._began: tuple[float, int, float] | None = None  # done, tokens and seconds at the first look

    def news(self, config: TrainingConfig, *, done: float, tokens: int, seconds: float) -> str | None:
        """Return what there is to say after ``tokens`` in ``seconds``, ``done`` of the budget; mostly nothing."""
        if self.planned is None or config.minutes is None:
            return None
        if self._began is None:
            self._began = (done, tokens, seconds)
        done_before, tokens_before, seconds_before = self._began
        if done - done_before < CHECKED_AFTER - 1e-9:
            return None
        planned = self.planned
        self.planned = None  # said once
        found = (tokens - tokens_before) / max(seconds - seconds_before, 1e-9)
        if 1 / CLOSE_TO_PLAN <= found / planned <= CLOSE_TO_PLAN:
            return None
        return _off_plan(config.minutes, found, planned, tokens=tokens, seconds=seconds)


def _off_plan(minutes: float, found: float, planned: float, *, tokens: int, seconds: float) -> str:
    """Say in one line that a run reads ``found`` tokens a second and not ``planned``, what it means and what to do.

    ``tokens`` were read in ``seconds`` of a budget of ``minutes``.
    """
    seconds_left = max(0.0, 60 * minutes - seconds)
    will_read = tokens + found * seconds_left
    wanted = planned * 60 * minutes
    factor = max(planned / found, found / planned)
    slower = found < planned
    told = (
        f"{found:,.0f} tokens a second, {factor:.1f} times {'slower' if slower else 'faster'} than was timed at the "
        f"start: about {words.count(will_read)} tokens will be read, not {words.count(wanted)}, for which the run was "
        "made."
    )
    if not slower:
        return (
            f"{told} A larger model would do better: start again with overwrite=True, which times anew, or let it be."
        )
    enough_minutes = math.ceil(minutes + (wanted - will_read) / found / 60)
    return (
        f"{told} If another program keeps the machine busy, end it; or stop this run (Ctrl-C) and give it more time: "
        f"resume=True and training.minutes={enough_minutes}."
    )
