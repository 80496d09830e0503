"""Where bfloat16 is computed natively."""

from __future__ import annotations

from typing import Literal

import torch

from weft.ops.cpu.processor import has_bf16


def use_bf16(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> bool:
    """Return whether to compute products in bfloat16: when asked to, or where the device does so natively."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bf16()


def cpu_has_bf16() -> bool:
    """Return whether this CPU has bfloat16 matrix instructions (known on Linux; False elsewhere)."""
    return has_bf16()
