"""A model as a Hugging Face folder: ``config.json``, ``model.safetensors`` and the tokenizer's files.

Nothing is ever unpickled. ``config.json`` holds the fields of :class:`weft.config.ModelConfig` beside the keys that
Hugging Face tools look for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from weft import __version__
from weft.config import ModelConfig, merge
from weft.data import Tokenizer
from weft.errors import UserError
from weft.files import write_atomic
from weft.model import WeftModel

FORMAT = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")


def save_config(config: ModelConfig, folder: Path) -> None:
    """Write ``config.json``."""
    header = {
        "model_type": "weft",
        "architectures": ["WeftForCausalLM"],
        "weft_format": FORMAT,
        "weft_version": __version__,
        "dtype": "float32",
        "bos_token_id": config.boundary_id,
        "eos_token_id": config.boundary_id,
        "pad_token_id": config.padding_id,
        "tie_word_embeddings": config.tie_embeddings,
    }
    write_atomic(folder / CONFIG, json.dumps(header | config.model_dump(mode="json"), indent=2) + "\n")


def save_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors as one safetensors file, atomically."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(whole, metadata={"format": "pt"}))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file; a damaged one is a UserError."""
    try:
        return load(path.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise UserError(f"'{path}' is damaged ({error}): restore it, or resume the run from its checkpoints.") from None


def save_model(model: WeftModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the whole folder; parameters that are shared are written once."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    save_config(model.config, folder)
    save_weights(dict(model.named_parameters()), folder / WEIGHTS)


def load_config(folder: Path, settings: dict[str, Any] | None = None) -> ModelConfig:
    """Read ``config.json``, with ``settings`` laid over it."""
    check_folder(folder)
    return read_config(folder, settings)


def read_config(folder: Path, settings: dict[str, Any] | None = None) -> ModelConfig:
    """Read ``config.json`` of a folder that need not hold weights yet."""
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"'{folder / CONFIG}' is damaged: it is not JSON.") from None
    if not isinstance(values, dict):
        raise UserError(f"'{folder / CONFIG}' is damaged: it is not a JSON object.")
    if values.get("model_type") != "weft":
        raise UserError(f"'{folder}' holds a model of type '{values.get('model_type')}', not a Weft model.")
    if values.get("weft_format", 0) > FORMAT:
        raise UserError(f"'{folder}' was written by a newer Weft ({values.get('weft_version')}): upgrade to read it.")
    known = {name: values[name] for name in ModelConfig.model_fields if name in values}
    return ModelConfig.parse(merge(known, settings or {}), where=CONFIG)


def load_model(folder: Path, *, memory: int | None = None) -> WeftModel:
    """Read a model in evaluation mode, bit-equal to what was saved; ``memory`` replaces the attention's reach."""
    config = load_config(folder, None if memory is None else {"attention": {"memory": memory}})
    with torch.device("meta"):
        model = WeftModel(config)
    load_into(model, load_weights(folder / WEIGHTS), folder / WEIGHTS)
    return model.eval()


def load_into(model: WeftModel, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Give ``model`` these tensors as its parameters; a set that does not fit is a UserError."""
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise UserError(f"'{path}' does not fit its config.json: the folder was changed or only half copied.")
    model.load_state_dict(tensors, strict=True, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the folder's tokenizer."""
    check_folder(folder)
    return Tokenizer.load(folder)


def check_folder(folder: Path) -> None:
    """Raise UserError unless ``folder`` holds a whole model and no pickle."""
    if not folder.is_dir():
        raise UserError(f"There is no run directory '{folder}': give the folder that 'weft train --out' wrote.")
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"'{folder}' holds a pickle ({pickles[0]}), which could run any code: Weft reads safetensors only; "
            "remove the file or convert it."
        )
    if not (folder / CONFIG).is_file():
        raise UserError(f"'{folder}' is not a run directory: it has no {CONFIG}.")
    missing = [name for name in (WEIGHTS, "tokenizer.json") if not (folder / name).is_file()]
    if missing:
        hint = "resume its training with --resume" if (folder / "recipe.yaml").is_file() else "copy it again"
        raise UserError(f"'{folder}' is only half written, {missing[0]} is missing: {hint}.")
