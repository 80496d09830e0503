"""``torch.compile`` of the training loss: where it is wanted, and whether this machine can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from weft.errors import UserError
from weft.language_model import LanguageModel, State
from weft.training.objective import Loss, Objective

BACKEND = "inductor"


def training_loss(
    objective: Objective,
    choice: Literal["auto", "on", "off"],
    *,
    device: torch.device,
    sharded: bool,
    attempt: Callable[[Loss], None],
    say: Callable[[str], None],
) -> Loss:
    """Return the loss of ``objective``, compiled if ``choice`` is "on", or "auto" and the device is a GPU.

    Only an objective that is the model's own loss is compiled.

    ``attempt`` takes the compiled loss forwards and backwards once, in the shapes of the training to come: so
    whatever fails fails here, and the time is not taken for training. Where compiling fails, "auto" goes on
    without it and tells ``say``, and "on" raises UserError, as it does for a model in shards, whose blocks
    are gathered one by one.
    """
    gains = device.type == "cuda" and not sharded
    wanted = choice == "on" or (choice == "auto" and gains)
    if not wanted or not objective.compiles:
        return objective.loss
    if sharded:
        raise UserError("A sharded model cannot be compiled: leave training.compile at auto, or launch without FSDP.")
    say("Compiling the model ...")
    compiled = compile_loss(objective.model)
    try:
        attempt(compiled)
    except torch.OutOfMemoryError:  # no failure of the compiler, and told as what it is
        raise
    except Exception as error:  # of the compilers behind torch, whatever they raise
        torch._dynamo.reset()
        what = _reason(error)
        if choice == "on":
            raise UserError(
                f"This machine cannot compile the model ({what}): install what is missing (often a C++ "
                "compiler, such as g++), or set training.compile=off."
            ) from error
        say(f"Going on without torch.compile, which does not work here ({what}).")
        return objective.loss
    return compiled


def _reason(error: Exception) -> str:
    """Return what is wrong in one line, which torch wraps into many."""
    cause = getattr(error, "inner_exception", error)
    for line in str(cause).splitlines():
        if line.strip():
            return line.strip().rstrip(".")
    return type(cause).__name__  # it has no message


def compile_loss(model: LanguageModel) -> Loss:
    """Return ``model.loss``, compiled at its first call, for the shapes that it is called with.

    It is one graph where the model can be one. Where its stack is one and its softmax is none, the softmax
    stays outside; what is none at all (a baseline that looks at its masks) is compiled in parts.
    """
    if model.one_graph != "hidden":
        loss: Loss = torch.compile(model.loss, fullgraph=model.one_graph == "loss", dynamic=False, backend=BACKEND)
        return loss
    hidden = torch.compile(model.hidden, fullgraph=True, dynamic=False, backend=BACKEND)

    def loss_of_hidden(tokens: Tensor, targets: Tensor, state: State, reset: Tensor) -> tuple[Tensor, State]:
        hidden_BTD, after = hidden(tokens, state, reset)
        return model.embedding.loss(hidden_BTD, targets), after

    return loss_of_hidden
