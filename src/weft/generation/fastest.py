"""Which decoder is the fastest for a model where it runs: the fused kernel, a CUDA graph, else the model itself."""

from __future__ import annotations

from weft.generation.decoder import Decoder, PlainDecoder, Precision
from weft.generation.graph import graph_decoder
from weft.language_model import LanguageModel, State
from weft.layers.sites import Edits
from weft.ops import cpu
from weft.ops.cpu.processor import widens_bf16


def make_decoder(
    model: LanguageModel,
    state: State,
    *,
    rows: int,
    steps: int,
    precision: Precision = "auto",
    edits: Edits | None = None,
) -> Decoder:
    """Return the fastest decoder that covers ``model``, for ``rows`` texts and about ``steps`` tokens after ``state``.

    ``state`` is what the model returned for the tokens so far; it is not changed. The model must be in evaluation mode.

    ``precision`` is that of the kernel's matrices. ``fp32`` reads the model's own, also when they change. ``bf16``
    rounds them once, which halves what a token must read; sums, states and everything else stay float32, so the
    logits are those of a model with rounded matrices. ``auto`` is ``bf16`` where the processor widens it in
    registers. Who has no kernel computes as the model does, and so does whoever has ``edits``.
    """
    if edits is not None:
        return PlainDecoder(model, state, edits)
    found: Decoder | None = None
    if cpu.available():
        from weft.generation.fused import fused_decoder  # imports Numba

        bf16 = precision == "bf16" or (precision == "auto" and widens_bf16())
        found = fused_decoder(model, state, rows, bf16=bf16)
    return found or graph_decoder(model, state, rows, steps=steps) or PlainDecoder(model, state)
