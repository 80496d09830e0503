"""What a training step does on the device: the loss, its gradient, and the change of the weights.

Nothing in it waits for the device, so that steps can be queued: a step whose loss or gradient is not finite is undone
where it is found, and the host hears of it when it looks.
Shapes: B lanes, T positions of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from weft.baselines.llama import LanguageModel, Peer
from weft.layers.state import detach, map_state, tensors
from weft.model import ModelState, WeftModel
from weft.training.parallel import whole

# (tokens, targets, state, reset) -> (mean nats, state); the loss of a model, as it is or compiled.
Loss = Callable[[Tensor, Tensor, ModelState, Tensor], tuple[Tensor, ModelState]]


class Step(nn.Module):
    """The loss as a forward pass, which is what wrappers for several processes synchronise.

    ``state`` gives the structure of the model's state. Here it comes and goes as plain tensors: wrappers take tuples of
    tensors apart. What goes is detached and contiguous, so that nothing larger is kept for a part of it, and a compiled
    loss meets one layout.
    """

    def __init__(self, model: LanguageModel, loss: Loss, state: ModelState) -> None:
        super().__init__()
        self.model, self.loss, self.state = model, loss, state

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor, reset_BT: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Return the mean nats and the tensors of the state, given those before the segment."""
        loss, after = self.loss(tokens_BT, targets_BT, rebuild(self.state, state), reset_BT)
        return (loss, *map(_by_itself, tensors(detach(after))))

    def surprisal(
        self, tokens: Tensor, targets: Tensor, state: ModelState | None, reset: Tensor
    ) -> tuple[Tensor, ModelState]:
        """Score with the model, whose parameters may be in shards."""
        assert isinstance(self.model, WeftModel), "a peer is scored by its own method"
        return self.model.surprisal(tokens, targets, state, reset)


def _by_itself(part: Tensor) -> Tensor:
    """Return ``part`` contiguous, and with nothing else in its memory."""
    part = part.contiguous()
    return part if part.untyped_storage().nbytes() == part.nbytes else part.clone()


def checkpoint_activations(model: LanguageModel) -> None:
    """Let ``model`` keep only what goes into each block, and make the rest again in the backward pass."""
    if isinstance(model, Peer):
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")  # transformers' new name and old
        enable: Any = next(getattr(model.model, name) for name in names if hasattr(model.model, name))
        enable({"use_reentrant": False})
    else:
        model.checkpoint_activations = True


def rebuild(like: ModelState, parts: Sequence[Tensor]) -> ModelState:
    """Return ``parts``, in the order of :func:`weft.layers.state.tensors`, in the structure of ``like``."""
    following = iter(parts)

    def following_part(_: Tensor) -> Tensor:
        return next(following)

    return map_state(following_part, like)


def empty_state(model: LanguageModel, lanes: int, device: torch.device) -> ModelState:
    """Return the state at a text's start, in the size that it has later (:meth:`WeftModel.empty_state`).

    Peers have no state.
    """
    return () if isinstance(model, Peer) else model.empty_state(lanes, device)


def clear_if_(condition: Tensor, state: ModelState) -> None:
    """Empty ``state`` in place if the scalar ``condition`` is not 0, without looking at it on the host."""
    for part in tensors(state):
        part.masked_fill_(condition != 0, 0)


def apply_gradients(model: nn.Module, optimizers: Sequence[Optimizer], loss: Tensor, clip: float) -> Tensor:
    """Clip the gradients, let the optimizers take a step and drop the gradients.

    Return the loss, the norm of the gradient and whether the step was left out, as one float32 tensor of three. It is
    left out, and nothing changes, where loss or norm is not finite.
    """
    norm = whole(nn.utils.clip_grad_norm_(model.parameters(), clip))
    finite = (loss.isfinite() & norm.isfinite()).to(torch.float32)
    told = torch.stack([loss.to(torch.float32), norm.to(torch.float32), 1 - finite])
    # Fused optimizers heed `found_inf` on these devices, and Muon everywhere; elsewhere the host must look at once.
    if loss.device.type in ("cpu", "cuda") or told[2].item() == 0:
        for optimizer in optimizers:
            optimizer.found_inf = told[2]  # type: ignore[attr-defined]
            optimizer.step()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    return told
