"""The recurrence and its neighbours on a CPU: Numba kernels, compiled on a user's machine without a compiler.

Every function here takes CPU tensors of float32 (or bfloat16, where it says so) and knows nothing of
autograd; who calls makes sure that :func:`available` holds. Nothing is compiled or imported from Numba before
the first call. Shapes: B batch, T time, C cell width, A gates, N rows, D width, V vocabulary.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import struct
import warnings
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weft.ops.cpu.constants import CHUNK as CHUNK
from weft.ops.cpu.constants import KINDS, VECTOR

if TYPE_CHECKING:
    from weft.ops.cpu.launch import Kernel

LEAST_WIDTH = VECTOR
FEW = 1 << 15  # numbers, below which waking other threads costs more than it saves
_LARGE = 1 << 22  # bytes
_BLOCK = 512  # channels: the scratch of a task stays in the core's own cache
# Constants, as a compiler that traces available() cannot look for modules.
_WANTED = platform.machine().lower() in ("x86_64", "amd64", "arm64", "aarch64") and os.name == "posix"
_FOUND = importlib.util.find_spec("numba") is not None
DTYPES = (torch.float32, torch.bfloat16)


def available() -> bool:
    """Return whether the kernels can be used; say so once where Numba is missing or does not fit what it needs."""
    return _WANTED and (_FOUND if torch.compiler.is_compiling() else _imports())


@cache
def _imports() -> bool:
    why = ""
    if not _FOUND:
        why = "is missing"
    else:
        try:
            import numba  # noqa: F401
        except Exception as error:  # it refuses a NumPy that is too new for it, with errors of several kinds
            why = f"cannot be imported ({error})"
    if why:
        what = f"Numba {why}, so Weft runs in plain torch, which is slower: pip install --upgrade numba"
        warnings.warn(what, stacklevel=2)
    return not why


def fits(*tensors: Tensor) -> bool:
    """Return whether kernels can work on these tensors, which share one dtype."""
    first = tensors[0]
    return (
        all(x.device.type == "cpu" and x.dtype == first.dtype for x in tensors)
        and first.dtype in DTYPES
        and first.shape[-1] >= LEAST_WIDTH
        and available()
    )


def usable(*tensors: Tensor) -> bool:
    """Return whether the kernels that no operator stands for may take these: ordinary tensors, and nobody compiles."""
    plain = all(type(x) in (Tensor, torch.nn.Parameter) for x in tensors)
    return plain and not torch.compiler.is_compiling() and tensors[0].numel() > 0 and fits(*tensors)


def _threads(numbers: int) -> int:
    return 1 if numbers < FEW else torch.get_num_threads()


def _by_channels(kernel: Kernel, arguments: list[int], batch: int, time: int, width: int) -> None:
    """Run a kernel whose tasks are blocks of channels of one sequence."""
    threads = _threads(batch * time * width)
    blocks = max(1, -(-width // _BLOCK))
    if batch * blocks < threads:  # few sequences: narrower blocks, for every thread to have one
        blocks = max(blocks, min(width // 64, -(-threads // max(batch, 1))), 1)
    block = -(-width // blocks // LEAST_WIDTH) * LEAST_WIDTH
    blocks = -(-width // block)
    if blocks > 1 and width - (blocks - 1) * block < LEAST_WIDTH:
        blocks -= 1  # the last takes the rest
    kernel(batch * blocks, *arguments, width, blocks, block, alone=threads == 1)


def shares(rows: int, width: int, least: int = 1) -> tuple[int, int, int]:
    """Return into how many tasks to part rows, the rows of each, and the threads that it is worth."""
    # Four tasks a thread: who is done early takes more of them.
    threads = _threads(rows * width)
    each = max(least, -(-rows // (4 * threads)))
    return -(-rows // each), each, threads


def by_rows(kernel: Kernel, arguments: list[int], rows: int, width: int, least: int = 1) -> None:
    """Run a kernel whose tasks are rows."""
    tasks, each, threads = shares(rows, width, least)
    kernel(tasks, *arguments, rows, each, alone=threads == 1)


def _lined_up(x: Tensor) -> tuple[Tensor, int]:
    """Return ``x`` (B, T, width) with steps of equal distance in memory, and that distance."""
    batch, time, width = x.shape
    # of a dimension of one step torch's stride means nothing
    if time > 1:
        row = x.stride(1)
    elif batch > 1:
        row = x.stride(0)
    else:
        row = width
    if x.stride(2) == 1 and row >= width and (batch <= 1 or x.stride(0) == time * row):
        return x, row
    return x.contiguous(), width


def _is_large(x: Tensor) -> int:
    """Return whether ``x`` and its like are written past the caches: they would not stay there until they are read."""
    aligned = x.data_ptr() % (4 * VECTOR) == 0 and x.shape[-1] % LEAST_WIDTH == 0
    return int(aligned and x.numel() * x.element_size() >= _LARGE)


def floats(*shape: int) -> Tensor:
    """Return room for float32 numbers, whatever torch's default is: kernels write where they are told."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def address(x: Tensor | None) -> int:
    """Return where a tensor's numbers are, 0 for none."""
    return 0 if x is None else x.data_ptr()


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def bits(number: float) -> int:
    """Return the bits of a number, to be passed among addresses."""
    return int.from_bytes(struct.pack("<d", number), "little", signed=True)


def recurrence_forward(forget: Tensor, update: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return ``(cells, last)``; float32."""
    from weft.ops.cpu import entries

    batch, time, width = update.shape
    forget, row = _lined_up(forget)
    update, update_row = _lined_up(update)
    state = state.contiguous()
    reset = _contiguous(reset)
    cells = floats(batch, time, width)
    last = floats(batch, width)
    tensors = [forget, update, cells, state, last, reset]
    arguments = [*map(address, tensors), time, row, update_row, _is_large(cells)]
    _by_channels(entries.recurrence_forward, arguments, batch, time, width)
    return cells, last


def recurrence_backward(
    grad_cells: Tensor, grad_last: Tensor, forget: Tensor, state: Tensor, reset: Tensor | None, cells: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of forget gates, updates and state; float32."""
    from weft.ops.cpu import entries

    batch, time, width = cells.shape
    forget, row = _lined_up(forget)
    grad_cells = grad_cells.contiguous()
    grad_last = grad_last.contiguous()
    state = state.contiguous()
    reset = _contiguous(reset)
    grad_forget = floats(batch, time, width)
    grad_update = floats(batch, time, width)
    grad_state = floats(batch, width)
    tensors = [grad_cells, grad_last, forget, state, cells, grad_forget, grad_update, grad_state, reset]
    arguments = [*map(address, tensors), time, row, _is_large(cells)]
    _by_channels(entries.recurrence_backward, arguments, batch, time, width)
    return grad_forget, grad_update, grad_state


def pooling_forward(
    gates: Tensor, bias: Tensor | None, cell: Tensor, reset: Tensor | None, pooling: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(hidden, last, starts)`` of gates (B, T, A * C), float32 or bfloat16; bias and cells are float32.

    ``starts`` (B, ceil(T / CHUNK), C) are the cells before each chunk of steps, for the backward pass.
    """
    from weft.ops.cpu import entries

    batch, width = cell.shape
    time = gates.shape[1]
    gates, row = _lined_up(gates)
    cell = cell.contiguous()
    reset = _contiguous(reset)
    hidden = torch.empty(batch, time, width, dtype=gates.dtype)
    last = floats(batch, width)
    starts = floats(batch, -(-time // CHUNK), width)
    tensors = [gates, _bias(bias, gates), hidden, cell, last, starts, reset]
    kernel = entries.pooling_forward[DTYPES.index(gates.dtype)]
    arguments = [*map(address, tensors), time, row, KINDS[pooling]]
    _by_channels(kernel, arguments, batch, time, width)
    return hidden, last, starts


def pooling_backward(
    grad_hidden: Tensor,
    grad_last: Tensor,
    gates: Tensor,
    bias: Tensor | None,
    starts: Tensor,
    reset: Tensor | None,
    pooling: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the gates (in their dtype), of the bias and of the first cell (float32)."""
    from weft.ops.cpu import entries

    batch, width = grad_last.shape
    time = gates.shape[1]
    gates, row = _lined_up(gates)
    grad_hidden = grad_hidden.to(gates.dtype).contiguous()
    grad_last = grad_last.contiguous()
    starts = starts.contiguous()
    reset = _contiguous(reset)
    grad_gates = torch.empty(gates.shape, dtype=gates.dtype)
    grad_cell = floats(batch, width)
    grad_bias = floats(batch, gates.shape[2])  # of each sequence; the sum over them is made below
    bias = _bias(bias, gates)
    tensors = [gates, bias, grad_hidden, grad_gates, grad_bias, grad_last, grad_cell, starts, reset]
    kernel = entries.pooling_backward[DTYPES.index(gates.dtype)]
    arguments = [*map(address, tensors), time, row, KINDS[pooling]]
    _by_channels(kernel, arguments, batch, time, width)
    return grad_gates, grad_bias.sum(0), grad_cell


def _bias(bias: Tensor | None, gates: Tensor) -> Tensor:
    """Return the gates' bias for the kernels, which always add one."""
    return torch.zeros(gates.shape[2], dtype=torch.float32) if bias is None else bias.contiguous()


def rms_norm_forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return the normed rows of ``x`` (..., D), in their precision, and what each was multiplied by (N,)."""
    from weft.ops.cpu import entries

    width = x.shape[-1]
    rows = x.numel() // x.shape[-1]
    y = torch.empty_like(x)
    scales = floats(rows)
    arguments = [*map(address, [x, weight, y, scales]), width, bits(eps)]
    by_rows(entries.rms_norm_forward[DTYPES.index(x.dtype)], arguments, rows, width)
    return y, scales


def rms_norm_backward(x: Tensor, weight: Tensor, scales: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of ``x`` and ``weight``."""
    from weft.ops.cpu import entries

    width = x.shape[-1]
    rows = x.numel() // x.shape[-1]
    grad_x = torch.empty_like(x)
    parts = floats(shares(rows, width)[0], width)
    arguments = [*map(address, [x, weight, scales, grad, grad_x, parts]), width]
    by_rows(entries.rms_norm_backward[DTYPES.index(x.dtype)], arguments, rows, width)
    return grad_x, parts.sum(0)


def relu_squared_forward(x: Tensor) -> Tensor:
    """Return relu(x)^2; float32 or bfloat16, contiguous."""
    from weft.ops.cpu import entries

    y = torch.empty_like(x)
    kernel = entries.relu_squared_forward[DTYPES.index(x.dtype)]
    by_rows(kernel, [x.data_ptr(), y.data_ptr()], x.numel(), 1, least=LEAST_WIDTH)
    return y


def relu_squared_backward(y: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of what became ``y``."""
    from weft.ops.cpu import entries

    grad_x = torch.empty_like(y)
    kernel = entries.relu_squared_backward[DTYPES.index(y.dtype)]
    by_rows(kernel, [y.data_ptr(), grad.data_ptr(), grad_x.data_ptr()], y.numel(), 1, least=LEAST_WIDTH)
    return grad_x


def softmax_loss(logits: Tensor, targets: Tensor, weight: Tensor, *, gradient: bool) -> Tensor:
    """Return the nats of ``targets`` (N,) under softmax(logits), zero where they are negative.

    With ``gradient``, that of ``weight`` (a scalar) times their sum takes the place of the logits (N, V),
    float32 or bfloat16. IndexError for a target outside the vocabulary.
    """
    from weft.ops.cpu import entries

    rows, vocabulary = logits.shape
    targets = targets.to(torch.int64).contiguous()
    if rows and int(targets.max()) >= vocabulary:
        raise IndexError(f"target {int(targets.max())} is outside the vocabulary of {vocabulary}")
    nats = floats(rows)
    arguments = [*map(address, [logits, targets, nats, weight]), vocabulary, int(gradient)]
    by_rows(entries.softmax_loss[DTYPES.index(logits.dtype)], arguments, rows, vocabulary)
    return nats
