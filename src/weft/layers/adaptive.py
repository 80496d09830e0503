"""Adaptive input and softmax: rare tokens in clusters of their own, with shorter vectors if wanted.

After Grave et al. 2017 (arXiv 1609.04309, the softmax), Baevski and Auli 2019 (arXiv 1809.10853, the input)
and Transformer-XL (Dai et al. 2019, arXiv 1901.02860). Token ids fall in frequency. With the clusters C_0
(the shortlist) to C_K, the head is one softmax over the tokens of C_0 and one logit for each of the K others:

    p(w | h) = head(w | h)                     for w in C_0
    p(w | h) = head(C_i | h) tail_i(w | h)     for w in C_i, i > 0
    tail_i = softmax(T_i P_i^T h + b_i),       input(w) = sqrt(D) P_i T_i[w]

T_i is the table of cluster i, of width E_i, and P_i its map to the model's width. Tied, input and softmax
share both.

Shapes: B batch, T time, N tokens, D model width, E width of a cluster's vectors, K
tail clusters, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.config import AdaptiveConfig, ModelConfig
from weft.layers.cross_entropy import count_targets, cross_entropy, surprisal
from weft.layers.embedding import TABLE_STD, Embedding, TokenEmbedding

CLASSIC_PROJECTION_STD = 0.01  # Transformer-XL's
Softmax = tuple[Tensor, Tensor, Tensor | None, Tensor]  # hidden states, weight, bias, targets


def make_embedding(config: ModelConfig) -> Embedding:
    """Return the embedding that ``config`` asks for, its values not yet set."""
    vocabulary = config.vocab_size
    width = config.hidden_size
    tied = config.tie_embeddings
    if config.adaptive is None:
        return TokenEmbedding(vocabulary, width, tied=tied, bias=config.head_bias)
    return AdaptiveEmbedding(vocabulary, width, config.adaptive, tied=tied, bias=config.head_bias)


class AdaptiveEmbedding(Embedding):
    """An embedding and softmax in clusters of falling frequency, exact: probabilities sum to 1 over the vocabulary.

    ``projections`` holds no map where every vector is as wide as the model, one where they are all of another
    width, and one for each cluster (the shortlist too) where ``div_val`` is above 1. With ``bias``, each
    token's and each tail cluster's logit has one.
    """

    def __init__(
        self, vocab_size: int, hidden_size: int, adaptive: AdaptiveConfig, *, tied: bool = True, bias: bool = False
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.ranges = tuple(pairwise((0, *adaptive.cutoffs, vocab_size)))
        self.widths = widths(hidden_size, adaptive)
        tails = len(self.ranges) - 1
        self.tables = self._tables()
        self.projections = self._maps(adaptive.div_val)
        self.head_tables = None if tied else self._tables()
        self.head_projections = None if tied else self._maps(adaptive.div_val)
        self.clusters_KE = nn.Parameter(torch.empty(tails, self.widths[0]))
        self.bias_V = nn.Parameter(torch.zeros(vocab_size)) if bias else None
        self.cluster_bias_K = nn.Parameter(torch.zeros(tails)) if bias else None

    def _tables(self) -> nn.ParameterList:
        """Make the vectors of each cluster's tokens."""
        tables = nn.ParameterList()
        for (first, last), width in zip(self.ranges, self.widths, strict=True):
            tables.append(nn.Parameter(torch.empty(last - first, width)))
        return tables

    def _maps(self, div_val: int) -> nn.ParameterList:
        """Make the maps (D, E) from vectors to the model's width: none, one, or one for each cluster."""
        if set(self.widths) == {self.hidden_size}:
            return nn.ParameterList()
        mapped = self.widths[:1] if div_val == 1 else self.widths
        return nn.ParameterList(nn.Parameter(torch.empty(self.hidden_size, width)) for width in mapped)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the embeddings (B, T, D), scaled by sqrt(D).

        Every cluster is looked up for every token and the right one chosen, so that
        shapes do not depend on values.
        """
        embedded = self._vectors(tokens_BT, 0)
        for tail in range(1, len(self.ranges)):
            reached = (tokens_BT >= self.ranges[tail][0])[..., None]
            embedded = torch.where(reached, self._vectors(tokens_BT, tail), embedded)
        if len(self.projections) == 1:
            embedded = F.linear(embedded, self.projections[0])
        return embedded * math.sqrt(self.hidden_size)

    def _vectors(self, tokens_BT: Tensor, cluster: int) -> Tensor:
        """Look ``tokens_BT`` up in one cluster, for others something in it; one outside the vocabulary is an error."""
        # Ids of other clusters are moved into this one. Outside the vocabulary they are left where they are:
        # below the first cluster and above the last, where the look-up fails.
        first, last = self.ranges[cluster]
        lowest = None if cluster == 0 else 0
        highest = None if cluster == len(self.ranges) - 1 else last - first - 1
        rows = F.embedding((tokens_BT - first).clamp(lowest, highest), self.tables[cluster])
        return F.linear(rows, self.projections[cluster]) if len(self.projections) > 1 else rows

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Return the log-probabilities (B, T, V) in float32: their exponentials sum to 1."""
        hidden_BTE = self._narrow(hidden_BTD)
        head = _log_softmax(self._narrow(hidden_BTE, 0), self._head_weight(), self._head_bias())
        shortlist = self.ranges[0][1]
        parts = [head[..., :shortlist]]
        for tail in range(1, len(self.ranges)):
            within = _log_softmax(self._narrow(hidden_BTE, tail), self._output_table(tail), self._bias(tail))
            place = shortlist + tail - 1
            parts.append(within + head[..., place : place + 1])
        return torch.cat(parts, dim=-1)

    def loss(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean nats of the targets that are not -100; tails are computed for their own targets only."""
        targets_N = targets_BT.flatten()
        count = count_targets(targets_N)
        parts = self._parts(hidden_BTD.flatten(0, 1), targets_N)
        return torch.stack([cross_entropy(*softmax, count) for _, softmax in parts]).sum()

    @torch.no_grad()
    def surprisal(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        """Return each target's nats (B, T), zero where it is -100; no gradient."""
        dtype = torch.promote_types(hidden_BTD.dtype, torch.float32)
        nats_N = torch.zeros(targets_BT.numel(), dtype=dtype, device=hidden_BTD.device)
        for rows, softmax in self._parts(hidden_BTD.flatten(0, 1), targets_BT.flatten()):
            nats_N[rows] += surprisal(*softmax)
        return nats_N.view(targets_BT.shape)

    def _parts(self, hidden_ND: Tensor, targets_N: Tensor) -> Iterator[tuple[Tensor | slice, Softmax]]:
        """Yield the head and each tail: which tokens it is computed for, and what their cross-entropy is made of."""
        # The head's target is the token itself where it is in the shortlist, else the cluster that it is in.
        hidden_NE = self._narrow(hidden_ND)
        cluster_N = torch.stack([targets_N >= first for first, _ in self.ranges[1:]]).sum(0)
        head_N = torch.where(cluster_N > 0, self.ranges[0][1] + cluster_N - 1, targets_N)
        yield slice(None), (self._narrow(hidden_NE, 0), self._head_weight(), self._head_bias(), head_N)
        # A tail's targets are its tokens, numbered from its first one; the shape depends on the text.
        for tail, (first, _) in enumerate(self.ranges[1:], start=1):
            inside = cluster_N == tail
            hidden = self._narrow(hidden_NE[inside], tail)
            yield inside, (hidden, self._output_table(tail), self._bias(tail), targets_N[inside] - first)

    @torch.no_grad()
    def initialise(self, *, classic: bool) -> None:
        """Draw vectors from N(0, 0.02) in both shells, and maps from N(0, 0.01) (`classic`) or N(0, 1 / E) (`modern`).

        With the modern values, all clusters begin with inputs and logits of the same size.
        """
        for vectors in (*self.tables, *(self.head_tables or ()), self.clusters_KE):
            nn.init.normal_(vectors, std=TABLE_STD)
        for projection in (*self.projections, *(self.head_projections or ())):
            std = CLASSIC_PROJECTION_STD if classic else projection.shape[1] ** -0.5
            nn.init.normal_(projection, std=std)

    def flops(self) -> int:
        """The maps in and out and the logits of every cluster, as generation makes them.

        An upper bound: a token that is scored needs the head and, if it is not in the
        shortlist, its own cluster.
        """
        vectors: list[Tensor] = [*self.tables, self.clusters_KE]
        softmax = sum(2 * matrix.numel() for matrix in vectors)
        projections: list[Tensor] = [*self.projections]
        maps = sum(4 * matrix.numel() for matrix in projections)  # once in, once out
        return softmax + maps

    def softmax_parameters(self) -> int:
        """The output tables and maps where they are not the embedding's (the rest is counted with the embedding)."""
        own: list[Tensor] = [*(self.head_tables or ()), *(self.head_projections or ())]
        return sum(parameter.numel() for parameter in own)

    def _narrow(self, hidden: Tensor, cluster: int | None = None) -> Tensor:
        """Map hidden states (..., D) to the width of the vectors: of all clusters at once, or of one by its own map.

        So each state is narrowed once: by the first call where there is one map, by the second where there
        are several.
        """
        maps = self.projections if self.head_projections is None else self.head_projections
        if cluster is None and len(maps) == 1:
            return F.linear(hidden, maps[0].t())
        if cluster is not None and len(maps) > 1:
            return F.linear(hidden, maps[cluster].t())
        return hidden

    def _output_table(self, cluster: int) -> Tensor:
        tables = self.tables if self.head_tables is None else self.head_tables
        table: Tensor = tables[cluster]
        return table

    def _bias(self, cluster: int) -> Tensor | None:
        first, last = self.ranges[cluster]
        return None if self.bias_V is None else self.bias_V[first:last]

    def _head_weight(self) -> Tensor:
        """Return the vectors of the shortlist's tokens, then of the tail clusters."""
        return torch.cat([self._output_table(0), self.clusters_KE])

    def _head_bias(self) -> Tensor | None:
        shortlist = self._bias(0)
        if shortlist is None or self.cluster_bias_K is None:
            return None
        return torch.cat([shortlist, self.cluster_bias_K])


def widths(hidden_size: int, adaptive: AdaptiveConfig) -> tuple[int, ...]:
    """Return the width of the vectors of each cluster, the shortlist first."""
    widest = adaptive.embedding_size or hidden_size
    return tuple(max(1, widest // adaptive.div_val**cluster) for cluster in range(len(adaptive.cutoffs) + 1))


def _log_softmax(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    return F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
