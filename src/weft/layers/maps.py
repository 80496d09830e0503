"""Linear maps with fewer parameters than a dense one, and the one interface of all that hold factors of a matrix.

For a map from N features to M,

    low_rank       y = U (V x)                             r (M + N) parameters
    block_dense    y = L blockdiag(D) x                    r (M + N / b)
    block_shuffle  y = S' blockdiag(E) S blockdiag(D) x    min(M, N) (M + N) / b

with rank r and b blocks, after Wei et al. 2024 (arXiv 2407.09835, 2406.16450); S and S' are fixed
permutations that let every input reach every output (Monarch matrices, Dao et al. 2022, arXiv 2204.00595).
Shapes: N inputs, M outputs, R rank, K blocks, n = N / K inputs of a block, m outputs of a block.
"""

from __future__ import annotations

import copy
from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GUIDE = "guide_MN"  # the parameter of a map that is no part of the model


class StructuredMap(nn.Module):
    """A linear map that holds factors of its matrix.

    ``bias`` is None where there is none; with ``adds_bias`` False it is left to the caller: a QRNN's pooling
    adds it.

    In self-guided training (Wei et al.) a map has a dense ``guide_MN`` beside it, which has ``guide_share``
    of the output as long as it lasts; it is no part of the model, and outside training mode nothing is left
    of it.
    """

    guide_MN: nn.Parameter | None
    guide_share: Tensor

    def __init__(self, in_features: int, out_features: int, *, bias: bool, adds_bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.adds_bias = adds_bias
        self.register_parameter(GUIDE, None)
        self.guided = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the map's outputs (..., M) for ``x`` (..., N)."""
        y = self.product(x)
        if self.guided and self.training and self.guide_MN is not None:
            y = torch.lerp(y, F.linear(x, self.guide_MN), self.guide_share.to(y.dtype))
        if self.bias is None or not self.adds_bias:
            return y
        return y + self.bias.to(y.dtype)

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """Return ``x @ dense_weight().T``, by the factors."""

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """Return the matrix (M, N) that the factors make."""

    @abstractmethod
    def factors(self) -> list[nn.Parameter]:
        """Return the factors, that of the outputs last."""

    def initialise(self, std: float) -> None:
        """Set the initial values, for a dense map's of N(0, std^2): orthogonal factors, unless a kind has its own."""
        for factor in self.factors():
            orthogonal_(factor, std)

    def flops(self) -> int:
        """Return the forward operations per token: two for each number of a factor."""
        return sum(2 * factor.numel() for factor in self.factors())

    def guide(self, weight_MN: Tensor | None, share: Tensor | None = None) -> None:
        """Set a guide of this matrix beside the map, with a share of the output, a scalar; None takes it away."""
        self.guide_MN = None if weight_MN is None else nn.Parameter(weight_MN.detach().clone())
        self.guided = weight_MN is not None
        if share is not None:
            self.guide_share = share


Map = nn.Linear | StructuredMap


class LowRank(StructuredMap):
    """y = U (V x)."""

    def __init__(self, in_features: int, out_features: int, rank: int, **bias: bool) -> None:
        super().__init__(in_features, out_features, **bias)
        self.down_RN = nn.Parameter(torch.empty(rank, in_features))
        self.up_MR = nn.Parameter(torch.empty(out_features, rank))

    def product(self, x: Tensor) -> Tensor:
        """Map down to the rank and up again."""
        return F.linear(F.linear(x, self.down_RN), self.up_MR)

    def dense_weight(self) -> Tensor:
        """U V."""
        return self.up_MR @ self.down_RN

    def factors(self) -> list[nn.Parameter]:
        """V, U."""
        return [self.down_RN, self.up_MR]

    def initialise(self, std: float) -> None:
        """Take the best approximation of a dense map's initial values, its singular values shared by both factors."""
        self.approximate_(torch.empty(self.out_features, self.in_features, device=self.up_MR.device).normal_(std=std))

    @torch.no_grad()
    def approximate_(self, weight_MN: Tensor) -> None:
        """Become the nearest map of this rank to a matrix (Eckart and Young)."""
        left_MS, values_S, right_SN = torch.linalg.svd(weight_MN, full_matrices=False)
        rank = self.up_MR.shape[1]
        roots_R = values_S[:rank].sqrt()
        self.up_MR.copy_(left_MS[:, :rank] * roots_R)
        self.down_RN.copy_(roots_R[:, None] * right_SN[:rank])


class BlockDense(StructuredMap):
    """y = L blockdiag(D) x: each block maps its own inputs, L (M, R) all that the blocks give."""

    def __init__(self, in_features: int, out_features: int, rank: int, blocks: int, **bias: bool) -> None:
        super().__init__(in_features, out_features, **bias)
        self.blocks_Kmn = nn.Parameter(torch.empty(blocks, rank // blocks, in_features // blocks))
        self.up_MR = nn.Parameter(torch.empty(out_features, rank))

    def product(self, x: Tensor) -> Tensor:
        """Map block by block, then all."""
        return F.linear(by_blocks(x, self.blocks_Kmn), self.up_MR)

    def dense_weight(self) -> Tensor:
        """L blockdiag(D)."""
        return self.up_MR @ block_diagonal(self.blocks_Kmn)

    def factors(self) -> list[nn.Parameter]:
        """D, L."""
        return [self.blocks_Kmn, self.up_MR]


class BlockShuffle(StructuredMap):
    """y = S' blockdiag(E) S blockdiag(D) x.

    S takes number s of block k, of K blocks of m, to place s K + k; S' gives output s of block k the place s
    K + k.
    """

    def __init__(self, in_features: int, out_features: int, blocks: int, **bias: bool) -> None:
        super().__init__(in_features, out_features, **bias)
        narrow = min(in_features, out_features) // blocks
        self.first_Kmn = nn.Parameter(torch.empty(blocks, narrow, in_features // blocks))
        self.second_Kmn = nn.Parameter(torch.empty(blocks, out_features // blocks, narrow))

    def product(self, x: Tensor) -> Tensor:
        """Map block by block, shuffle, map again, put the outputs in their places."""
        shuffled = self._shuffle(by_blocks(x, self.first_Kmn))
        return self._shuffle(by_blocks(shuffled, self.second_Kmn))

    def _shuffle(self, x: Tensor) -> Tensor:
        x_KR = x.reshape(*x.shape[:-1], self.first_Kmn.shape[0], -1)
        return x_KR.transpose(-1, -2).flatten(-2)

    def dense_weight(self) -> Tensor:
        """S' blockdiag(E) S blockdiag(D); a permutation of rows is a shuffle of the columns of the transpose."""
        first_NR = self._shuffle(block_diagonal(self.first_Kmn).T)
        return self._shuffle(first_NR @ block_diagonal(self.second_Kmn).T).T

    def factors(self) -> list[nn.Parameter]:
        """D, E."""
        return [self.first_Kmn, self.second_Kmn]


def block_diagonal(blocks_Kmn: Tensor) -> Tensor:
    """Return the matrix with these blocks on its diagonal."""
    matrix: Tensor = torch.block_diag(*blocks_Kmn)  # type: ignore[no-untyped-call]
    return matrix


def by_blocks(x: Tensor, blocks_Kmn: Tensor) -> Tensor:
    """Return blockdiag(blocks) x, for ``x`` (..., K n): (..., K m)."""
    blocks, _, inputs = blocks_Kmn.shape
    x_KTn = x.reshape(-1, blocks, inputs).transpose(0, 1)
    y_KTm = torch.bmm(x_KTn, blocks_Kmn.transpose(1, 2))
    return y_KTm.transpose(0, 1).reshape(*x.shape[:-1], -1)


@torch.no_grad()
def orthogonal_(factor: Tensor, std: float) -> None:
    """Set each matrix of ``factor`` to the orthogonal polar factor of one drawn from N(0, std^2)."""
    drawn = torch.empty_like(factor).normal_(std=std)
    left, _, right = torch.linalg.svd(drawn, full_matrices=False)
    factor.copy_(left @ right)


@torch.no_grad()
def merged(part: StructuredMap) -> Tensor:
    """Return the matrix (M, N) that the factors make, by way of float64: no number of threads changes a digit."""
    weight_MN = copy.deepcopy(part).double().dense_weight()
    return weight_MN.to(part.factors()[0].dtype).contiguous()


def is_guide(name: str) -> bool:
    """Tell whether the parameter ``name`` is a guide's, which is no part of the model."""
    return name.rpartition(".")[2] == GUIDE


def weights(part: nn.Module) -> list[Tensor]:
    """Return what a linear map multiplies by, the factor of the outputs last; nothing for other modules."""
    if isinstance(part, nn.Linear):
        return [part.weight]
    if isinstance(part, StructuredMap):
        return list(part.factors())
    return []
