"""The list of operations by which :mod:`weft.ops.cpu.decode` reads a token, written for one model and its state.

A block is two or three operations after one another: a norm, the map with what follows it, the map onto the residual
stream; attention has its keys, its rings and its heads between. Shapes: B texts, D model width, K head width, N block
applications, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from weft.blocks import AttentionBlock, Block, FeedForwardBlock, QRNNBlock
from weft.generation.memories import Cells, Last, Memory, Nothing, Ring, remembered, up
from weft.layers.embedding import TokenEmbedding
from weft.layers.maps import Map as LinearMap
from weft.layers.maps import merged
from weft.layers.norms import RMSNorm
from weft.layers.token_shift import ShiftedState
from weft.model import ModelState, WeftModel
from weft.ops.cpu import decode as d
from weft.ops.cpu import decode_parts as parts
from weft.ops.cpu.constants import VECTOR

NORMS: dict[type, int] = {RMSNorm: parts.RMS, nn.LayerNorm: parts.LAYER, nn.Identity: parts.NONE}
POOLING = {"f": parts.POOL_F, "fo": parts.POOL_FO, "ifo": parts.POOL_IFO}
ACTIVATIONS = {
    "relu": parts.RELU,
    "relu_squared": parts.RELU_SQUARED,
    "gelu": parts.GELU,
    "swiglu": parts.SWIGLU,
}
_TASKS = 4  # of an operation, for each thread
_LEAST = 32768  # numbers that are worth a task
_LINE = 128  # bytes: what two threads write is so far apart, or one would slow the other
Map = tuple[Tensor, Tensor | None]  # a matrix and its bias
Value = int | float | Tensor | None


class Program:
    """The list, and all memory that it names.

    Every size is asked of the block that has it: blocks of one kind may have other heads, windows, cells and kernels.
    ``place`` is the place of the next token in the text, counted from the first that the attention remembers.
    ``fields`` is the list as the kernel reads it; ``counters`` must be zero before each token.
    """

    def __init__(self, model: WeftModel, state: ModelState, rows: int, threads: int) -> None:
        config = model.config
        self._model, self._rows, self._threads = model, rows, threads
        self._kept: list[Tensor] = []
        self._operations: list[NDArray[np.int64]] = []
        self._rooms: dict[tuple[str, int], Tensor] = {}
        self._merged: dict[nn.Module, Tensor] = {}
        self._tasks = self._after = 0  # so far, and before what the last operation waits for
        self._pre = config.norm_placement == "pre"
        # What a thread norms of one text: as many inputs as the widest kernel reads, behind them the input unshifted.
        kernel_size = max((block.kernel_size for block in model.blocks if isinstance(block, QRNNBlock)), default=1)
        self._raw = up(kernel_size * config.hidden_size) if config.token_shift else 0
        self._own = self._raw + up((1 if self._raw else kernel_size) * config.hidden_size)
        # Blocks read one and write the other, so that nobody overwrites what a late thread still reads.
        self._x_BD, self._next_BD = (self._room(name, config.hidden_size) for name in ("x", "next"))
        self.place = remembered(state)
        self.tokens_B, self.lanes_B = torch.zeros(rows, dtype=torch.long), torch.arange(rows)
        self.angles: dict[int, Tensor] = {}  # by head width: cosines, then sines, which whoever reads a token sets
        self.logits_BV = torch.zeros(rows, config.vocab_size)
        # Where the tokens' vectors are not rows of a table: what the first block reads of each text.
        self.ready_BD = torch.zeros(rows, config.hidden_size) if model.ngrams is not None else None
        depth = len(model.schedule)
        self.seen_NB = torch.zeros(depth, rows, dtype=torch.long)  # positions of the document in each memory
        self.memories = [self._memory(number, part) for number, part in enumerate(state.blocks)]
        self._mixers = [memory.mixer if isinstance(memory, Last) else memory for memory in self.memories]
        self._write()
        self.counters, self.fields = self._count(), self._listed()

    def _memory(self, number: int, state: Any) -> Memory | Last:
        """Take in the state of a block application."""
        block: Any = self._model.blocks[self._model.schedule[number]]
        if isinstance(state, ShiftedState):
            return Last(self._mixer_memory(number, block, state.mixer), block.token_shift.share, state, self.place)
        return self._mixer_memory(number, block, state)

    def _mixer_memory(self, number: int, block: Block, state: Any) -> Memory:
        if isinstance(block, AttentionBlock):
            return Ring(block, state, self.place, self.seen_NB[number])
        return Cells(block, state, self.place) if isinstance(block, QRNNBlock) else Nothing()

    def _write(self) -> None:
        """Write the operations of the whole model."""
        embedding, x, width = self._model.embedding, self._x_BD, self._model.config.hidden_size
        assert isinstance(embedding, TokenEmbedding)
        table: Tensor = embedding.weight_VD if self.ready_BD is None else self.ready_BD
        scale = math.sqrt(width) if self.ready_BD is None else 1.0
        self._add("EMBED", {"table": table, "to": x, "stride": x.stride(0), "width": width, "scale": scale}, tasks=1)
        before: nn.Module = nn.Identity()  # of a post-norm block: what it reads, the one before it has to norm
        for number, memory, mixer in zip(self._model.schedule, self.memories, self._mixers, strict=True):
            block: Any = self._model.blocks[number]
            self._norm(block.norm if self._pre else before, memory)
            self._write_block(block, mixer)
            before = block.norm
        self._norm(self._model.norm if self._pre else before)
        self._map([(embedding.output_weight, embedding.bias_V)], None, self.logits_BV)

    def _write_block(self, block: nn.Module, memory: Memory) -> None:
        if isinstance(block, AttentionBlock):
            assert isinstance(memory, Ring)
            self._write_attention(block, memory)
        elif isinstance(block, QRNNBlock):
            assert isinstance(memory, Cells)
            self._write_qrnn(block, memory)
        else:
            assert isinstance(block, FeedForwardBlock)
            self._write_feed_forward(block)

    def _write_feed_forward(self, block: FeedForwardBlock) -> None:
        maps = [block.inner] if block.gate is None else [block.inner, block.gate]
        width = block.inner.out_features
        inner, product = self._room("inner", width), self._room("product", up(width) * len(maps))
        self._map([self._dense(m) for m in maps], None, product, ACTIVATIONS[block.config.activation], result=inner)
        self._join(block, inner)

    def _write_qrnn(self, block: QRNNBlock, memory: Cells) -> None:
        config = block.config
        cells = config.cell_size
        gates = block.gates.out_features // cells
        weight, bias = self._dense(block.gates)
        assert bias is not None
        maps = list(zip(weight.chunk(gates), bias.chunk(gates), strict=True))
        hidden, product, cell = self._room("hidden", cells), self._room("gates", up(cells) * gates), memory.cell_BC
        more: dict[str, Value] = {"cell": cell, "cell_stride": cell.stride(0), "zoneout": config.zoneout}
        self._map(maps, None, product, POOLING[config.pooling], result=hidden, more=more)
        self._join(block, hidden)

    def _write_attention(self, block: AttentionBlock, memory: Ring) -> None:
        config = memory.config
        heads, groups, width = config.num_heads, config.kv_heads, config.head_dim
        query, attended = self._room("query", heads * width), self._room("attended", heads * width)
        key = self._room("key and value", 2 * up(groups * width))
        self._map([self._dense(block.query)], None, query)
        self._map([self._dense(block.key), self._dense(block.value)], None, key, beside=True)
        fields: dict[str, Value] = {"heads": heads, "groups": groups, "width": width, "slots": memory.slots}
        fields |= {"seen": memory.seen_B, "rows": self._rows}
        fields |= {"query": query, "query_stride": query.stride(0), "to": attended, "to_stride": attended.stride(0)}
        fields |= {"key": key, "value": key[:, up(groups * width) :], "key_stride": key.stride(0)}
        fields |= {"keys": memory.keys_BGSK, "values": memory.values_BGSK}
        if config.positions == "rotary":
            fields |= {"angles": self.angles.setdefault(width, torch.zeros(width))}
        for name, norm in (("query_norm", block.query_norm), ("key_norm", block.key_norm)):
            if isinstance(norm, RMSNorm):
                fields |= {name: norm.weight, "eps": norm.eps}
        self._add("ATTEND", fields, tasks=-(-self._rows * groups // self._threads))
        self._join(block, attended)

    def _dense(self, part: LinearMap) -> Map:
        """Return the matrix and the bias of a map; factors are multiplied once, for all applications of a block."""
        if isinstance(part, nn.Linear):
            return part.weight, part.bias
        if part not in self._merged:
            self._merged[part] = merged(part)
        return self._merged[part], part.bias

    def _norm(self, norm: Any, memory: Memory | Last | None = None) -> None:
        """Let the maps that follow read the stream as ``norm`` gives it, shifted, and a QRNN the inputs before."""
        x = self._x_BD
        fields: dict[str, Value] = {"source": x, "source_stride": x.stride(0), "stride": self._own}
        fields |= {"how": NORMS[type(norm)], "width": self._model.config.hidden_size, "window": 1}
        if isinstance(memory, Last):
            last = memory.inputs_B2D
            fields |= {"share": memory.share, "raw": self._raw, "last": last, "last_stride": last.stride(0)}
            memory = memory.mixer
        if isinstance(memory, Cells):
            ring = memory.inputs_BWD
            fields |= {"window": memory.kernel_size, "ring": ring, "ring_stride": ring.stride(0)}
        if not isinstance(norm, nn.Identity):
            fields |= {"weight": norm.weight, "bias": getattr(norm, "bias", None), "eps": norm.eps}
        self._add("NORM", fields)

    def _join(self, block: Block, source: Tensor) -> None:
        """Map onto the residual stream and add; a post-norm block adds to what it has normed."""
        maps = [] if block.output is None else [self._dense(block.output)]
        product = self._room("output", self._model.config.hidden_size) if maps else source
        add: dict[str, Value] = {"add": None, "add_stride": self._own, "add_at": self._raw}
        if self._pre:
            add = {"add": self._x_BD, "add_stride": self._x_BD.stride(0)}
        add |= {"gate": block.block_gate, "gain": block.block_gain, "own_stride": self._own}
        self._map(maps, source, product, parts.ADD, result=self._next_BD, more=add)
        self._x_BD, self._next_BD = self._next_BD, self._x_BD

    def _map(
        self,
        maps: Sequence[Map],
        source: Tensor | None,
        to: Tensor,
        then: int = parts.PLAIN,
        *,
        result: Tensor | None = None,
        more: Mapping[str, Value] | None = None,
        beside: bool = False,
    ) -> None:
        """Multiply ``source`` (None: what a thread has normed) by matrices of one shape; ``then`` is what follows."""
        rows, columns = maps[0][0].shape if maps else (self._model.config.hidden_size, 0)
        tasks = min(_TASKS, max(1, rows * len(maps) * columns // (_LEAST * self._threads)))  # for each thread
        each = up(-(-rows // (tasks * self._threads)))
        fields: dict[str, Value] = {"matrices": len(maps), "rows": rows, "columns": columns, "each": each, "then": then}
        fields |= {"source": source, "source_stride": self._own if source is None else source.stride(0)}
        fields |= {"to": to, "to_stride": to.stride(0), **(more or {})}
        if result is not None:
            fields |= {"result": result, "result_stride": result.stride(0)}
        operation = self._add("MAP", fields, tasks=tasks, beside=beside)
        for number, (weight, bias) in enumerate(maps):
            operation[d.MAP_WEIGHTS + number] = self._number(weight)
            operation[d.MAP_BIASES + number] = self._number(bias)

    def _add(
        self, kind: str, fields: Mapping[str, Value], *, tasks: int = 0, beside: bool = False
    ) -> NDArray[np.int64]:
        """Append an operation with so many tasks for each thread; its fields are those of :mod:`weft.ops.cpu.decode`.

        It waits for all before it, or ``beside`` the last one for what that one waits for.
        """
        operation = np.zeros(d.FIELDS, np.int64)
        self._after = self._after if beside else self._tasks
        self._tasks += tasks * self._threads
        operation[[d.KIND, d.TASKS, d.AFTER]] = getattr(d, kind), tasks, self._after
        for name, value in fields.items():
            operation[getattr(d, f"{kind}_{name.upper()}")] = self._number(value)
        self._operations.append(operation)
        return operation

    def _number(self, value: Value) -> int:
        """Return an address (of memory that is kept from now on), the bits of a float, or an integer."""
        if isinstance(value, Tensor):
            self._kept.append(value.detach())
            return value.data_ptr()
        return int(np.float64(value).view(np.int64)) if isinstance(value, float) else value or 0

    def _room(self, name: str, width: int) -> Tensor:
        """Return memory for what one operation hands to the next, the same for all blocks that need as much."""
        return self._rooms.setdefault((name, width), torch.zeros(self._rows, up(width)))

    def _count(self) -> NDArray[np.int64]:
        """Give each operation counters of the tasks taken; one more is of those done."""
        counters = torch.zeros(len(self._operations) + 1, self._threads * d.APART, dtype=torch.long)
        for operation, counter in zip(self._operations, counters, strict=False):
            operation[d.TAKEN] = self._number(counter)
        self._done = self._number(counters[-1])
        return counters.numpy()

    def _listed(self) -> NDArray[np.int64]:
        """Put head and operations together; make the threads' own memory: what they norm, then what attention needs."""
        rings = [memory for memory in self._mixers if isinstance(memory, Ring)]
        scratch = max((2 * ring.keys_BGSK.shape[-1] + up(ring.slots) for ring in rings), default=0)
        own = self._rows * self._own + VECTOR
        each = -(-4 * (own + scratch) // _LINE) * _LINE
        head = np.zeros(d.HEAD, np.int64)
        head[[d.COUNT, d.PRIVATE_BYTES, d.SCRATCH_BYTES, d.DONE]] = len(self._operations), each, 4 * own, self._done
        head[d.THREADS] = self._threads
        head[d.PRIVATE] = self._number(torch.zeros(self._threads * each // 4 + _LINE))
        head[[d.LANES_AT, d.TOKENS]] = self._number(self.lanes_B), self._number(self.tokens_B)
        return np.concatenate([head, *self._operations])
