"""How fast this machine trains: the seconds that a token takes, measured on a few steps over random tokens.

Shapes: B lanes, T positions of a segment.
"""

from __future__ import annotations

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

    The median of a few steps, on this process's device alone: what the processes tell each other is not in it.
    """
    device = processes.device
    model.to(device).train()
    if config.checkpoint_activations:
        checkpoint_activations(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        tokens_BT = torch.randint(model.config.vocab_size, (config.lanes, config.length), device=device)
        bf16 = use_bf16(config.precision, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            state = empty_state(model, config.lanes, device)
        step, optimizers = Step(model, model.loss, state), make_optimizers(model, config)

        def take() -> None:
            nonlocal state
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss, *after = step(tokens_BT, tokens_BT, tokens_BT < 0, *tensors(state))
            state = rebuild(state, after)
            torch.autograd.backward(loss)
            apply_gradients(model, optimizers, loss.detach(), config.clip).tolist()  # which waits for the device

        taken = _times(take)
    seconds: float = processes.most(taken)[0] / (config.lanes * config.length * processes.count)
    return seconds


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
    """The seconds a token takes by model size: ``measure`` is asked for a few sizes, the rest is drawn between them."""

    def __init__(self, measure: Callable[[int], float]) -> None:
        self._measure = measure
        self.measured: dict[int, float] = {}

    def learn(self, size: int) -> None:
        """Measure ``size``, if it is not known."""
        if size not in self.measured:
            self.measured[size] = self._measure(size)

    def at(self, size: int) -> float:
        """Return the seconds a token at ``size`` parameters: on the line through the two nearest measurements.

        Beyond the measurements it is in proportion to the nearest: too little, so that whoever wants to believe a small
        size's has to measure it.
        """
        if size in self.measured:
            return self.measured[size]
        known = sorted(self.measured)
        nearest = min(max(size, known[0]), known[-1])
        if nearest != size:
            return self.measured[nearest] * size / nearest
        low = max(n for n in known if n < size)
        high = min(n for n in known if n > size)
        share = (size - low) / (high - low)
        return self.measured[low] * (1 - share) + self.measured[high] * share
