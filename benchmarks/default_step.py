"""The step that ``weft train`` takes by default, at any revision: in this process, or as a process that takes orders.

    PYTHONPATH=TREE/src python -m benchmarks.default_step BATCHES.npz ORDERS        # TREE: another revision

In a process of its own it answers each line of its input, a number of steps, with one line of JSON: their losses and
the seconds that each took. ``weft`` is then whichever the path has.
Shapes: B batch, T time, S batches.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Batches = Sequence[tuple[Tensor, Tensor, Tensor]]  # tokens, targets and resets (B, T) of each step; then anew
Step = Callable[[], float]  # takes a step, waits for it and returns its loss in nats


def default_step(batches: Batches, **asked: Any) -> Step:
    """Return the step of whichever ``weft`` can be imported; ``asked`` is that of :func:`step_of_today`."""
    try:
        import weft.training.learner  # noqa: F401
    except ModuleNotFoundError:
        from benchmarks.older_step import step_of_then

        return step_of_then(batches, **asked)
    return step_of_today(batches, **asked)[0]


def step_of_today(
    batches: Batches,
    *,
    size: str,
    vocab_size: int,
    precision: str,
    architecture: str = "hybrid",
    training: Mapping[str, Any] | None = None,
) -> tuple[Step, Any]:
    """Return the step and the model. Everything that is not asked for is as ``weft train`` has it by default.

    ``training`` has more values of the recipe's section, such as ``{"compile": "on"}``.
    """
    import weft
    from weft.training.learner import Learner
    from weft.training.parallel import Processes
    from weft.training.prefetch import Batch
    from weft.training.recipe import TrainingConfig
    from weft.training.step import train_step

    tokens = batches[0][0]
    batch_size, sequence_length = tokens.shape
    shape = {"batch_size": batch_size, "sequence_length": sequence_length}
    config = TrainingConfig.model_validate({"precision": precision, "batch": shape, **(training or {})})
    processes = Processes().alone()
    processes.device = tokens.device
    model = weft.build(weft.sized(architecture, parameters=size, vocab_size=vocab_size), seed=0)
    learner = Learner(model, config, processes)
    stream = cycle([Batch(*batch) for batch in batches])

    def step() -> float:
        told = train_step(learner, stream, learning_rate=config.optimizer.learning_rate, done=0.5)
        return told.tolist()[0]

    return step, model


def main() -> None:
    """Take the steps that standard input asks for."""
    from weft.training.allocation import keep_memory

    keep_memory()
    orders = json.loads(sys.argv[2])
    torch.set_num_threads(orders.pop("threads"))
    torch.manual_seed(0)
    step = default_step(read_batches(Path(sys.argv[1])), **orders)
    _tell({"weft": str(Path(sys.modules["weft"].__file__ or "").resolve())})
    for line in sys.stdin:
        losses = []
        seconds = []
        for _ in range(int(line)):
            started = time.perf_counter()
            losses.append(step())
            seconds.append(time.perf_counter() - started)
        _tell({"losses": losses, "seconds": seconds})


def _tell(told: Mapping[str, Any]) -> None:
    print(json.dumps(told), flush=True)


def write_batches(path: Path, batches: Batches) -> None:
    """Write batches for another process."""
    import numpy as np

    tokens_SBT, targets_SBT, reset_SBT = (torch.stack(parts).cpu().numpy() for parts in zip(*batches, strict=True))
    np.savez(path, tokens=tokens_SBT, targets=targets_SBT, reset=reset_SBT)


def read_batches(path: Path) -> Batches:
    """Read what :func:`write_batches` wrote."""
    import numpy as np

    with np.load(path) as arrays:
        parts = [torch.from_numpy(arrays[name]) for name in ("tokens", "targets", "reset")]
    return list(zip(*parts, strict=True))


if __name__ == "__main__":
    main()
