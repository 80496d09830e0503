"""Named architectures: families of patterns, each at any depth, and the shells that they stand in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

# Shells around the blocks. `modern` is what ModelConfig's own defaults say, with gates and token
# shift; `classic` is Transformer-XL's (kimiyoung/transformer-xl, Dai et al. 2019): post-norm,
# LayerNorm, ReLU, relative positions, biased feed-forwards and softmax, N(0, 0.02) everywhere, dropout
# also after the activation.
PRESETS: dict[str, dict[str, Any]] = {
    # docs/research/largest-gains.md (block gates), docs/research/token-shift.md
    "modern": {"block_gates": True, "token_shift": True},
    "classic": {
        "norm": "layer",
        "norm_placement": "post",
        "bias": True,
        "head_bias": True,
        "init": "classic",
        "residual_init": "normal",
        "attention": {"positions": "relative", "query_key_norm": False},
        "feed_forward": {"activation": "relu"},
    },
}


def _par(pairs: int) -> str:
    """Attention in the first two thirds only, one block in five (Mandava et al. 2021, arXiv 2009.04534).

    The exact string is the rule's reading in x-transformers (``par_ratio=5``), not proven to be the paper's.
    """
    blocks = 2 * pairs
    attentions = max(1, blocks // 5)
    cut = blocks * 2 // 3
    width = min((cut + cut // attentions) // attentions, blocks // attentions)
    rest = blocks - width * attentions
    # ``attentions`` groups of one attention and the feed-forwards after it, then feed-forwards to the end
    pattern = f"a{'f' * (width - 1)}"
    if attentions > 1:
        pattern = f"({pattern}){attentions}"
    if rest > 0:
        pattern += f" f{rest}"
    return pattern


def _hybrid(pairs: int) -> str:
    """QRNN and feed-forward pairs with attention as the third of every four mixers, the second where there are fewer.

    Our reconstruction of the Hybrid Transformer (arXiv 2502.00617, whose layer string is unknown to us):
    recurrence below, little attention, in the upper middle (the placement of SHA-RNN and SRU++).
    """
    attending = 2 if pairs > 3 else 1  # of four mixers, counted from 0
    written = ["af" if pair % 4 == attending else "qf" for pair in range(pairs)]
    return " ".join(written)


class Architecture(NamedTuple):
    """A named family of patterns.

    ``pattern`` maps a number of Transformer pairs (``af``) to a pattern of about the same cost; ``preset``
    names the shell it stands in; ``settings`` are changes to the model's configuration; ``source`` says
    where it comes from.
    """

    pattern: Callable[[int], str]
    source: str
    preset: str = "modern"
    settings: dict[str, dict[str, object]] | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "transformer": Architecture(lambda n: f"(af){n}", "Vaswani et al. 2017, in the modern pre-norm shell"),
    "transformer-xl": Architecture(lambda n: f"(af){n}", "Dai et al. 2019 (arXiv 1901.02860)", "classic"),
    "par": Architecture(_par, "Mandava et al. 2021 (arXiv 2009.04534)"),
    "attn-qrnn": Architecture(
        lambda n: f"x{2 * n}", "fused blocks after SRU++, Lei 2021 (arXiv 2102.12459); our reconstruction"
    ),
    "sha-qrnn": Architecture(
        lambda n: " ".join(["qf"] * (n - 2) + ["qaf", "qf"]),
        "SHA-RNN, Merity 2019 (arXiv 1911.11423), with QRNNs as in SHAQ (arXiv 2108.08207)",
        settings={"attention": {"num_heads": 1}},
    ),
    "qrnn": Architecture(lambda n: f"q{max(1, 3 * n // 2)}", "Bradbury et al. 2017 (arXiv 1611.01576), with residuals"),
    "hybrid": Architecture(_hybrid, "Hybrid Transformer (arXiv 2502.00617); our reconstruction"),
}


def default_pairs(parameters: float) -> int:
    """Return the depth rule's number of Transformer pairs for a budget of ``parameters``.

    From 3 pairs at 1M and 2M (docs/research/depth.md: the hybrid at 1M with three seeds, at
    2M, and the Transformer at 1M, with one) to Transformer-XL's 12 at 41M. Between them (5 at
    5M, 7 at 10M) it is a guess.
    """
    return max(2, round(12 * math.pow(parameters / 41e6, 0.42)))
