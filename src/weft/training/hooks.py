"""What takes part in a training beside the loss: a hook is called at fixed points of every step.

    prepare, parameter_groups, begin        once, when the trainer is made
    for each step:
        before_step
            after_segment                   for each segment whose gradients the step adds up
        after_backward                      the gradients are there, the weights are still the old ones
        (gradients are clipped, the optimizers change the weights)
        after_step
    validating                              around every validation and every sample
    end                                     once, when the loop has ended

A method of training (:mod:`weft.training.methods`) makes one; the trainer knows none by name.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.optim import Optimizer

from weft.training.prefetch import Batch


class Hook:
    """A part of a training that does nothing yet: override what is needed.

    No method may wait for the device, apart from ``state_dict`` and ``load_state_dict``: steps are queued there.
    """

    def prepare(self) -> None:
        """Add parameters to the model or freeze some: it is on its device, and the optimizers are not made yet.

        A training that is resumed calls this too, and then :meth:`load_state_dict`.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return parameter groups that AdamW gets as they are, each with its ``params`` and ``weight_decay``.

        Parameters in them are taken from all other groups. ``rate`` is their learning rate by that of the rest.
        """
        return []

    def begin(self, optimizers: list[Optimizer]) -> None:
        """Hear that everything is made. The list is the trainer's own: an optimizer taken out of it is used no more."""

    def before_step(self, done: float) -> None:
        """Act before a step, where ``done`` (from 0 to 1) of the budget is used."""

    def after_segment(self, batch: Batch) -> None:
        """Act on a segment that was read, forwards and backwards; the weights are still those of the step before."""

    def after_backward(self) -> None:
        """Act on the gradients of the whole step, before they are clipped and the optimizers use them."""

    def after_step(self) -> None:
        """Act on the new weights. They are the old ones where loss or gradient was not finite."""

    def validating(self) -> AbstractContextManager[None]:
        """Return the context in which the model is validated and saved as the best, and in which it writes samples."""
        return nullcontext()

    def end(self) -> None:
        """Hear that the loop has ended, because the budget is used or somebody stopped it; leave the model as it is."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: tensors, and values that JSON can hold; alike on all processes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` returned (shards as whole tensors). The weights are loaded after it."""
