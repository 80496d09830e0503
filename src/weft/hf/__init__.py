"""Weft among Hugging Face's classes: a thin adapter over :class:`weft.model.WeftModel`'s parts.

A run directory loads with ``AutoModelForCausalLM.from_pretrained(run, trust_remote_code=True)``; after
:func:`register`, without that argument. Importing this package imports transformers.
"""

from __future__ import annotations

from weft.hf.backbone import WeftBackbone
from weft.hf.cache import WeftCache
from weft.hf.configuration import WeftConfig
from weft.hf.modeling import WeftForCausalLM

__all__ = ["WeftBackbone", "WeftCache", "WeftConfig", "WeftForCausalLM", "register"]


def register() -> None:
    """Make ``AutoConfig``, ``AutoModel`` and ``AutoModelForCausalLM`` know Weft; calling it again changes nothing."""
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    AutoConfig.register(WeftConfig.model_type, WeftConfig, exist_ok=True)
    AutoModel.register(WeftConfig, WeftBackbone, exist_ok=True)
    AutoModelForCausalLM.register(WeftConfig, WeftForCausalLM, exist_ok=True)
