"""Tokens in, logits out: the (tied) embedding and the softmax over it.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.layers.cross_entropy import cross_entropy, surprisal

TABLE_STD = 0.02  # of a vector's initial values, before the scale by sqrt(D)


class Embedding(nn.Module):
    """The interface of all embeddings: from tokens to vectors, and from hidden states to the tokens' probabilities."""

    @abstractmethod
    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the embeddings (B, T, D), scaled by sqrt(D) as in Vaswani et al. 2017."""

    @abstractmethod
    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return float32 logits (B, T, V), or other numbers whose softmax is the same, from states (B, T, D)."""

    @abstractmethod
    def loss(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean nats of the targets that are not -100 (zero when all are)."""

    @abstractmethod
    def surprisal(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return each target's nats (B, T), zero where it is -100; no gradient."""

    @abstractmethod
    def initialise(self, *, classic: bool) -> None:
        """Set the initial values of the `classic` or the `modern` shell."""

    @abstractmethod
    def flops(self) -> int:
        """Return the forward operations per token of the products with parameters, all logits made."""

    @abstractmethod
    def softmax_parameters(self) -> int:
        """Return the parameters of the softmax's own matrices, 0 where they are the embedding's."""


def vectors(embedding: Embedding) -> Tensor:
    """Return the vectors (V, D) of all tokens, not scaled, of an embedding that has them in one table."""
    assert isinstance(embedding, TokenEmbedding), "the configuration refuses others"
    return embedding.weight_VD


class TokenEmbedding(Embedding):
    """An embedding whose matrix is also the output layer's when ``tied`` (Press and Wolf 2017)."""

    def __init__(self, vocab_size: int, hidden_size: int, *, tied: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.weight_VD = nn.Parameter(torch.empty(vocab_size, hidden_size))
        self.head_VD = None if tied else nn.Parameter(torch.empty(vocab_size, hidden_size))
        self.bias_V = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    @property
    def weight(self) -> Tensor:
        """The matrix (V, D), not scaled, under the name that it has in ``nn.Embedding``."""
        return self.weight_VD

    @property
    def num_embeddings(self) -> int:
        """The size of the vocabulary."""
        return self.weight_VD.shape[0]

    @property
    def embedding_dim(self) -> int:
        """The model's width."""
        return self.weight_VD.shape[1]

    @property
    def output_weight(self) -> Tensor:
        """The matrix of the output layer."""
        return self.weight_VD if self.head_VD is None else self.head_VD

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the embeddings (B, T, D), scaled by sqrt(D) as in Vaswani et al. 2017."""
        embedded: Tensor = F.embedding(tokens_BT, self.weight_VD)
        return embedded * math.sqrt(self.weight_VD.shape[1])

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return float32 logits (B, T, V)."""
        logits = F.linear(hidden_BTD, self.output_weight, self.bias_V)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def loss(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean nats of the targets that are not -100."""
        return cross_entropy(hidden_BTD.flatten(0, 1), self.output_weight, self.bias_V, targets_BT.flatten())

    def surprisal(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return each target's nats (B, T), zero where it is -100; no gradient."""
        nats = surprisal(hidden_BTD.flatten(0, 1), self.output_weight, self.bias_V, targets_BT.flatten())
        return nats.view(targets_BT.shape)

    @torch.no_grad()
    def initialise(self, *, classic: bool) -> None:  # noqa: ARG002
        """Draw both matrices from N(0, 0.02), in both shells."""
        for parameter in (self.weight_VD, self.head_VD):
            if parameter is not None:
                nn.init.normal_(parameter, std=TABLE_STD)

    def flops(self) -> int:
        """The product with the output matrix."""
        return 2 * self.output_weight.numel()

    def softmax_parameters(self) -> int:
        """The output matrix where it is not the embedding's (its bias is counted with the embedding)."""
        return 0 if self.head_VD is None else self.head_VD.numel()
