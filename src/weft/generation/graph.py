"""On CUDA: one token's step, recorded once as a graph of kernels and replayed, so that Python starts one thing a token.

A graph needs tensors that never change their place or size. So each attention's memory is filled up to its
full window with positions that are of no document, which the model masks as it masks those before a reset:
what it computes is the same, and the states of one step are as large as those of the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from weft.generation.decoder import Decoder
from weft.generation.memories import remembered
from weft.language_model import LanguageModel
from weft.layers.state import map_state, tensors
from weft.layers.window_attention import AttentionState
from weft.model import ModelState

FEWEST_STEPS = 32  # fewer are not worth recording
WARM_UP = 3  # steps before recording, as torch asks for: what is made at a first call must not be recorded

_log = logging.getLogger(__name__)


def filled_up(state: Any, window: int) -> Any:
    """Return a block's state whose attention remembers ``window`` positions, the new ones first and of no document."""
    if isinstance(state, AttentionState):
        missing = window - state.valid_BM.shape[1]
        # F.pad counts from the last dimension: K and G stay, M grows in front.
        before_MGK = (0, 0, 0, 0, missing, 0)
        keys_BMGK = F.pad(state.keys_BMGK, before_MGK)
        values_BMGK = F.pad(state.values_BMGK, before_MGK)
        return AttentionState(keys_BMGK, values_BMGK, F.pad(state.valid_BM, (missing, 0), value=False))
    if isinstance(state, Tensor):
        return state
    parts = [filled_up(part, window) for part in state]
    return getattr(type(state), "_make", type(state))(parts)


def cut_down(state: Any, length: int) -> Any:
    """Return a block's state with the last ``length`` positions that its attention remembers, or all if fewer."""
    if isinstance(state, AttentionState):
        first = max(0, state.valid_BM.shape[1] - length)
        return AttentionState(*(part[:, first:] for part in state))
    if isinstance(state, Tensor):
        return state
    parts = [cut_down(part, length) for part in state]
    return getattr(type(state), "_make", type(state))(parts)


def each_block(change: Callable[[Any, int], Any], state: ModelState, sizes: Sequence[int]) -> ModelState:
    """Return the state with each block application's part changed, given the size of each; the rest stays."""
    changed = [change(part, size) for part, size in zip(state.blocks, sizes, strict=True)]
    return ModelState(tuple(changed), state.embedding)


class FixedDecoder(Decoder):
    """Steps from and to tensors that stay where they are, so that a step can be recorded."""

    def __init__(self, model: LanguageModel, state: ModelState, rows: int) -> None:
        device = next(model.parameters()).device
        self._model = model
        self._length = remembered(state)  # positions of the longest window
        full = model.empty_state(1, device)  # which says how much each application remembers
        windows = [remembered(part) for part in full.blocks]
        self._state = map_state(Tensor.clone, each_block(filled_up, state, windows))
        self._tokens_B = torch.zeros(rows, dtype=torch.long, device=device)
        self._logits_BV = torch.empty(rows, model.config.vocab_size, device=device)
        self._run = self._advance

    @torch.no_grad()
    def step(self, tokens_B: Tensor) -> Tensor:
        """Run, or replay, one step."""
        self._tokens_B.copy_(tokens_B.clamp(min=0))
        self._run()
        self._length = min(self._length + 1, self._model.window)
        return self._logits_BV

    @property
    def state(self) -> Any:
        """The state without what it was filled up with."""
        lengths = [self._length] * self._model.depth
        return map_state(Tensor.clone, each_block(cut_down, self._state, lengths))

    def _advance(self) -> None:
        logits_BTV, after = self._model(self._tokens_B[:, None], self._state)
        self._logits_BV.copy_(logits_BTV[:, -1])
        for here, new in zip(tensors(self._state), tensors(after), strict=True):
            here.copy_(new)

    @torch.no_grad()
    def record(self) -> None:
        """Record a step as a CUDA graph; from now on it is replayed. RuntimeError where something cannot be."""
        before = map_state(Tensor.clone, self._state)
        # Warm up on a stream of its own, as torch asks for; what the default stream has
        # begun must be done first.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._advance()
        torch.cuda.current_stream().wait_stream(stream)
        # Other threads may go on with CUDA meanwhile: only this one's calls are recorded,
        # and none of theirs fails.
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._advance()
        # The warm-up has read tokens that nobody gave: back to the state before, in the same memory.
        for here, old in zip(tensors(self._state), tensors(before), strict=True):
            here.copy_(old)
        self._run = graph.replay


def graph_decoder(model: LanguageModel, state: ModelState, rows: int, *, steps: int) -> FixedDecoder | None:
    """Return a decoder that replays a CUDA graph; None on other devices, for few steps, or where none can be made.

    A model that carries no state is read with all that came before, which grows.
    """
    if model.context is not None or steps < FEWEST_STEPS:
        return None
    if next(model.parameters()).device.type != "cuda":
        return None
    decoder = FixedDecoder(model, state, rows)
    try:
        decoder.record()
    except RuntimeError as error:
        _log.warning("Writing without a CUDA graph, which is slower: %s", str(error).splitlines()[0])
        return None
    return decoder
