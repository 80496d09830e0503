"""How fast this machine trains: the seconds that a token takes, measured on a few steps over random tokens.

Shapes: B lanes, T positions of a segment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median

import torch

from weft.layers.state import tensors
from weft.peers import LanguageModel
from weft.training.optimizer import make_optimizers
from weft.training.parallel import Processes
from weft.training.precision import use_bf16
from weft.training.recipe import TrainingConfig
from weft.training.step import Step, apply_gradients, checkpoint_activations, empty_state, rebuild

WARM_STEPS = 2  # the first ones find kernels and memory
FEWEST_STEPS, MOST_STEPS = 3, 12
ENOUGH_SECONDS = 1.0


def seconds_per_token(model: LanguageModel, config: TrainingConfig, processes: Processes) -> float:
    """Return the seconds that a training token takes all ``processes`` together; ``model`` is spoilt by it.

    The median of a few optimizer steps, on this process's device alone: what the processes tell each other is not in
    it, nor what ``torch.compile`` gains on a GPU, as compiling each size would take longer than it saves. Infinite
    where the device's memory does not hold a step.
    """
    device = processes.device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            taken = _times(_step(model.to(device).train(), config, device))
    except torch.OutOfMemoryError:
        taken = math.inf
    seconds: float = processes.most(taken)[0] / (config.step_tokens * processes.count)
    return seconds


def _step(model: LanguageModel, config: TrainingConfig, device: torch.device) -> Callable[[], None]:
    """Return what takes an optimizer step on random tokens and waits for it, as training does."""
    if config.checkpoint_activations:
        checkpoint_activations(model)
    bf16 = use_bf16(config.precision, device)
    tokens_BT = torch.randint(model.config.vocab_size, (config.lanes, config.length), device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        state = empty_state(model, config.lanes, device)
    step, optimizers = Step(model, model.loss, state), make_optimizers(model, config)

    def take() -> None:
        nonlocal state
        for _ in range(config.accumulation):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss, *after = step(tokens_BT, tokens_BT, tokens_BT < 0, *tensors(state))
            model.observe(tokens_BT)
            state = rebuild(state, after)
            torch.autograd.backward(loss / config.accumulation)
        apply_gradients(model, optimizers, loss.detach(), config.clip).tolist()  # which waits for the device

    return take


def _times(take: Callable[[], None]) -> float:
    """Return the median seconds of ``take``, warmed up."""
    for _ in range(WARM_STEPS):
        take()
    times: list[float] = []
    while len(times) < FEWEST_STEPS or (len(times) < MOST_STEPS and sum(times) < ENOUGH_SECONDS):
        begun = time.perf_counter()
        take()
        times.append(time.perf_counter() - begun)
    return median(times)


class Pace:
    """The seconds a token takes by model size: ``measure`` is asked for a few sizes, the rest is drawn through them.

    ``measured`` has what is known, ``too_large`` the smallest size that did not fit into memory.
    """

    def __init__(self, measure: Callable[[int], float]) -> None:
        self._measure = measure
        self.measured: dict[int, float] = {}
        self.too_large = math.inf

    def learn(self, size: int) -> None:
        """Measure ``size``, if it is not known."""
        if size in self.measured or size >= self.too_large:
            return
        if math.isfinite(seconds := self._measure(size)):
            self.measured[size] = seconds
        else:
            self.too_large = size

    def at(self, size: int) -> float:
        """Return the seconds a token at ``size`` parameters: on the line through the two nearest measurements.

        Below the smallest it is in proportion to size, above the largest on the line through the two largest, or where
        there is one, the same: both too little, so that whoever wants to believe in a size has to measure it.
        """
        known = sorted(self.measured)
        if size in self.measured:
            return self.measured[size]
        if size < known[0]:
            return self.measured[known[0]] * size / known[0]
        if len(known) == 1:
            return self.measured[known[0]]
        high = next((n for n in known if n > size), known[-1])
        low = known[known.index(high) - 1]
        slope = (self.measured[high] - self.measured[low]) / (high - low)
        return self.measured[high] + (size - high) * (slope if size < high else max(0.0, slope))
