"""Latent bigrams beside the embedding (N-Grammer, Roy et al. 2022, arXiv 2207.06366).

A token's vector is cut into heads. In each, the nearest of K centroids is the token's latent id z (product
quantisation), and the pair of ids at a position and before it has a vector of its own in a hashed table:

    b_t = z_t + K z_{t-1},   row = ((b (i + 1) + i + 1) mod p_i) mod R   for head i = 0, 1, ...
    out_t = [LN(x_t) without its last w features, LN(table_i[row])]

with p_i the i-th prime above R, and z_{t-1} = 0 at a document's start. Centroids follow the tokens that are
read in training (an exponential mean; those that no token is nearest to stay where they are, while the
published code lets them shrink). Ids depend on the token alone, so there is a table of them (V, H).

Shapes: B batch, T time, D model width, H heads, E = D / H features of a head, K clusters, R rows of a head's
table, W features of a row, V vocabulary, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.config import NGramsConfig
from weft.layers.embedding import TABLE_STD
from weft.layers.state import NoState
from weft.layers.versions import versions

EPS = 1e-5


class NGramState(NamedTuple):
    """The latent ids of the last token (0 at a document's start)."""

    ids_BH: Tensor


class LatentBigrams(nn.Module):
    """The layer between the embedding and the blocks; with tables of no rows, its norm of each head alone."""

    def __init__(self, config: NGramsConfig, hidden_size: int) -> None:
        super().__init__()
        heads = config.heads
        features = hidden_size // config.heads
        self.config = config
        self.features = features
        self.token_gain_HE = nn.Parameter(torch.ones(heads, features))
        self.token_bias_HE = nn.Parameter(torch.zeros(heads, features))
        if not config.table_size:
            return
        self.primes = primes_above(config.table_size, heads)
        self.centroids_HKE = nn.Parameter(torch.empty(heads, config.clusters, features), requires_grad=False)
        self.tables_NW = nn.Parameter(torch.empty(heads * config.table_size, config.width))
        self.pair_gain_HW = nn.Parameter(torch.ones(heads, config.width))
        self.pair_bias_HW = nn.Parameter(torch.zeros(heads, config.width))
        self._known: tuple[object, Tensor] | None = None

    @property
    def remembers(self) -> bool:
        """Whether there are bigrams, and so a state."""
        return self.config.table_size > 0

    @property
    def state_bytes(self) -> int:
        """The bytes of one sequence's state: an id of eight bytes in each head."""
        return 8 * self.config.heads if self.remembers else 0

    def _by_head(self, x: Tensor) -> Tensor:
        """Cut the last dimension into heads."""
        return x.reshape(*x.shape[:-1], -1, self.features)

    def tables(self) -> list[nn.Parameter]:
        """Return the tables of bigrams, which learn at a rate of their own."""
        return [self.tables_NW] if self.remembers else []

    def forward(
        self, x_BTD: Tensor, ids_BTH: Tensor | None, state: NGramState | NoState | None, reset_BT: Tensor | None
    ) -> tuple[Tensor, NGramState | NoState]:
        """Return what the blocks read (B, T, D) and the state, from the tokens' vectors and latent ids (:meth:`ids`).

        ``state`` is None at a text's start. Without bigrams nothing is remembered.
        """
        x_BTHE = F.layer_norm(self._by_head(x_BTD), (self.features,), eps=EPS)
        x_BTHE = x_BTHE * self.token_gain_HE + self.token_bias_HE
        if ids_BTH is None:
            return x_BTHE.flatten(-2), NoState()
        before_BTH = self._before(ids_BTH, state, reset_BT)
        rows_BTHW = F.embedding(self.rows(ids_BTH, before_BTH), self.tables_NW)
        pairs_BTHW = F.layer_norm(rows_BTHW, (self.config.width,), eps=EPS) * self.pair_gain_HW + self.pair_bias_HW
        # The pair's features take the place of the head's last ones; where they are as many as the head has,
        # which would leave nothing of the token, they are added to it.
        kept = self.features - self.config.width
        joined = torch.cat([x_BTHE[..., :kept], pairs_BTHW], dim=-1) if kept else x_BTHE + pairs_BTHW
        return joined.flatten(-2), NGramState(ids_BTH[:, -1].clone())

    def _before(self, ids_BTH: Tensor, state: NGramState | NoState | None, reset_BT: Tensor | None) -> Tensor:
        """Return the id before each position: 0 at a document's start."""
        first_BH = state.ids_BH if isinstance(state, NGramState) else torch.zeros_like(ids_BTH[:, 0])
        before_BTH = torch.cat([first_BH[:, None], ids_BTH[:, :-1]], dim=1)
        return before_BTH if reset_BT is None else before_BTH.masked_fill(reset_BT[..., None], 0)

    def rows(self, ids_BTH: Tensor, before_BTH: Tensor) -> Tensor:
        """Return the row of each head's pair among those of all tables."""
        pairs_BTH = ids_BTH + self.config.clusters * before_BTH
        size = self.config.table_size
        hashed = []
        for head, (pairs_BT, prime) in enumerate(zip(pairs_BTH.unbind(-1), self.primes, strict=True)):
            row_BT = (pairs_BT * (head + 1) + head + 1) % prime % size
            hashed.append(row_BT + head * size)  # all tables stand in one, head after head
        return torch.stack(hashed, dim=-1)

    def ids(self, tokens: Tensor, weight_VD: Tensor) -> Tensor | None:
        """Return the latent ids (..., H) of ``tokens``, rows of the vectors ``weight_VD``; None without bigrams."""
        if not self.remembers:
            return None
        return F.embedding(tokens, self._table_of_ids(weight_VD))

    def _table_of_ids(self, weight_VD: Tensor) -> Tensor:
        """Return the table of ids, made again where vectors or centroids have changed."""
        if self.training:
            return self._nearest(weight_VD)
        if torch.compiler.is_compiling() and self._known:  # a program that is exported holds the table
            return self._known[1]
        now = versions((weight_VD, self.centroids_HKE))
        if self._known is None or self._known[0] != now:
            self._known = (now, self._nearest(weight_VD))
        return self._known[1]

    @torch.no_grad()
    def _nearest(self, weight_VD: Tensor) -> Tensor:
        """Return the nearest centroid of each token in each head (V, H), in float32 whatever autocast says."""
        with torch.autocast(weight_VD.device.type, enabled=False):
            # |x - c|^2 without |x|^2, which is the same for all centroids: |c|^2 - 2 x . c
            x_HVE = self._by_head(weight_VD.detach().float()).transpose(0, 1)
            centroids_HKE = self.centroids_HKE.float()
            squares_H1K = centroids_HKE.square().sum(-1)[:, None]
            distances_HVK = torch.baddbmm(squares_H1K, x_HVE, centroids_HKE.transpose(1, 2), alpha=-2)
            return distances_HVK.argmin(-1).T.contiguous()

    @torch.no_grad()
    def observe(
        self,
        tokens_BT: Tensor,
        weight_VD: Tensor,
        summed: Callable[[Tensor], Tensor] = lambda x: x,
        padded_BT: Tensor | None = None,
    ) -> None:
        """Move each centroid towards the mean of those of ``tokens_BT`` that are nearest to it, if there are any.

        Frozen tables keep their centroids. ``summed`` adds a tensor up over all processes; ``padded_BT`` is
        True where there is no token.
        """
        if not self.remembers or not self.tables_NW.requires_grad:
            return
        tokens_N = tokens_BT.flatten()
        # Nothing here waits for a GPU, as bincount or one_hot would.
        counts_V = torch.zeros_like(weight_VD[:, 0], dtype=torch.float32)
        counted_N = torch.ones_like(tokens_N) if padded_BT is None else ~padded_BT.flatten()
        counts_V.index_add_(0, tokens_N, counted_N.float())
        x_HVE = self._by_head(weight_VD.detach().float()).transpose(0, 1)
        clusters_K1 = torch.arange(self.config.clusters, device=weight_VD.device)[:, None]
        with torch.autocast(weight_VD.device.type, enabled=False):
            # A head at a time: (K, V) for all at once is large where there are many tokens and clusters.
            nearest_KV = [(ids_V == clusters_K1) * counts_V for ids_V in self._nearest(weight_VD).unbind(1)]
            sums_HKE = torch.stack([each_KV @ x_VE for each_KV, x_VE in zip(nearest_KV, x_HVE, strict=True)])
        sums_HKE = summed(sums_HKE)
        counts_HK = summed(torch.stack([each_KV.sum(1) for each_KV in nearest_KV]))
        means_HKE = sums_HKE / counts_HK.clamp(min=1)[..., None]
        moved_HKE = torch.lerp(self.centroids_HKE.float(), means_HKE, 1 - self.config.decay)
        self.centroids_HKE.copy_(torch.where(counts_HK[..., None] > 0, moved_HKE, self.centroids_HKE.float()))

    @torch.no_grad()
    def initialise(self, weight_VD: Tensor) -> None:
        """Let centroids start at the vectors of tokens, each at another's as long as there are some."""
        if not self.remembers:
            return
        nn.init.normal_(self.tables_NW, std=TABLE_STD)
        x_HVE = self._by_head(weight_VD).transpose(0, 1)
        heads, vocabulary = x_HVE.shape[:2]
        more = max(0, self.config.clusters - vocabulary)
        for head in range(heads):
            order = torch.cat([torch.randperm(vocabulary), torch.randint(vocabulary, (more,))])
            chosen = order[: self.config.clusters].to(x_HVE.device)
            self.centroids_HKE[head] = x_HVE[head][chosen]
        if more:  # with more clusters than tokens some start at one token: moved a little, none is on another
            self.centroids_HKE[:, vocabulary:] += TABLE_STD * torch.randn_like(self.centroids_HKE[:, vocabulary:])


def primes_above(number: int, count: int) -> list[int]:
    """Return the first ``count`` primes above ``number``."""
    found: list[int] = []
    candidate = number
    while len(found) < count:
        candidate += 1
        if candidate > 1 and all(candidate % divisor for divisor in range(2, int(candidate**0.5) + 1)):
            found.append(candidate)
    return found
