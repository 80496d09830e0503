"""The default step at e923f5e, whose modules have other names: what :mod:`benchmarks.default_step` is today."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import torch

from benchmarks.default_step import Batches, Step


def step_of_then(batches: Batches, *, size: str, vocab_size: int, precision: str) -> Step:
    """Return the step, which does what the loop of training did at that revision."""
    import weft
    from weft.layers.state import tensors
    from weft.training.optimizer import make_optimizers, set_learning_rate
    from weft.training.precision import use_bf16
    from weft.training.recipe import TrainingConfig
    from weft.training.step import Step as ForwardPass
    from weft.training.step import apply_gradients, clear_if_, empty_state, rebuild

    device = torch.device("cpu")
    lanes, length = batches[0][0].shape
    config: Any = TrainingConfig.model_validate({"precision": precision, "lanes": lanes, "length": length})
    bf16 = use_bf16(config.precision, device)
    model: Any = weft.build(weft.sized("hybrid", parameters=size, vocab_size=vocab_size), seed=0).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        empty = empty_state(model, lanes, device)
    module: Any = ForwardPass(model, model.loss, empty)
    optimizers: Any = make_optimizers(model, config)
    state = empty
    stream = cycle(batches)

    def step() -> float:
        nonlocal state
        set_learning_rate(optimizers, config.learning_rate)
        tokens_BT, targets_BT, reset_BT = next(stream)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, *after = module(tokens_BT, targets_BT, reset_BT, *tensors(state))
        model.observe(tokens_BT)
        state = rebuild(empty, after)
        loss.backward()
        told = apply_gradients(model, optimizers, loss.detach(), config.clip)
        clear_if_(told[2], state)
        return told.tolist()[0]

    return step
