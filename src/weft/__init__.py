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

    __version__: str

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
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'weft' has no attribute '{name}'")
    globals()[name] = value  # so that the next use does not come here again
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("weft")
    except PackageNotFoundError:  # a source tree that nobody installed
        return "0"


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "__version__"})
