"""What earlier versions wrote of a model, read as it was.

Format 1 of ``config.json``, which 0.1.0 wrote, holds the pattern and one section for each kind of block, as a
recipe does, with every width in it; what maps are made of follows from the place of a block among those of
its role.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from weft.config import ModelConfig, Shell
from weft.draft import Draft
from weft.errors import UserError
from weft.model_recipe import ModelRecipe
from weft.settings import renamed

FORMAT = 2  # of config.json
_OF_MODEL = ("boundary_id", "padding_id")
_SECTIONS = ("attention", "feed_forward", "qrnn", "attn_qrnn", "maps")
ALL_FIELDS = (*ModelConfig.model_fields, *_SECTIONS)  # in any format


def model_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of :class:`ModelConfig` in a ``config.json`` of any format, for ``ModelConfig.parse``."""
    if "blocks" not in values and "pattern" in values:
        values = dict(_of_format_1(values))
    return {name: values[name] for name in ModelConfig.model_fields if name in values}


def _of_format_1(values: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration that format 1 describes."""
    pattern = values.get("pattern")
    width = values.get("hidden_size")
    vocabulary = values.get("vocab_size")
    if not (isinstance(pattern, str) and isinstance(width, int) and isinstance(vocabulary, int)):
        raise UserError("'config.json' must hold a pattern, a hidden_size and a vocab_size.")
    known = {}
    for name in (*Shell.model_fields, *_SECTIONS):
        if values.get(name) is not None:
            known[name] = values[name]
    known = renamed({"model": known}, warn=False)["model"]
    recipe = ModelRecipe.parse({**known, "pattern": pattern}, where="config.json")
    special = {name: values[name] for name in _OF_MODEL if name in values}
    return Draft.of(recipe, pattern, special).configured(width, vocabulary)
