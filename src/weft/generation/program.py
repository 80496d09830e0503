"""The list of operations by which :mod:`weft.ops.cpu.decode` reads a token, written for one model and its state.

A block is two or three operations after one another: a norm, the map with what follows it, the map onto the
residual stream; attention has its keys, its rings and its heads between. Shapes: B texts, D model width, K
head width, N block applications, V vocabulary.
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
from weft.ops.cpu.packed import pack

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

    Every size is asked of the block that has it: blocks of one kind may have other heads, windows, cells and
    kernels. ``place`` is the place of the next token in the text, counted from the first that the attention
    remembers. ``fields`` is the list as the kernel reads it; ``counters`` must be zero before each token.
    """

    def __init__(self, model: WeftModel, state: ModelState, rows: int, threads: int, *, bf16: bool = False) -> None:
        config = model.config
        width = config.hidden_size
        self._model = model
        self._rows = rows
        self._threads = threads
        self._bf16 = bf16
        self._kept: list[Tensor] = []  # operations hold addresses alone: else their memory would be freed
        self._operations: list[NDArray[np.int64]] = []
        self._buffers: dict[tuple[str, int], Tensor] = {}
        self._merged: dict[nn.Module, Tensor] = {}
        self._packed: dict[tuple[int, torch.Size], Tensor] = {}
        self._tasks = 0  # of all operations so far
        self._after = 0  # tasks that must be done before the last operation may begin
        self.weight_bytes = 0  # of the matrices that are read for each token
        self._pre = config.norm_placement == "pre"

        # A thread norms a text into memory of its own, `_own` numbers long: as many inputs as the
        # widest QRNN kernel reads. With token shift these are shifted, and the input as it was stands
        # behind them, from `_raw` on.
        kernel_size = 1
        for block in model.blocks:
            if isinstance(block, QRNNBlock):
                kernel_size = max(kernel_size, block.kernel_size)
        if config.token_shift:
            self._raw = up(kernel_size * width)
            self._own = self._raw + up(width)
        else:
            self._raw = 0
            self._own = up(kernel_size * width)
        self._gate_at = self._own  # a block's gate
        self._own += VECTOR

        # Blocks read one and write the other, so that nobody overwrites what a late thread still reads.
        self._x_BD = self._buffer("x", width)
        self._next_BD = self._buffer("next", width)

        # What whoever reads a token sets before the kernel runs: the tokens, the texts that
        # go on, the rotary tables.
        self.place = remembered(state)
        self.tokens_B = torch.zeros(rows, dtype=torch.long)
        self.lanes_B = torch.arange(rows)
        self.angles: dict[int, Tensor] = {}  # by head width: cosines, then sines
        # With latent bigrams, tokens' vectors are no rows of a table: here stands what
        # the first block reads.
        self.ready_BD = torch.zeros(rows, width) if model.ngrams is not None else None
        self._logits = torch.zeros(rows, up(config.vocab_size))
        self.logits_BV = self._logits[:, : config.vocab_size]

        # Positions of the current document that each memory holds.
        self.seen_NB = torch.zeros(len(model.schedule), rows, dtype=torch.long)
        self.memories = [self._memory(number, part) for number, part in enumerate(state.blocks)]
        self._mixers = [memory.mixer if isinstance(memory, Last) else memory for memory in self.memories]
        self._write()
        self.counters = self._count()
        self.fields = self._listed()

    def _memory(self, number: int, state: Any) -> Memory | Last:
        """Take in the state of a block application."""
        block: Any = self._model.blocks[self._model.schedule[number]]
        shifted = isinstance(state, ShiftedState)
        inner = state.mixer if shifted else state
        mixer: Memory
        if isinstance(block, AttentionBlock):
            mixer = Ring(block, inner, self.place, self.seen_NB[number])
        elif isinstance(block, QRNNBlock):
            mixer = Cells(block, inner, self.place)
        else:
            mixer = Nothing()
        if shifted:
            return Last(mixer, block.token_shift.share, state, self.place)
        return mixer

    def _write(self) -> None:
        """Write the operations of the whole model."""
        embedding = self._model.embedding
        assert isinstance(embedding, TokenEmbedding)
        width = self._model.config.hidden_size
        table: Tensor
        if self.ready_BD is None:
            table = embedding.weight_VD
            scale = math.sqrt(width)
        else:
            table = self.ready_BD
            scale = 1.0
        x = self._x_BD
        fields: dict[str, Value] = {"table": table, "to": x, "stride": x.stride(0), "width": width, "scale": scale}
        self._add("EMBED", fields, tasks=1)

        # A pre-norm block reads the stream by its own norm. A post-norm block norms what it has added; that
        # is done by whoever reads it, so each operation takes the norm of the block before.
        before: nn.Module = nn.Identity()
        for number, memory, mixer in zip(self._model.schedule, self.memories, self._mixers, strict=True):
            block: Any = self._model.blocks[number]
            self._norm(block.norm if self._pre else before, memory, block)
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
        maps = [self._dense(block.inner)]
        if block.gate is not None:
            maps.append(self._dense(block.gate))
        width = block.inner.out_features
        inner = self._buffer("inner", width)
        product = self._buffer("product", up(width) * len(maps))
        self._map(maps, None, product, ACTIVATIONS[block.config.activation], result=inner)
        self._join(block, inner)

    def _write_qrnn(self, block: QRNNBlock, memory: Cells) -> None:
        config = block.config
        cells = config.cell_size
        gates = block.gates.out_features // cells
        weight, bias = self._dense(block.gates)
        assert bias is not None
        maps = list(zip(weight.chunk(gates), bias.chunk(gates), strict=True))  # one of each gate
        hidden = self._buffer("hidden", cells)
        product = self._buffer("gates", up(cells) * gates)
        cell = memory.cell_BC
        more: dict[str, Value] = {"cell": cell, "cell_stride": cell.stride(0), "zoneout": config.zoneout}
        self._map(maps, None, product, POOLING[config.pooling], result=hidden, more=more)
        self._join(block, hidden)

    def _write_attention(self, block: AttentionBlock, memory: Ring) -> None:
        config = memory.config
        heads = config.num_heads
        groups = config.kv_heads
        width = config.head_dim
        query = self._buffer("query", heads * width)
        attended = self._buffer("attended", heads * width)
        key = self._buffer("key and value", 2 * up(groups * width))
        value = key[:, up(groups * width) :]
        self._map([self._dense(block.query)], None, query)
        self._map([self._dense(block.key), self._dense(block.value)], None, key, beside=True)
        fields: dict[str, Value] = {
            "heads": heads,
            "groups": groups,
            "width": width,
            "rows": self._rows,
            "query": query,
            "query_stride": query.stride(0),
            "key": key,
            "value": value,
            "key_stride": key.stride(0),
            "slots": memory.slots,
            "seen": memory.seen_B,
            "keys": memory.keys_BGSK,
            "values": memory.values_BGSK,
            "to": attended,
            "to_stride": attended.stride(0),
        }
        if config.positions == "rotary":
            fields["angles"] = self.angles.setdefault(width, torch.zeros(width))
        for name, norm in (("query_norm", block.query_norm), ("key_norm", block.key_norm)):
            if isinstance(norm, RMSNorm):
                fields[name] = norm.weight
                fields["eps"] = norm.eps
        # One task for each text and key-value head, evenly among the threads.
        self._add("ATTEND", fields, tasks=-(-self._rows * groups // self._threads))
        self._join(block, attended)

    def _dense(self, part: LinearMap) -> Map:
        """Return the matrix and the bias of a map; factors are multiplied once for all uses of a block."""
        if isinstance(part, nn.Linear):
            return part.weight, part.bias
        if part not in self._merged:
            self._merged[part] = merged(part)
        return self._merged[part], part.bias

    def _norm(self, norm: Any, memory: Memory | Last | None = None, block: Block | None = None) -> None:
        """Let the next maps read the stream as ``norm`` gives it, shifted, and a QRNN the inputs before.

        What ``block`` adds to the stream is multiplied by its gate, if it has one.
        """
        x = self._x_BD
        fields: dict[str, Value] = {
            "source": x,
            "source_stride": x.stride(0),
            "stride": self._own,
            "how": NORMS[type(norm)],
            "width": self._model.config.hidden_size,
            "window": 1,
            "gate_at": self._gate_at,
        }
        if block is not None:
            fields |= {"gate": block.block_gate, "gain": block.block_gain}
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
        maps: list[Map] = []
        product = source
        if block.output is not None:
            maps.append(self._dense(block.output))
            product = self._buffer("output", self._model.config.hidden_size)
        add: dict[str, Value]
        if self._pre:
            add = {"add": self._x_BD, "add_stride": self._x_BD.stride(0)}
        else:  # what the thread has normed, in its own memory, unshifted
            add = {"add": None, "add_stride": self._own, "add_at": self._raw}
        add |= {"own_stride": self._own, "gate_at": self._gate_at}
        self._map(maps, source, product, parts.ADD, result=self._next_BD, more=add)
        written = self._next_BD
        self._next_BD = self._x_BD
        self._x_BD = written

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
        """Multiply ``source`` (None: what a thread has normed) by matrices of one shape, ``then`` go on."""
        if maps:
            rows, columns = maps[0][0].shape
        else:  # a block without an output map: only what follows is done
            rows = self._model.config.hidden_size
            columns = 0
        # A small product is one task for each thread, as taking a task costs time, too; a large one is
        # several, so that a thread that is late leaves more of them to the others.
        tasks = min(_TASKS, max(1, rows * len(maps) * columns // (_LEAST * self._threads)))
        fields: dict[str, Value] = {
            "matrices": len(maps),
            "rows": rows,
            "columns": columns,
            "packed": int(self._bf16),
            "then": then,
            "source": source,
            "source_stride": self._own if source is None else source.stride(0),
            "to": to,
            "to_stride": to.stride(0),
            **(more or {}),
        }
        if result is not None:
            fields |= {"result": result, "result_stride": result.stride(0)}
        operation = self._add("MAP", fields, tasks=tasks, beside=beside)
        for number, (weight, bias) in enumerate(maps):
            stored = self._pack(weight) if self._bf16 else weight
            self.weight_bytes += stored.nbytes
            operation[d.MAP_WEIGHTS + number] = self._number(stored)
            operation[d.MAP_BIASES + number] = self._number(bias)

    def _pack(self, weight: Tensor) -> Tensor:
        """Return a matrix in bfloat16, packed once for all uses of a block."""
        key = (weight.data_ptr(), weight.shape)
        if key not in self._packed:
            self._packed[key] = pack(weight)
        return self._packed[key]

    def _add(
        self, kind: str, fields: Mapping[str, Value], *, tasks: int = 0, beside: bool = False
    ) -> NDArray[np.int64]:
        """Append an operation with so many tasks for each thread; :mod:`weft.ops.cpu.decode` has its fields.

        It waits for all before it, or ``beside`` the last one for what that one waits for.
        """
        operation = np.zeros(d.FIELDS, np.int64)
        if not beside:
            self._after = self._tasks
        self._tasks += tasks * self._threads
        operation[d.KIND] = getattr(d, kind)
        operation[d.TASKS] = tasks
        operation[d.AFTER] = self._after
        for name, value in fields.items():
            operation[getattr(d, f"{kind}_{name.upper()}")] = self._number(value)
        self._operations.append(operation)
        return operation

    def _number(self, value: Value) -> int:
        """Return an address (of memory that is kept from now on), the bits of a float, or an integer."""
        if isinstance(value, Tensor):
            self._kept.append(value.detach())
            return value.data_ptr()
        if isinstance(value, float):
            return int(np.float64(value).view(np.int64))
        return value or 0

    def _buffer(self, name: str, width: int) -> Tensor:
        """Return memory for what operations hand on, which blocks share: one for each name and width."""
        return self._buffers.setdefault((name, width), torch.zeros(self._rows, up(width)))

    def _count(self) -> NDArray[np.int64]:
        """Give each operation counters of the tasks taken; one more is of those done."""
        counters = torch.zeros(len(self._operations) + 1, self._threads * d.APART, dtype=torch.long)
        for operation, counter in zip(self._operations, counters, strict=False):
            operation[d.TAKEN] = self._number(counter)
        self._done = self._number(counters[-1])
        return counters.numpy()

    def _listed(self) -> NDArray[np.int64]:
        """Put head and operations together, and make the threads' own memory."""
        # A thread's memory is what it norms, then attention's scratch: a query, the sum of values that it
        # gets, and the score of every slot.
        scratch = 0
        for memory in self._mixers:
            if isinstance(memory, Ring):
                scratch = max(scratch, 2 * memory.keys_BGSK.shape[-1] + up(memory.slots))
        own = self._rows * self._own + VECTOR
        each = -(-4 * (own + scratch) // _LINE) * _LINE  # bytes, as numbers are float32

        head = np.zeros(d.HEAD, np.int64)
        head[d.COUNT] = len(self._operations)
        head[d.THREADS] = self._threads
        head[d.PRIVATE_BYTES] = each
        head[d.SCRATCH_BYTES] = 4 * own
        head[d.DONE] = self._done
        head[d.PRIVATE] = self._number(torch.zeros(self._threads * each // 4 + _LINE))
        head[d.LANES_AT] = self._number(self.lanes_B)
        head[d.TOKENS] = self._number(self.tokens_B)
        return np.concatenate([head, *self._operations])
