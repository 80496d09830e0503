"""``config.json`` as Hugging Face sees it: the fields of :class:`weft.config.ModelConfig` as attributes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from weft.config import ModelConfig
from weft.older import ALL_FIELDS, model_fields
from weft.pretrained import check_format, header, save_shim, special_ids

# What follows from the settings, and tools such as peft look for in the dictionary.
_DERIVED = ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
# There is no limit. This stands in the dictionary alone: of an attribute
# lm-evaluation-harness would make its windows.
LONGEST_TEXT = 1 << 20


class WeftConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Holds every field of :class:`weft.config.ModelConfig` as plain data; ``blocks`` is a list of dicts.

    ``WeftConfig.of(config)`` makes one of a native configuration and :attr:`native` gives that back. What is
    saved can be read by both sides. The ids of the boundary and padding tokens, where they are not given,
    are the last two of the vocabulary, as in all of Weft's tokenizers; they stay what they are when the
    vocabulary is resized. Settings that are wrong raise :class:`weft.errors.UserError`.
    """

    model_type = "weft"
    attribute_map: ClassVar[dict[str, str]] = {"tie_word_embeddings": "tie_embeddings"}
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["cache", "past_key_values"]
    has_no_defaults_at_init: ClassVar[bool] = True

    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_format(kwargs, "This model")
        tied = kwargs.pop("tie_word_embeddings", None)
        # Ours are parsed below; transformers is given the rest, but for what follows from ours.
        settings = model_fields(kwargs)
        ours = {*ALL_FIELDS, *_DERIVED, "max_position_embeddings"}
        kwargs = {name: value for name, value in kwargs.items() if name not in ours}
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]
        if not settings:  # transformers makes empty configurations to compare with
            return
        if tied is not None:
            settings.setdefault("tie_embeddings", tied)
        config = ModelConfig.parse(settings, where="config.json")
        # The ids of special tokens are fixed here, or they would move when the vocabulary is resized.
        boundary, padding = special_ids(config)
        config = config.model_copy(update={"boundary_id": boundary, "padding_id": padding})
        for name, value in config.model_dump(mode="json").items():
            setattr(self, name, value)
        if self.bos_token_id is None:
            self.bos_token_id = boundary
        if self.eos_token_id is None:
            self.eos_token_id = boundary
        if self.pad_token_id is None:
            self.pad_token_id = padding

    @classmethod
    def of(cls, config: ModelConfig) -> WeftConfig:
        """Return the Hugging Face form of a native configuration."""
        return cls(**config.model_dump(mode="json"))

    @property
    def native(self) -> ModelConfig:
        """The native configuration that the attributes describe now."""
        settings = {name: getattr(self, name) for name in ModelConfig.model_fields if hasattr(self, name)}
        return ModelConfig.parse(settings, where="config.json")

    @property
    def num_hidden_layers(self) -> int:
        """The number of block applications."""
        return len(self.native.schedule)

    @property
    def num_attention_heads(self) -> int:
        """The number of attention heads of the first attention block, or else of another that has some, else 1."""
        return self._of_first_attention("num_heads", self._of_first("num_heads", 1))

    @property
    def num_key_value_heads(self) -> int:
        """The number of heads of keys and values of that block."""
        return self._of_first_attention("kv_heads", self.num_attention_heads)

    @property
    def head_dim(self) -> int:
        """The width of an attention head of the first attention block; what the heads share where there is none."""
        return self._of_first_attention("head_dim", self.native.hidden_size // self.num_attention_heads)

    def _of_first_attention(self, name: str, otherwise: int) -> int:
        """Return this number of the first attention block, the kind with heads of keys and values of its own."""
        for block in self.native.blocks:
            if hasattr(block, "kv_heads"):
                value: int = getattr(block, name)
                return value
        return otherwise

    def _of_first(self, name: str, otherwise: int) -> int:
        """Return this number of the first block that has it."""
        for block in self.native.blocks:
            if hasattr(block, name):
                value: int = getattr(block, name)
                return value
        return otherwise

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: what transformers saves, and what a native ``config.json`` says."""
        values: dict[str, Any] = super().to_dict()
        if "pattern" not in values:
            return values
        tokens = {name: values[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        derived = {name: getattr(self, name) for name in _DERIVED} | {"max_position_embeddings": LONGEST_TEXT}
        return values | header(self.native) | tokens | derived

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``config.json`` and the shim that leads transformers to the installed classes."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        save_shim(folder)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing: the class is the installed one, and its source is not to be copied into folders."""
