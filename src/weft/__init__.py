"""Weft: small language models that go far on little data and little hardware.

The public names are loaded when they are first used, so that ``import weft`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from weft.waiting import wait_briefly

if TYPE_CHECKING:
    from weft.api import Comparison, compare, describe, evaluate, generate, load, train
    from weft.config import ModelConfig
    from weft.data import Tokenizer
    from weft.description import Description
    from weft.errors import UserError
    from weft.evaluation.adaptation import Adaptation
    from weft.evaluation.metrics import Metrics
    from weft.generation import Sampling
    from weft.model import WeftModel, build
    from weft.pretrained import load_tokenizer
    from weft.sizing import sized
    from weft.training.run import TrainingResult
    from weft.version import __version__ as __version__

_HOMES = {
    "Adaptation": "weft.evaluation.adaptation",
    "Comparison": "weft.api",
    "Description": "weft.description",
    "Metrics": "weft.evaluation.metrics",
    "ModelConfig": "weft.config",
    "Sampling": "weft.generation",
    "Tokenizer": "weft.data",
    "TrainingResult": "weft.training.run",
    "UserError": "weft.errors",
    "WeftModel": "weft.model",
    "__version__": "weft.version",
    "build": "weft.model",
    "compare": "weft.api",
    "describe": "weft.api",
    "evaluate": "weft.api",
    "generate": "weft.api",
    "load": "weft.api",
    "load_tokenizer": "weft.pretrained",
    "sized": "weft.sizing",
    "train": "weft.api",
}

__all__ = [
    "Adaptation",
    "Comparison",
    "Description",
    "Metrics",
    "ModelConfig",
    "Sampling",
    "Tokenizer",
    "TrainingResult",
    "UserError",
    "WeftModel",
    "build",
    "compare",
    "describe",
    "evaluate",
    "generate",
    "load",
    "load_tokenizer",
    "sized",
    "train",
]


wait_briefly()  # before torch is imported


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'weft' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # so that the next use does not come here again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
