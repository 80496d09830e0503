"""What training, evaluation and generation ask of a language model, whoever built it.

:class:`weft.model.WeftModel` implements this protocol, and so does every baseline
(:mod:`weft.baselines`). Nothing else in the house asks which of them it has in its hands. Shapes: B
batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn

# What a model remembers between two calls: a tuple, which whoever passes it on does not look into. Those of a
# model that carries its state are NamedTuples of tensors, batch first (:mod:`weft.layers.state`).
State = Any


class Softmax(Protocol):
    """The output layer: from the last hidden states to the probabilities of the tokens."""

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return float32 logits (B, T, V), or other numbers whose softmax is the same."""

    def loss(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean nats of the targets that are not -100 (zero when all are)."""

    def surprisal(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return each target's nats (B, T), zero where it is -100; no gradient."""


class Module(Protocol):
    """The part of ``torch.nn.Module`` that is asked of a model."""

    training: bool

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield the parameters, each once."""

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters with their names."""

    def modules(self) -> Iterator[nn.Module]:
        """Yield all parts, this one first."""

    def train(self, mode: bool = True) -> Self:
        """Go to training mode, or out of it."""

    def eval(self) -> Self:
        """Go to evaluation mode."""

    def to(self, device: torch.device, /) -> Self:
        """Move to a device, in place."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Let the parameters learn, or not."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take these values; with ``assign``, these very parameters."""


class Scorer(Module, Protocol):
    """What is asked of a model to score a text."""

    @property
    def context(self) -> int | None:
        """The most tokens that it sees at once; None where it carries its state through a text of any length."""

    def surprisal(
        self, tokens: Tensor, targets: Tensor, state: State | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return each target's nats (B, T), zero where it is -100, and the state; no gradient."""


class LanguageModel(Scorer, Protocol):
    """A causal language model.

    ``tokens`` are (B, T); ``targets`` (B, T) are aligned to the logits, and -100 is ignored; ``state`` is
    what an earlier call returned (None at the start of a text); ``reset`` is a boolean (B, T), True at the
    first token of each document: nothing crosses it.

    With ``checkpoint_activations`` set, training keeps only what goes into each block, and makes the rest
    again in the backward pass.
    """

    checkpoint_activations: bool

    @property
    def config(self) -> Any:
        """Its configuration, which has at least ``vocab_size`` and ``hidden_size``."""

    @property
    def model_type(self) -> str:
        """The word by which ``config.json`` and :mod:`weft.baselines` know the kind of model."""

    @property
    def shape(self) -> str:
        """What it is made of, in a few words."""

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks that have parameters of their own; processes that share one model share these."""

    @property
    def depth(self) -> int:
        """The number of block applications."""

    @property
    def window(self) -> int:
        """How many tokens attention reaches back at most; 0 without attention."""

    @property
    def embedding(self) -> Softmax:
        """The embedding as the output layer."""

    @property
    def one_graph(self) -> Literal["loss", "hidden"] | None:
        """The largest method of which ``torch.compile`` makes a single graph."""

    @property
    def data_parallel_only(self) -> str | None:
        """What keeps parameters from being shared among processes (FSDP), in the plural; None where nothing does."""

    @property
    def parameter_count(self) -> int:
        """All parameters, shared storage counted once."""

    @property
    def body_parameter_count(self) -> int:
        """The parameters outside the embedding and the softmax."""

    def state_bytes(self, context: int) -> int:
        """Return the float32 bytes of state that one sequence carries after ``context`` tokens."""

    def __call__(self, tokens: Tensor, state: State | None = None, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """Return float32 ``(logits_BTV, state)``; position t's logits are for the token at t + 1."""

    def hidden(self, tokens: Tensor, state: State | None = None, reset: Tensor | None = None) -> tuple[Tensor, State]:
        """Return the last hidden states (B, T, D), which the softmax reads, and the state."""

    def loss(
        self, tokens: Tensor, targets: Tensor, state: State | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Return ``(mean nats, state)``; the caller has shifted the targets."""

    def empty_state(self, batch_size: int, device: torch.device) -> State:
        """Return the state at a text's start in its full size, for training: zeros, which blocks take for none."""

    def observe(self, tokens: Tensor, summed: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        """Take in what was read in training, without a gradient; ``summed`` adds a tensor up over all processes."""

    def lookup_tables(self) -> list[nn.Parameter]:
        """Return the tables beside the embedding, most rows of which are read rarely: they have their own rate."""
