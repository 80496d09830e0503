"""Which decoder is the fastest for a model where it runs: the fused kernel, a CUDA graph, else the model itself."""

from __future__ import annotations

from weft.generation.decoder import Decoder, PlainDecoder
from weft.generation.graph import graph_decoder
from weft.language_model import LanguageModel, State
from weft.ops import cpu


def make_decoder(model: LanguageModel, state: State, *, rows: int, steps: int) -> Decoder:
    """Return the fastest decoder that covers ``model``, for ``rows`` texts and about ``steps`` tokens after ``state``.

    ``state`` is what the model returned for the tokens so far; it is not changed. The model must be in evaluation mode.
    """
    found: Decoder | None = None
    if cpu.available():
        from weft.generation.fused import fused_decoder  # imports Numba

        found = fused_decoder(model, state, rows)
    return found or graph_decoder(model, state, rows, steps=steps) or PlainDecoder(model, state)
