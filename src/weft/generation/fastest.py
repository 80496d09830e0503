"""Which decoder is the fastest for a model where it runs: the fused kernel, a CUDA graph, else the model itself."""

from __future__ import annotations

from weft.baselines.llama import LanguageModel
from weft.generation.decoder import Decoder, PlainDecoder
from weft.generation.graph import graph_decoder
from weft.model import ModelState, WeftModel
from weft.ops import cpu


def make_decoder(model: LanguageModel, state: ModelState, *, rows: int, steps: int) -> Decoder:
    """Return the fastest decoder that covers ``model``, for ``rows`` texts and about ``steps`` tokens after ``state``.

    ``state`` is what the model returned for the tokens so far; it is not changed. The model must be in evaluation mode.
    """
    if isinstance(model, WeftModel):
        found = _fused(model, state, rows) or graph_decoder(model, state, rows, steps=steps)
        if found is not None:
            return found
    return PlainDecoder(model, state)


def _fused(model: WeftModel, state: ModelState, rows: int) -> Decoder | None:
    if not cpu.available():
        return None
    from weft.generation.fused import fused_decoder  # imports Numba

    return fused_decoder(model, state, rows)
