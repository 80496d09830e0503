"""Parameters that accelerate keeps elsewhere until their module is called, for those that are read without a call."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

from accelerate.utils import align_module_device
from torch import nn


def loaded(*modules: nn.Module | None) -> AbstractContextManager[object]:
    """Bring what is offloaded of ``modules`` (None among them is nothing) as long as the context lasts."""
    away = [module for module in modules if module is not None and _is_away(module)]
    if not away:
        return nullcontext()
    stack = ExitStack()
    for module in away:
        for part in module.modules():
            if hasattr(part, "_hf_hook"):  # accelerate's, which knows where the parameters are
                stack.enter_context(align_module_device(part))
    return stack


def uncalled(block: nn.Module) -> list[nn.Module]:
    """Return the parts of a block whose parameters it reads itself: lists of factors, and gates, for their bias."""
    if not _is_away(block):
        return []
    found: list[nn.Module] = [part for part in block.modules() if isinstance(part, nn.ParameterList)]
    gates = getattr(block, "gates", None)
    if gates is not None:
        found.append(gates)
    return found


def _is_away(module: nn.Module) -> bool:
    """Tell whether the first parameter is, as whole blocks are offloaded, or all of a model."""
    first = next(module.parameters(), None)
    return first is not None and first.is_meta
