"""The matrix products of a model's step alone: ``torch.mm`` into tensors that are there, in one precision.

A linear map from I to O features has three at N positions: Y = X W^T forward, dX = dY W and dW = dY^T X backward. The
softmax is such a map from the model's width to the vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.harness import Unit

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def map_products(tokens: int, inputs: int, outputs: int, dtype: torch.dtype, device: str) -> Unit:
    """Return the three products of one linear map from ``inputs`` to ``outputs`` features."""

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device).to(dtype)

    x, weight, grad = new(tokens, inputs), new(outputs, inputs), new(tokens, outputs)
    y, grad_x, grad_weight = new(tokens, outputs), new(tokens, inputs), new(outputs, inputs)

    def unit() -> None:
        torch.mm(x, weight.t(), out=y)
        torch.mm(grad, weight, out=grad_x)
        torch.mm(grad.t(), x, out=grad_weight)

    return unit


def model_maps(model: Any) -> list[tuple[int, int]]:
    """Return the inputs and outputs of all maps in the order in which they are applied, the softmax last."""
    maps = []
    for block in model.schedule:
        maps += [(p.shape[1], p.shape[0]) for p in model.blocks[block].parameters() if p.dim() == 2]
    vocabulary, width = model.embedding.output_weight.shape
    return [*maps, (width, vocabulary)]


def step_products(model: Any, tokens: int, dtype: torch.dtype, device: str) -> Unit:
    """Return the products of a step's maps and its softmax, and one orthogonalisation of what Muon trains.

    The orthogonalisation is the optimizer's own function on a stack of each shape, in the precision that it chooses.
    """
    parts = [map_products(tokens, *sizes, dtype, device) for sizes in model_maps(model)]
    return together([*parts, orthogonalisation(model, device)])


def orthogonalisation(model: Any, device: str) -> Unit:
    """Return the orthogonalisation of all matrices that the default optimizer takes to Muon, a stack of each shape."""
    from weft.training.muon import Muon, orthogonalise
    from weft.training.optimizer import make_optimizers
    from weft.training.recipe import TrainingConfig

    shapes: Counter[torch.Size] = Counter()
    for optimizer in make_optimizers(model, TrainingConfig()):
        if isinstance(optimizer, Muon):
            shapes.update(p.shape for group in optimizer.param_groups for p in group["params"])
    stacks = [torch.randn(count, *shape, device=device) for shape, count in shapes.items()]

    @torch.no_grad()
    def unit() -> None:
        for stack in stacks:
            orthogonalise(stack)

    return unit


def together(parts: Sequence[Unit]) -> Unit:
    """Return pieces of work as one."""

    def unit() -> None:
        for part in parts:
            part()

    return unit
