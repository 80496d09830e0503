"""A model as a Hugging Face folder: ``config.json``, ``model.safetensors`` and the tokenizer's files.

Nothing is ever unpickled. ``config.json`` holds the fields of :class:`weft.config.ModelConfig`
beside the keys that Hugging Face tools look for; ``modeling_weft.py`` tells them where the classes
are: in the installed package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import nn

from weft import words
from weft.arguments import checked
from weft.config import ModelConfig
from weft.data import Tokenizer
from weft.errors import DamagedError, UserError
from weft.files import json_object, write_atomic
from weft.language_model import Module
from weft.memory import TooLargeError, check_memory
from weft.model import WeftModel, build
from weft.older import FORMAT, model_fields
from weft.pattern import reapplied
from weft.version import __version__

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
SHIM = "modeling_weft.py"
ADAPTER = "adapter_config.json"
GENERATION = "generation_config.json"
_FLOATS = ("F32", "BF16", "F16", "F64")  # as safetensors calls them
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")
# What transformers.Trainer leaves beside a model to resume its own training; nothing
# loads a model from these.
_TRAINER_STATE = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")
SHIM_TEXT = '''"""Where transformers finds the classes of this model: in the installed package `weft`."""

try:
    from weft.hf import WeftBackbone, WeftConfig, WeftForCausalLM, register
except ImportError as error:
    raise ImportError("This model needs the package weft-lm: pip install --upgrade weft-lm") from error

register()  # the user has trusted this folder: what is loaded next, such as the tokenizer, is not asked about again

__all__ = ["WeftBackbone", "WeftConfig", "WeftForCausalLM"]
'''


def save_config(config: ModelConfig, folder: Path) -> None:
    """Write ``config.json``, ``generation_config.json`` and the shim that leads transformers to our classes."""
    values = header(config) | {"dtype": "float32"} | config.model_dump(mode="json")
    save_shim(folder)
    write_atomic(folder / GENERATION, json.dumps(generation_settings(config), indent=2) + "\n")
    write_atomic(folder / CONFIG, json.dumps(values, indent=2) + "\n")


def save_shim(folder: Path) -> None:
    """Write the few lines that ``AutoModelForCausalLM.from_pretrained(..., trust_remote_code=True)`` runs."""
    write_atomic(folder / SHIM, SHIM_TEXT)


def header(config: ModelConfig) -> dict[str, Any]:
    """Return what ``config.json`` says to Hugging Face tools, beside the fields of ``config``."""
    module = Path(SHIM).stem
    return {
        "model_type": "weft",
        "architectures": ["WeftForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{module}.WeftConfig",
            "AutoModel": f"{module}.WeftBackbone",
            "AutoModelForCausalLM": f"{module}.WeftForCausalLM",
        },
        "weft_format": FORMAT,
        "weft_version": __version__,
        **_token_ids(config),
        "tie_word_embeddings": config.tie_embeddings,
    }


def generation_settings(config: ModelConfig) -> dict[str, Any]:
    """Return what transformers' ``generate`` does unless told otherwise: padding is never written."""
    return {**_token_ids(config), "suppress_tokens": [special_ids(config)[1]]}


def _token_ids(config: ModelConfig) -> dict[str, int]:
    boundary, padding = special_ids(config)
    return {"bos_token_id": boundary, "eos_token_id": boundary, "pad_token_id": padding}


def special_ids(config: ModelConfig) -> tuple[int, int]:
    """Return the ids of the boundary and padding tokens: as given, else the vocabulary's last two."""
    boundary = config.boundary_id
    if boundary is None:
        boundary = config.vocab_size - 2
    padding = config.padding_id
    if padding is None:
        padding = config.vocab_size - 1
    return boundary, padding


def save_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write tensors as one safetensors file, atomically."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(whole, metadata={"format": "pt"}))


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file; UserError where it is damaged, too large, or holds anything but floats of one kind."""
    try:
        with safe_open(path, framework="pt") as file:  # which reads the header alone
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - it is no dict
        if wrong := sorted(kinds - set(_FLOATS)):
            raise UserError(
                f"'{path}' holds weights of the kind {wrong[0]}, and Weft reads {', '.join(_FLOATS)}: convert them."
            )
        if len(kinds) > 1:
            raise UserError(
                f"'{path}' holds weights of several kinds ({', '.join(sorted(kinds))}): convert them to one, as "
                "AutoModelForCausalLM.from_pretrained(folder, dtype='float32').save_pretrained(other) does."
            )
        check_memory(path.stat().st_size, f"'{path}'", "use a smaller model or a larger machine")
        return load(path.read_bytes())
    except MemoryError:
        raise TooLargeError(f"'{path}' does not fit into memory: use a smaller model or a larger machine.") from None
    except (SafetensorError, OSError) as error:
        raise DamagedError(
            f"'{path}' is damaged ({error}): restore it, or resume the run from its checkpoints."
        ) from None


def save_model(model: WeftModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the whole folder; parameters that are shared are written once."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    save_config(model.config, folder)
    save_weights(dict(model.named_parameters()), folder / WEIGHTS)


def load_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a folder with a model in it."""
    check_folder(folder, WEIGHTS)
    return read_config(folder)


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a folder that need not hold weights yet."""
    values = _read_object(folder / CONFIG)
    if values.get("model_type") != "weft":
        kind = words.short(values.get("model_type"))
        raise UserError(f"'{folder}' holds a model of type {kind}, not a Weft model.")
    check_format(values, f"'{folder}'")
    return ModelConfig.parse(model_fields(values), where=CONFIG)


def is_described(folder: Path) -> bool:
    """Return whether what :func:`save_config` writes is in ``folder``, and whole."""
    try:
        read_config(folder)
    except DamagedError:
        return False
    generation = folder / GENERATION
    return (folder / SHIM).is_file() and generation.is_file() and json_object(generation.read_bytes()) is not None


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DamagedError(f"'{path.parent}' is not a run directory: it has no {path.name}.")
    values = json_object(path.read_bytes())
    if values is None:
        raise DamagedError(
            f"'{path}' is damaged: it is not JSON that describes a model; restore it, or make it anew by resuming the "
            "run."
        )
    return values


def check_format(values: Mapping[str, Any], what: str) -> None:
    """Raise UserError where ``values`` of a ``config.json`` are of a format that this Weft does not know."""
    found = values.get("weft_format", 0)
    if not isinstance(found, int) or found > FORMAT:
        raise UserError(
            f"{what} has format {words.short(found)}, and this Weft reads formats up to {FORMAT}: upgrade Weft."
        )


def load_model(folder: Path, *, window: int | None = None, applications: int | None = None) -> WeftModel:
    """Read a model in evaluation mode, bit-equal to what was saved.

    ``window`` replaces how many tokens every attention of the stack reaches back, ``applications`` how often
    the pattern's ``[ ]`` are applied.
    """
    config = load_config(folder)
    if window is not None:
        config = config.with_window(window)
    if applications is not None:
        config = config.with_stack(reapplied(config.stack, applications))
    with torch.device("meta"):
        model = WeftModel(config)
    load_into(model, load_weights(folder / WEIGHTS), folder / WEIGHTS)
    return model.eval()


def fresh_model(folder: Path, *, seed: int) -> WeftModel:
    """Return a freshly initialised model of the folder's ``config.json``, which its checkpoints fit."""
    return build(read_config(folder), seed=seed)


def load_into(model: nn.Module | Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Give ``model`` these tensors as its parameters; UserError where they do not fit or are not all numbers."""
    check_fit(model, tensors, path)
    assign(model, tensors)


def check_fit(model: nn.Module | Module, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Raise UserError where ``tensors``, which were in ``path``, are not the model's parameters, or not all numbers."""
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise UserError(f"'{path}' does not fit its config.json: the folder was changed or only half copied.")
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UserError(f"The weights in '{path}' are not all numbers: its training diverged, or the file was changed.")


def assign(model: nn.Module | Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Let ``tensors``, which fit, be the parameters of ``model``; parameters of several names stay one."""
    # By the parameter that is there now: the new one. It is the same object under each of its names.
    taken = {}
    for name, parameter in model.named_parameters():
        taken[id(parameter)] = nn.Parameter(tensors[name], requires_grad=parameter.requires_grad)
    everywhere = model.named_parameters(remove_duplicate=False)
    model.load_state_dict({name: taken[id(parameter)] for name, parameter in everywhere}, strict=True, assign=True)


@checked
def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read the folder's tokenizer; UserError for one that its model was not made with."""
    folder = Path(folder)
    check_folder(folder, TOKENIZER)
    tokenizer = Tokenizer.load(folder)
    values = _read_object(folder / CONFIG)
    rows = values.get("vocab_size")
    boundary = values.get("boundary_id")
    if isinstance(rows, int) and tokenizer.vocab_size > rows:
        raise UserError(
            f"'{folder}' has a tokenizer of {tokenizer.vocab_size:,} tokens and a model of {rows:,}: they are not of "
            "one run; copy the folder again."
        )
    if boundary is not None and boundary != tokenizer.boundary_id:
        raise UserError(
            f"'{folder}' has a tokenizer whose boundary is token {tokenizer.boundary_id:,} and a model whose boundary "
            f"is token {words.short(boundary)}: they are not of one run; copy the folder again."
        )
    return tokenizer


def check_folder(folder: Path, *needed: str) -> None:
    """Raise UserError unless ``folder`` holds no pickle and the files ``needed`` (unless named, a whole model's)."""
    if not folder.is_dir():
        raise UserError(f"There is no run directory '{folder}': give the folder that 'weft train --out' wrote.")
    refuse_pickles(folder)
    if (folder / ADAPTER).is_file() and not (folder / CONFIG).is_file():
        raise UserError(
            f"'{folder}' holds an adapter of peft, not a whole model: merge it into its model (merge_and_unload) and "
            "save that."
        )
    if not (folder / CONFIG).is_file():
        raise UserError(f"'{folder}' is not a run directory: it has no {CONFIG}.")
    missing = [name for name in needed or (WEIGHTS, TOKENIZER) if not (folder / name).is_file()]
    if WEIGHTS in missing and (folder / f"{WEIGHTS}.index.json").is_file():
        raise UserError(
            f"'{folder}' holds its weights in several files (shards), and Weft reads one: load it with transformers "
            "and save it again with save_pretrained(folder, max_shard_size='100GB')."
        )
    if missing:
        hint = "resume its training with --resume" if (folder / "recipe.yaml").is_file() else "copy it again"
        raise UserError(f"'{folder}' is only half written, {missing[0]} is missing: {hint}.")


def refuse_pickles(folder: Path) -> None:
    """Raise UserError if ``folder`` holds a pickle that might pass for a model."""
    pickles: set[Path] = set()
    for pattern in _PICKLES:
        pickles.update(folder.glob(pattern))
    for pattern in _TRAINER_STATE:
        pickles.difference_update(folder.glob(pattern))
    if pickles:
        raise UserError(
            f"'{folder}' holds a pickle ({min(pickles).name}), which could run any code: Weft reads safetensors only; "
            "remove the file or convert it."
        )
