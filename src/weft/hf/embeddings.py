"""The embedding and the softmax under the names that Hugging Face code looks for, and their resizing.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weft.errors import UserError
from weft.layers.embedding import TABLE_STD, Embedding, TokenEmbedding


class InputEmbeddings(nn.Module):
    """What ``get_input_embeddings`` returns: a view of the model's embedding, with no parameters of its own.

    Its outputs are the vectors that the blocks read, so they are what ``inputs_embeds`` takes: ``weight`` times the
    square root of the width. An adaptive embedding, which is no single matrix, has no ``weight``.
    """

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the embeddings (B, T, D)."""
        embedded: Tensor = self.embedding(tokens_BT)
        return embedded

    @property
    def weight(self) -> Tensor:
        """The matrix (V, D), not scaled."""
        return _table(self.embedding).weight_VD

    @property
    def num_embeddings(self) -> int:
        """The size of the vocabulary."""
        return self.weight.shape[0]

    @property
    def embedding_dim(self) -> int:
        """The model's width."""
        return self.weight.shape[1]


class OutputEmbeddings(nn.Module):
    """What ``get_output_embeddings`` returns: a view of the softmax, with no parameters of its own."""

    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        """Return the logits (B, T, V)."""
        return self.embedding.logits(hidden_BTD)

    @property
    def weight(self) -> Tensor:
        """The matrix (V, D), which is the embedding's where they are tied."""
        return _table(self.embedding).output_weight

    @property
    def bias(self) -> Tensor | None:
        """The bias (V,), if there is one."""
        return _table(self.embedding).bias_V


def _table(embedding: Embedding) -> TokenEmbedding:
    if not isinstance(embedding, TokenEmbedding):
        raise AttributeError("an adaptive embedding is no single matrix")  # so that hasattr() says no
    return embedding


@torch.no_grad()
def resize(embedding: Embedding, size: int, *, mean: bool) -> None:
    """Give ``embedding`` and its softmax ``size`` rows: the last ones go, or new ones come.

    New rows are the mean of the old ones with ``mean``, else drawn as at the start of training. The parameters are
    new objects: make the optimizer afterwards.
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
