"""Softmax and cross-entropy, forward and backward, over the three matrix products of the softmax alone.

The products make all logits at once and keep them; whoever computes the loss may do it in parts. In bf16 the hidden
states are bf16, and so is the copy of the weights that the optimizer keeps; master weights and their gradient are fp32.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch

from benchmarks.harness import Bar, Sheet, Unit, figure
from benchmarks.models import keep_bf16_copies, precisions
from benchmarks.products import DTYPES, map_products

ASKED = {"bf16": Bar("at most", 1.6), "fp32": Bar("at most", 1.25)}
TOKENS = (1024, 4096)
BATCH = 8


class Softmax(NamedTuple):
    """The sizes of a softmax."""

    width: int
    vocabulary: int


SOFTMAXES = (Softmax(160, 2048), Softmax(160, 16384), Softmax(288, 16384))


def measure(sheet: Sheet) -> None:
    quick = sheet.options.quick
    cases = product(precisions(sheet.options), SOFTMAXES, TOKENS)
    if quick:
        cases = product(precisions(sheet.options), (Softmax(32, 300),), (64,))
    for precision, softmax, tokens in cases:
        _measure(sheet, precision, softmax, tokens)


def _measure(sheet: Sheet, precision: str, softmax: Softmax, tokens: int) -> None:
    dtype = DTYPES[precision]
    title = f"softmax of {tokens:,} tokens, width {softmax.width}, vocabulary {softmax.vocabulary:,}, {precision}"
    race = sheet.race(title)
    race.enter("loss", lambda: _loss(softmax, tokens, dtype, sheet.options.device))
    race.enter("products", lambda: map_products(tokens, softmax.width, softmax.vocabulary, dtype, sheet.options.device))
    times = race.run()
    ratio = times.ratio("loss", "products")
    told = " over ".join(figure(1000 * times.median(name)) for name in times.seconds)
    sheet.line(title, measured=f"{told} ms" if ratio else "", ratio=ratio, bar=ASKED[precision])


def _loss(softmax: Softmax, tokens: int, dtype: torch.dtype, device: str) -> Unit:
    """Return the loss of hidden states under a tied embedding's matrix, with the gradients of both."""
    from weft.layers.embedding import TokenEmbedding

    embedding = TokenEmbedding(softmax.vocabulary, softmax.width).to(device)
    embedding.initialise(classic=False)
    hidden_BTD = torch.randn(BATCH, tokens // BATCH, softmax.width, device=device).to(dtype).requires_grad_()
    targets_BT = torch.randint(softmax.vocabulary, (BATCH, tokens // BATCH), device=device)
    wanted = [hidden_BTD, *embedding.parameters()]
    bf16 = dtype == torch.bfloat16
    if bf16:
        keep_bf16_copies(embedding)

    def unit() -> object:
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = embedding.loss(hidden_BTD, targets_BT)
        return torch.autograd.grad(loss, wanted)

    return unit
