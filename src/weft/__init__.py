"""Weft: small language models that go far on little data and little hardware.

The public names are loaded when they are first used, so that ``import weft`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from weft.waiting import wait_briefly

# The public names, and the modules that have them.
_HOMES = {
    "Adaptation": "weft.evaluation.adaptation",
    "Comparison": "weft.api",
    "Description": "weft.description",
    "Metrics": "weft.evaluation.metrics",
    "ModelConfig": "weft.config",
    "Run": "weft.run",
    "Sampling": "weft.generation",
    "Tokenizer": "weft.data",
    "TrainingResult": "weft.training.result",
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
    "remember": "weft.api",
    "sized": "weft.sizing",
    "train": "weft.api",
}

# The same for type checkers, which do not run the code below; tests/test_public_names.py compares the two.
if TYPE_CHECKING:
    from weft.api import Comparison as Comparison
    from weft.api import compare as compare
    from weft.api import describe as describe
    from weft.api import evaluate as evaluate
    from weft.api import generate as generate
    from weft.api import load as load
    from weft.api import remember as remember
    from weft.api import train as train
    from weft.config import ModelConfig as ModelConfig
    from weft.data import Tokenizer as Tokenizer
    from weft.description import Description as Description
    from weft.errors import UserError as UserError
    from weft.evaluation.adaptation import Adaptation as Adaptation
    from weft.evaluation.metrics import Metrics as Metrics
    from weft.generation import Sampling as Sampling
    from weft.model import WeftModel as WeftModel
    from weft.model import build as build
    from weft.pretrained import load_tokenizer as load_tokenizer
    from weft.run import Run as Run
    from weft.sizing import sized as sized
    from weft.training.result import TrainingResult as TrainingResult
    from weft.version import __version__ as __version__

__all__ = list(_HOMES)
__all__.remove("__version__")


wait_briefly()  # before torch is imported


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'weft' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # so that the next use does not come here again
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
