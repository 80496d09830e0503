"""Parameters that accelerate keeps elsewhere until their module is called, for those that are read without a call."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

from accelerate.utils import align_module_device
from torch import nn


def loaded(*modules: nn.Module | None) -> AbstractContextManager[object]:
    """Bring what is offloaded of ``modules`` (None among them is nothing) as long as the context lasts."""
    inside = [part for module in modules if module is not None for part in module.modules()]
    offloaded = [part for part in inside if hasattr(part, "_hf_hook")]
    if not offloaded:
        return nullcontext()
    stack = ExitStack()
    for part in offloaded:
        stack.enter_context(align_module_device(part))
    return stack
