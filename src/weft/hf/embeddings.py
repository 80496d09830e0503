"""The softmax under the name that Hugging Face code looks for, and the embedding exchanged and resized.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.hf.offloading import loaded
from weft.layers.embedding import TABLE_STD, Embedding, TokenEmbedding


class HasEmbedding(Protocol):
    """A model whose embedding may be exchanged."""

    embedding: Embedding


class OutputEmbeddings(nn.Module):
    """What ``get_output_embeddings`` returns: the softmax of a model's embedding, with no parameters of its own.

    The embedding is looked up in the model, so it is always the one that the model has now.
    """

    def __init__(self, model: HasEmbedding) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not registered, as the model has registered this

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy with the model; UserError where this alone is copied, as peft does with what it is to train anew."""
        model = memo.get(id(self.__dict__["model"]))
        if model is None:
            raise UserError(
                "Weft's softmax is a part of its embedding and cannot be trained or copied by itself: name 'embedding' "
                "instead of 'lm_head', for example modules_to_save=['embedding']."
            )
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        rest = {name: value for name, value in vars(self).items() if name != "model"}
        vars(copied).update(copy.deepcopy(rest, memo), model=model)
        return copied

    @property
    def embedding(self) -> Embedding:
        """The model's embedding."""
        embedding: Embedding = self.__dict__["model"].embedding
        return embedding

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Return the logits (B, T, V)."""
        with loaded(self.embedding):
            return self.embedding.logits(hidden_BTD)

    @property
    def weight(self) -> Tensor:
        """The matrix (V, D), which is the embedding's where they are tied."""
        weight: Tensor = table(self.embedding).output_weight
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The bias (V,), if there is one."""
        bias: Tensor | None = table(self.embedding).bias_V
        return bias

    @property
    def in_features(self) -> int:
        """The model's width."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """The size of the vocabulary."""
        return self.weight.shape[0]


def table(embedding: Embedding) -> Any:
    """Return an embedding that is a single matrix, or what stands around one and passes its attributes on (peft's)."""
    if not hasattr(embedding, "weight_VD"):
        raise AttributeError("an adaptive embedding is no single matrix")  # so that hasattr() says no
    return embedding


def exchange(embedding: Embedding, value: nn.Module) -> Embedding:
    """Return ``value``, which is to take the place of ``embedding``; UserError where it cannot."""
    if not isinstance(value, Embedding):
        raise UserError(
            f"A {type(value).__name__} cannot be a Weft model's embedding, which is its softmax, too: give another "
            f"{type(embedding).__name__}, use resize_token_embeddings, or change its weight in place."
        )
    have = {name: parameter.shape for name, parameter in embedding.named_parameters()}
    given = {name: parameter.shape for name, parameter in value.named_parameters()}
    if have != given:
        raise UserError("An embedding of another size cannot take this one's place: use resize_token_embeddings.")
    return value


@torch.no_grad()
def resize(embedding: Embedding, size: int, *, mean: bool) -> None:
    """Give ``embedding`` and its softmax ``size`` rows: the last ones go, or new ones come.

    New rows are the mean of the old ones with ``mean``, else drawn as at the start of training. The
    parameters are new objects: make the optimizer afterwards.
    """
    if not isinstance(embedding, TokenEmbedding):
        raise UserError("An adaptive embedding cannot be resized: its clusters are parts of the vocabulary.")
    for name in ("weight_VD", "head_VD", "bias_V"):
        old = getattr(embedding, name)
        if old is not None:
            rows = _resized(old.detach(), size, mean=mean)
            setattr(embedding, name, nn.Parameter(rows, requires_grad=old.requires_grad))


def _resized(old: Tensor, size: int, *, mean: bool) -> Tensor:
    kept = min(size, old.shape[0])
    rows = old.new_empty(size, *old.shape[1:])
    rows[:kept] = old[:kept]
    if mean:
        rows[kept:] = old.mean(0)
    elif old.dim() == 1:  # a bias
        rows[kept:] = 0
    else:
        rows[kept:].normal_(std=TABLE_STD)
    return rows
