"""Whether tensors and modules are as they were made: for what is kept of them, and for passes that go around them."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


def versions(tensors: Iterable[Tensor]) -> list[object]:
    """Return what is equal to an earlier answer while none of ``tensors`` was changed in place, moved or replaced.

    Tensors of inference mode count no changes: for them it holds as long as nobody writes into them.
    """
    found: list[object] = []
    for x in tensors:
        changes = 0 if x.is_inference() else x._version
        found.append((x.data_ptr(), changes, x.device, x.dtype))
    return found


def untouched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Return whether ``module`` is of exactly this kind and nobody looks on when it is called.

    What works with a module's parameters in place of calling it asks first, as hooks, a subclass and a wrapper
    want the call.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) is kind and not any(hooks) and "forward" not in module.__dict__
