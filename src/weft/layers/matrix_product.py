"""A linear map as a product of local tensors, of which several maps can share the middle one (MPO).

After MPOBERT (Liu et al. 2023, arXiv 2303.16753) and MPOP. With M = prod i_k outputs and N = prod j_k inputs,

    W[i_1 .. i_n, j_1 .. j_n] = T_1[i_1, j_1] T_2[i_2, j_2] ... T_n[i_n, j_n]

where T_k has the shape (d_{k-1}, i_k, j_k, d_k), d_0 = d_n = 1, and the bonds d_k are at most the smaller of
the two products of i_m j_m, before and after: then any matrix is such a product. The middle tensor, the
*central*, holds most of the parameters; the others are *auxiliary*. In the pattern's ``{ }`` the copies of a
block share the central, and each has auxiliary tensors, biases and an adapter U D of low rank of its own: W +
U D.

Shapes: M outputs, N inputs, a, d bonds of a tensor, i, j its parts of outputs and
inputs, R rank of the adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from math import prod, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weft.config import MapConfig
from weft.layers.maps import StructuredMap, orthogonal_
from weft.layers.versions import versions

ADAPTER_STD = 0.02


class MatrixProduct(StructuredMap):
    """y = W x + U D x, W the product of ``tensors``."""

    def __init__(self, in_features: int, out_features: int, config: MapConfig, **bias: bool) -> None:
        super().__init__(in_features, out_features, **bias)
        self.depth_scaled = config.depth_scaled
        self.out_parts = parts_of(out_features, config.factors)
        self.in_parts = parts_of(in_features, config.factors)
        self.bonds = bonds(self.out_parts, self.in_parts, config.bond)
        shapes = tensor_shapes(self.out_parts, self.in_parts, self.bonds)
        middle = len(shapes) // 2
        self.before = nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in shapes[:middle])
        self.central_aijd = nn.Parameter(torch.empty(shapes[middle]))
        self.after = nn.ParameterList(nn.Parameter(torch.empty(shape)) for shape in shapes[middle + 1 :])
        rank = config.adapter
        self.down_RN = nn.Parameter(torch.empty(rank, in_features)) if rank else None
        self.up_MR = nn.Parameter(torch.empty(out_features, rank)) if rank else None
        self._known: tuple[object, Tensor] | None = None

    @property
    def adapter(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """The adapter's D and U, if there is one: a list of one pair or none."""
        return [] if self.down_RN is None or self.up_MR is None else [(self.down_RN, self.up_MR)]

    @property
    def tensors(self) -> list[nn.Parameter]:
        """The local tensors T_1 to T_n."""
        return [*self.before, self.central_aijd, *self.after]

    def product(self, x: Tensor) -> Tensor:
        """Multiply the tensors out and then by ``x``: a batch has many more positions than the tensors have bonds."""
        y = F.linear(x, self._whole())
        for down_RN, up_MR in self.adapter:
            y = y + F.linear(F.linear(x, down_RN), up_MR)
        return y

    def _whole(self) -> Tensor:
        """Return W; outside training it is kept until a tensor changes, as a token at a time needs it each time."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            self._known = None
            return self.product_weight()
        now = (versions(self.tensors), torch.is_autocast_enabled(self.central_aijd.device.type))
        if self._known is None or self._known[0] != now:
            self._known = (now, self.product_weight())
        return self._known[1]

    def product_weight(self) -> Tensor:
        """Return W (M, N), without the adapter."""
        return multiplied_out(self.tensors)

    def dense_weight(self) -> Tensor:
        """W + U D."""
        weight_MN = self.product_weight()
        for down_RN, up_MR in self.adapter:
            weight_MN = weight_MN + up_MR @ down_RN
        return weight_MN

    def factors(self) -> list[nn.Parameter]:
        """The adapter's D and U, the auxiliary tensors, and the central last: where that is zero, so is W."""
        return [*chain(*self.adapter), *self.before, *self.after, self.central_aijd]

    def initialise(self, std: float) -> None:
        """Start as a dense map's N(0, std^2): a normal central between orthogonal auxiliary tensors.

        These keep the norm, so where bonds are cut and the central is smaller than the
        matrix its numbers are larger.
        """
        for tensor in self.before:
            orthogonal_(tensor.detach().view(-1, tensor.shape[-1]), 1.0)
        for tensor in self.after:
            orthogonal_(tensor.detach().view(tensor.shape[0], -1), 1.0)
        larger = sqrt(self.in_features * self.out_features / self.central_aijd.numel())
        nn.init.normal_(self.central_aijd, std=std * larger)
        for down_RN, up_MR in self.adapter:
            nn.init.normal_(down_RN, std=ADAPTER_STD)
            nn.init.zeros_(up_MR)

    @torch.no_grad()
    def approximate_(self, weight_MN: Tensor) -> float:
        """Become ``weight_MN``, or as near to it as the bonds allow; return the relative error (Frobenius).

        Algorithm 1 of the paper: singular value decompositions from the left to the right, in float64. Then
        the middle tensor takes what the last one would hold, so that all others are orthogonal.
        """
        tensors = decomposed(weight_MN, self.out_parts, self.in_parts, self.bonds)
        for mine, found in zip(self.tensors, tensors, strict=True):
            mine.copy_(found)
        for _, up_MR in self.adapter:
            nn.init.zeros_(up_MR)
        whole = weight_MN.double()
        kept = multiplied_out([tensor.double() for tensor in self.tensors])
        return float((kept - whole).norm() / whole.norm().clamp(min=1e-30))

    def flops(self) -> int:
        """Return those of the product with W, and of the adapter: W itself is made once for all tokens."""
        adapter = sum(part.numel() for part in chain(*self.adapter))
        return 2 * (self.in_features * self.out_features + adapter)


def is_central(name: str) -> bool:
    """Tell whether the parameter ``name`` is a central tensor."""
    return name.rpartition(".")[2] == "central_aijd"


def multiplied_out(tensors: Sequence[Tensor]) -> Tensor:
    """Return the matrix (M, N) of local tensors."""
    # From the left: (i_1 j_1 .. i_k j_k, d_k) times (d_k, i_{k+1} j_{k+1} d_{k+1}).
    product = tensors[0].flatten(0, 2)
    for tensor in tensors[1:]:
        product = (product @ tensor.flatten(1)).view(-1, tensor.shape[3])
    # The parts stand as i_1 j_1 i_2 j_2 ...: bring all i to the front, then all j.
    sizes: list[int] = []
    for tensor in tensors:
        sizes += tensor.shape[1:3]
    outputs = range(0, len(sizes), 2)
    inputs = range(1, len(sizes), 2)
    product = product.view(sizes).permute([*outputs, *inputs])
    return product.reshape(prod(sizes[::2]), prod(sizes[1::2]))


def tensor_shapes(
    out_parts: Sequence[int], in_parts: Sequence[int], bonds: Sequence[int]
) -> list[tuple[int, int, int, int]]:
    """Return the shapes (d_{k-1}, i_k, j_k, d_k) of the local tensors."""
    return list(zip(bonds[:-1], out_parts, in_parts, bonds[1:], strict=True))


def decomposed(
    weight_MN: Tensor, out_parts: Sequence[int], in_parts: Sequence[int], bonds: Sequence[int]
) -> list[Tensor]:
    """Return local tensors (float64) whose product is ``weight_MN``, or near to it where ``bonds`` are too small."""
    # From i_1 .. i_n j_1 .. j_n to i_1 j_1 i_2 j_2 ...
    number = len(out_parts)
    order: list[int] = []
    for k in range(number):
        order += [k, number + k]
    rest = weight_MN.double().reshape(*out_parts, *in_parts).permute(order)
    shapes = tensor_shapes(out_parts, in_parts, bonds)
    middle = number // 2
    tensors = []
    for shape in shapes[:middle]:  # from the left: orthogonal tensors, and what remains
        left, values, right = torch.linalg.svd(rest.reshape(prod(shape[:3]), -1), full_matrices=False)
        tensors.append(left[:, : shape[3]].reshape(shape))
        rest = values[: shape[3], None] * right[: shape[3]]
    behind: list[Tensor] = []
    for shape in reversed(shapes[middle + 1 :]):  # from the right, until the middle one is what remains
        left, values, right = torch.linalg.svd(rest.reshape(-1, prod(shape[1:])), full_matrices=False)
        behind.insert(0, right[: shape[0]].reshape(shape))
        rest = left[:, : shape[0]] * values[: shape[0]]
    return [*tensors, rest.reshape(shapes[middle]), *behind]


def bonds(out_parts: Sequence[int], in_parts: Sequence[int], most: int | None) -> list[int]:
    """Return d_0 to d_n: as large as is needed for any matrix, or at most ``most``."""
    pairs = [i * j for i, j in zip(out_parts, in_parts, strict=True)]
    found = [min(prod(pairs[:k]), prod(pairs[k:])) for k in range(len(pairs) + 1)]
    if most is not None:
        found = [min(bond, most) for bond in found]
    return found


def parts_of(size: int, given: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the parts of ``size``: those given whose product it is, else five of which the middle one is the largest.

    The outer ones are at most 2 and 4 (2 and 2 below 256), by which the central holds about nine tenths of
    the parameters, as in the paper, where they can be.
    """
    for parts in given:
        if prod(parts) == size:
            return parts
    rest = size
    outer = []
    for wanted in (2, 2, 2, 2) if size < 256 else (2, 2, 4, 4):
        part = max(divisor for divisor in range(1, wanted + 1) if rest % divisor == 0)
        outer.append(part)
        rest //= part
    return (outer[0], outer[2], rest, outer[3], outer[1])
