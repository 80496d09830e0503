"""Estimate the bytes that operators move, from the shapes and types of what they read that torch's profiler records.

An operator moves what it reads and what it writes: its inputs, and the memory that is asked for inside it, or its first
input again where it works in place. Where operators call others, the larger of its own estimate and the sum of
theirs counts, so nothing counts twice. It is an estimate: tensors that a Function has saved, tensors that are given to
be written to, and what kernels read again from the caches are not in it; a table counts whole, however few of its rows
are looked up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

KindOf = Callable[[list[str]], str]  # from an operator's name and its callers', outwards

FILLING = ("copy_", "zero_", "fill_")  # only write their first input
FUSED_ADAM = "_fused_adam"  # reads weights, gradients and two averages, and writes all but the gradients
# In place, but not in memory.
OF_FORM = ("detach_", "resize_", "set_", "requires_grad_", "squeeze_", "unsqueeze_", "transpose_", "t_", "as_strided_")


def moved(tree: Sequence[Any], kind_of: KindOf) -> Counter[str]:
    """Return bytes by kind of work; ``tree`` is that of a profile with shapes and memory."""
    total: Counter[str] = Counter()
    for node in tree:
        total += _of(node, [], kind_of)[0]
    return total


def _of(node: Any, callers: list[str], kind_of: KindOf) -> tuple[Counter[str], int]:
    """Return the bytes that an operator moves with all that it calls, and those that were asked for in it."""
    from torch._C._profiler import _EventType

    names = [node.name, *callers]
    inside: Counter[str] = Counter()
    asked_for = 0
    for child in node.children:
        kind, fields = child.typed
        if kind == _EventType.Allocation:
            asked_for += max(0, fields.alloc_size)
        else:
            bytes_of_child, asked_for_by_child = _of(child, names, kind_of)
            inside += bytes_of_child
            asked_for += asked_for_by_child
    own = 0
    kind, fields = node.typed
    if kind == _EventType.TorchOp:
        own = _own(node.name.removeprefix("aten::"), list(fields.inputs), asked_for)
    if own > inside.total():
        inside = Counter({kind_of(names): own})
    return inside, asked_for


def _own(name: str, inputs: list[Any], asked_for: int) -> int:
    """Return the estimate for one operator; 0 for what only looks at memory in another form."""
    read = sum(_size(tensor) for tensor in _tensors(inputs))
    if read == 0 or name in OF_FORM:
        return 0
    if name in FILLING:
        return read
    if name.endswith("_"):
        written = sum(_size(tensor) for tensor in _tensors(inputs[:1]))
        return read + written * (3 if name.startswith(FUSED_ADAM) else 1)
    return read + asked_for if asked_for else 0


def _tensors(values: Sequence[Any]) -> Iterator[Any]:
    """Yield the tensors among an operator's inputs, those in lists, too."""
    from torch._C._profiler import _TensorMetadata

    for value in values:
        if isinstance(value, _TensorMetadata):
            yield value
        elif isinstance(value, list):
            yield from _tensors(value)


def _size(tensor: Any) -> int:
    """Return the bytes behind a tensor; what is expanded stands in memory once."""
    count = 1
    for size, stride in zip(tensor.sizes, tensor.strides, strict=True):
        if stride != 0 or size == 0:
            count *= size
    return count * tensor.dtype.itemsize
