"""On a CPU: one token's step as one kernel (:mod:`weft.ops.cpu.decode`).

A model of 10M parameters has some 200 operators a token, each of which costs torch more than its arithmetic.
As one kernel it costs the time in which memory gives the weights, and little more.
"""

from __future__ import annotations

import threading
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from weft.blocks import AttentionBlock, FeedForwardBlock, QRNNBlock
from weft.generation.decoder import Decoder
from weft.generation.memories import frequencies
from weft.generation.program import NORMS, Program
from weft.language_model import LanguageModel
from weft.layers.dense import Dense
from weft.layers.embedding import TokenEmbedding, vectors
from weft.layers.maps import BlockDense, BlockShuffle, LowRank
from weft.layers.matrix_product import MatrixProduct
from weft.layers.ngrams import LatentBigrams
from weft.layers.pooling import GateMap
from weft.layers.state import map_state
from weft.layers.token_shift import ShiftedState, TokenShift
from weft.layers.window_attention import AttentionState
from weft.model import ModelState, WeftModel
from weft.ops.cpu import decode as d

MOST_ROWS = 32  # texts; for many more, torch's matrix products make more of the weights that they have read
_BLOCKS = (AttentionBlock, FeedForwardBlock, QRNNBlock)
_MAPS = (nn.Linear, Dense, GateMap, LowRank, BlockDense, BlockShuffle, MatrixProduct, nn.ParameterList)
_SHELL = (WeftModel, nn.ModuleList, TokenEmbedding, LatentBigrams, nn.Dropout, TokenShift)
_PARTS = (*_SHELL, *_MAPS, *NORMS, *_BLOCKS)
_turn = threading.Lock()  # a step takes all cores: two at once would wait for each other's threads


def fused_decoder(model: LanguageModel, state: ModelState, rows: int, *, bf16: bool = False) -> FusedDecoder | None:
    """Return a decoder for ``rows`` texts, with matrices in bfloat16 or the model's own; None for other models."""
    if rows > MOST_ROWS or not covers(model):
        return None
    if not all(map(_is_suffix, state.blocks)):  # a ring tells by a number alone how many positions are valid
        return None
    return FusedDecoder(model, state, rows, bf16=bf16)


def covers(model: LanguageModel) -> TypeGuard[WeftModel]:
    """Return whether all parts of the model are what the kernel knows, and nobody watches them."""
    if model.training:
        return False
    for part in model.modules():
        watched = part._forward_hooks or part._forward_pre_hooks  # which the kernel would not call
        if type(part) not in _PARTS or watched:  # a subclass may compute something else
            return False
        if isinstance(part, AttentionBlock) and part.config.positions == "relative":
            return False
    for x in model.parameters():  # the kernel reads them by their addresses
        plain = type(x) is nn.Parameter and x.dtype == torch.float32
        if not plain or x.device.type != "cpu" or not x.is_contiguous():
            return False
    return True


def _is_suffix(state: Any) -> bool:
    """Return whether the remembered positions of the document are the last ones, as the model leaves them."""
    if isinstance(state, ShiftedState):
        return _is_suffix(state.mixer)
    if not isinstance(state, AttentionState):
        return True
    return bool((state.valid_BM[:, 1:] >= state.valid_BM[:, :-1]).all())


class FusedDecoder(Decoder):
    """Runs one kernel a token, on torch's threads."""

    def __init__(self, model: WeftModel, state: ModelState, rows: int, *, bf16: bool = False) -> None:
        self._threads = torch.get_num_threads()
        program = Program(model, state, rows, self._threads, bf16=bf16)
        self._program = program
        self._model = model  # whose parameters the list names
        self._fields = program.fields
        self._address = program.fields.ctypes.data
        # As numpy, on the same memory: a step writes a few numbers, and torch takes longer for each.
        self._tokens_B = program.tokens_B.numpy()
        self._lanes_B = program.lanes_B.numpy()
        self._seen_NB = program.seen_NB.numpy()
        self._angles = []
        for width, table_K in program.angles.items():
            self._angles.append((table_K.numpy(), frequencies(width).numpy()))
        self._remembered = state.embedding  # by bigrams

    @property
    def weight_bytes(self) -> int:
        """The bytes of the matrices that it reads for each token."""
        return self._program.weight_bytes

    def step(self, tokens_B: Tensor) -> Tensor:
        """Run the kernel. IndexError for a token outside the vocabulary."""
        tokens = tokens_B.tolist()
        program = self._program
        if max(tokens) >= program.logits_BV.shape[1]:
            raise IndexError(f"token {max(tokens)} is outside the vocabulary of {program.logits_BV.shape[1]}")
        lanes = [lane for lane, token in enumerate(tokens) if token >= 0]
        self._tokens_B[:] = tokens
        self._lanes_B[: len(lanes)] = lanes
        if self._model.ngrams is not None:
            self._read_bigrams(tokens_B.clamp(min=0))
        self._turn_to(program.place)
        self._fields[d.PLACE] = program.place
        self._fields[d.NUM_LANES] = len(lanes)
        program.counters.fill(0)
        with _turn:
            d.decode(self._address, threads=self._threads)
        program.place += 1
        self._seen_NB += 1
        return program.logits_BV

    @torch.no_grad()
    def _read_bigrams(self, tokens_B: Tensor) -> None:
        """Make what the first block reads, and let the kernel take it for the vectors of tokens 0, 1, ..."""
        embedding = self._model.embedding
        ngrams = self._model.ngrams
        ready_BD = self._program.ready_BD
        assert ngrams is not None
        assert ready_BD is not None
        ids_BTH = ngrams.ids(tokens_B[:, None], vectors(embedding))
        x_BTD, self._remembered = ngrams(embedding(tokens_B[:, None]), ids_BTH, self._remembered, None)
        ready_BD.copy_(x_BTD[:, 0])
        self._tokens_B[:] = range(len(ready_BD))

    def _turn_to(self, place: int) -> None:
        """Set the rotary angles, made in float64: they are as exact after a billion tokens as after ten."""
        for table_K, frequencies_K in self._angles:  # one for each head width of the stack
            half = len(frequencies_K)
            angles = frequencies_K * place
            np.cos(angles, out=table_K[:half])
            np.sin(angles, out=table_K[half:])

    @property
    def state(self) -> ModelState:
        """The state that the model would have returned."""
        blocks = tuple(memory.state(self._program.place) for memory in self._program.memories)
        return ModelState(blocks, map_state(Tensor.clone, self._remembered))
