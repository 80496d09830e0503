"""A Llama-style decoder (Touvron et al. 2023, arXiv 2302.13971), built by transformers, with tied embeddings as ours.

It carries no state: in training it sees its segment, cut at the documents' borders; a text is scored by a
sliding window (:mod:`weft.evaluation.windows`). Its run directory is a Llama folder that transformers reads.

Shapes: B texts, T positions, S positions with those before, D model width, V vocabulary.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from weft.architectures import default_pairs
from weft.baselines import CONTEXT, model_type_in
from weft.errors import UserError
from weft.files import write_atomic
from weft.language_model import LanguageModel
from weft.layers.cross_entropy import cross_entropy, surprisal
from weft.model import check_weights
from weft.numbers import MAX_DEPTH, Reach, Vocabulary, Width
from weft.pretrained import CONFIG, WEIGHTS, check_folder, load_into, load_weights
from weft.settings import FrozenConfig

if TYPE_CHECKING:
    from transformers import LlamaConfig
    from transformers.cache_utils import Cache

MODEL_TYPE = "llama"
TOLERANCE = 0.01
INNER = 8 / 3  # times the width: of the gated feed-forward maps
FEWEST_INNER = 8


class _Sizes(FrozenConfig):
    """What ``config.json`` says about the size, which is checked before transformers makes anything of it."""

    vocab_size: Vocabulary
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: int = Field(gt=0, le=MAX_DEPTH)
    num_attention_heads: Width
    num_key_value_heads: Width
    head_dim: Width
    max_position_embeddings: Reach


class LlamaState(NamedTuple):
    """All keys and values so far, in transformers' cache (extended in place), and where in it the documents start."""

    cache: Cache
    starts_B: Tensor


class Llama(nn.Module):
    """transformers' Llama as a :class:`weft.language_model.LanguageModel`; parameters have its names."""

    model_type = MODEL_TYPE
    one_graph = None  # transformers looks at its masks
    data_parallel_only = "Baselines"

    def __init__(self, config: LlamaConfig) -> None:
        from transformers import LlamaModel

        super().__init__()
        self.config = config
        self.model = LlamaModel(config)
        # transformers calls the cache "past_key_values" up to 5.23, and "cache" since.
        takes = inspect.signature(LlamaModel.forward).parameters
        self.cache_name = "cache" if "cache" in takes else "past_key_values"

    @property
    def context(self) -> int:
        """The most tokens that it sees at once."""
        return int(self.config.max_position_embeddings)

    @property
    def window(self) -> int:
        """All that it sees."""
        return self.context

    @property
    def shape(self) -> str:
        """The number of layers and the width."""
        return f"{self.depth} layers, width {self.config.hidden_size}"

    def observe(self, tokens: Tensor, summed: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        """Take nothing in: it learns by its gradients alone."""

    def lookup_tables(self) -> list[nn.Parameter]:
        """Return none: there is nothing beside the embedding."""
        return []

    def empty_state(self, batch_size: int, device: torch.device) -> tuple[()]:  # noqa: ARG002
        """Return nothing: no state is carried in training."""
        return ()

    @property
    def checkpoint_activations(self) -> bool:
        """Whether what is inside the layers is made again in the backward pass; it stays so once it is set."""
        return bool(self.model.is_gradient_checkpointing)

    @checkpoint_activations.setter
    def checkpoint_activations(self, wanted: bool) -> None:
        if wanted:
            names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")  # transformers' new and old
            enable: Any = next(getattr(self.model, name) for name in names if hasattr(self.model, name))
            enable({"use_reentrant": False})

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder layers."""
        return self.model.layers

    @property
    def depth(self) -> int:
        """The number of decoder layers."""
        return int(self.config.num_hidden_layers)

    @property
    def embedding(self) -> _Softmax:
        """The softmax over the tied embedding."""
        return _Softmax(self.model.embed_tokens.weight)

    def forward(self, tokens: Tensor, state: Any = None, reset: Tensor | None = None) -> tuple[Tensor, Any]:
        """Return float32 ``(logits_BTV, state)``; ``state`` is a :class:`LlamaState`."""
        hidden_BTD, state = self.hidden(tokens, state, reset)
        return self.embedding.logits(hidden_BTD), state

    def hidden(self, tokens: Tensor, state: Any = None, reset: Tensor | None = None) -> tuple[Tensor, Any]:
        """Return the last hidden states (B, T, D) and the state; none while training. Nothing crosses a reset."""
        return self._read(tokens, state, reset, remember=not self.training)

    def _read(self, tokens: Tensor, state: Any, reset: Tensor | None, *, remember: bool) -> tuple[Tensor, Any]:
        cut, starts_B = _documents(tokens, state, reset)
        past = state.cache if state else None
        told = self.model(tokens, use_cache=remember, **{self.cache_name: past}, **cut)
        after = LlamaState(told.get(self.cache_name), starts_B) if remember else ()
        return told.last_hidden_state, after

    def loss(
        self, tokens: Tensor, targets: Tensor, state: Any = None, reset: Tensor | None = None
    ) -> tuple[Tensor, tuple[()]]:
        """Return ``(mean nats, ())``: nothing is carried from one segment to the next."""
        del state
        return self.embedding.loss(self.hidden(tokens, None, reset)[0], targets), ()

    @torch.no_grad()
    def surprisal(
        self, tokens: Tensor, targets: Tensor, state: Any = None, reset: Tensor | None = None
    ) -> tuple[Tensor, tuple[()]]:
        """Return each target's nats (B, T) and ``()``: nothing is carried from one piece to the next."""
        del state
        hidden_BTD, _ = self._read(tokens, None, reset, remember=False)
        return self.embedding.surprisal(hidden_BTD, targets), ()

    @property
    def parameter_count(self) -> int:
        """All parameters; the embedding, which is the softmax, too, counts once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def body_parameter_count(self) -> int:
        """The parameters outside the embedding."""
        return self.parameter_count - self.model.embed_tokens.weight.numel()

    def state_bytes(self, context: int) -> int:
        """Return the bytes of one sequence's keys and values after ``context`` tokens: they grow without end."""
        config = self.config
        return 2 * 4 * config.num_hidden_layers * config.hidden_size * context  # as many keys as queries


def _documents(tokens: Tensor, state: Any, reset: Tensor | None) -> tuple[dict[str, Tensor], Tensor]:
    """Return what keeps each position inside its document (mask and rotary positions), and the last ones' starts (B,).

    No mask where all is one document: plain causal attention is faster.
    """
    past = state.cache.get_seq_length() if state else 0
    places_T = torch.arange(past, past + tokens.shape[1], device=tokens.device)
    # For each position the place in the cache where its document starts: the last reset up to it.
    starts_BT = torch.zeros_like(tokens)
    if state:
        starts_BT = starts_BT + state.starts_B[:, None]
    if reset is not None:
        starts_BT = torch.maximum(starts_BT, torch.where(reset, places_T, 0).cummax(dim=1).values)
    if not bool(starts_BT.any()):
        return {}, starts_BT[:, -1]
    keys_S = torch.arange(past + tokens.shape[1], device=tokens.device)
    seen_BTS = (keys_S >= starts_BT[:, :, None]) & (keys_S <= places_T[:, None])
    return {"attention_mask": seen_BTS[:, None], "position_ids": places_T - starts_BT}, starts_BT[:, -1]


class _Softmax:
    """The output layer of tied embeddings."""

    def __init__(self, weight_VD: Tensor) -> None:
        self.weight_VD = weight_VD

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        return F.linear(hidden_BTD, self.weight_VD).float()

    def loss(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        return cross_entropy(hidden_BTD.flatten(0, 1), self.weight_VD, None, targets_BT.flatten())

    def surprisal(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        return surprisal(hidden_BTD.flatten(0, 1), self.weight_VD, None, targets_BT.flatten()).view(targets_BT.shape)


def sized(*, parameters: int, vocab_size: int, context: int = CONTEXT, dropout: float = 0.0) -> LlamaConfig:
    """Return transformers' configuration of a Llama with ``parameters`` parameters within 1 %, embedding included.

    Depth as our own architectures have at that size; head width 32 up to width 256, then 64; of the widths
    that are whole heads the one whose inner width, stretched to meet the budget, is nearest to 8/3 of it.
    ``dropout`` is of the attention weights, the only one that a Llama has. UserError for a budget that cannot
    be met.
    """
    depth = default_pairs(parameters)
    width, inner = _widths(parameters, vocab_size, depth)
    found = _count(width, inner, depth, vocab_size)
    if abs(found - parameters) > TOLERANCE * parameters:
        raise UserError(
            f"No llama of {depth} layers has {parameters:,} parameters with a vocabulary of {vocab_size:,}: the "
            f"nearest has {found:,}; ask for more parameters or a smaller vocabulary."
        )
    return _llama(width, inner, depth, vocab_size, context, dropout)


def _widths(parameters: int, vocab_size: int, depth: int) -> tuple[int, int]:
    """Return the width and inner width (a multiple of 8, where that is near enough) that come nearest to a budget."""
    best = (32, FEWEST_INNER)
    for width in range(32, 1 << 15, 32):
        inner = (parameters - _count(width, 0, depth, vocab_size)) / (3 * width * depth)
        if inner < FEWEST_INNER:
            break
        even = 8 * round(inner / 8)
        near = abs(_count(width, even, depth, vocab_size) - parameters) <= TOLERANCE / 2 * parameters
        fitted = (width, even if near else round(inner))
        best = fitted if width == 32 else min(best, fitted, key=_off_proportion)  # of equals the narrower
    return best


def _off_proportion(widths: tuple[int, int]) -> float:
    """Return how far the inner width is from 8/3 of the width, as twice as much counts like half as much."""
    width, inner = widths
    return abs(math.log(inner / width / INNER))


def _count(width: int, inner: int, depth: int, vocab_size: int) -> int:
    """Return the parameters: embedding, and by layer attention, three feed-forward maps, two norms; the last norm."""
    return vocab_size * width + depth * (4 * width * width + 3 * width * inner + 2 * width) + width


def _llama(width: int, inner: int, depth: int, vocab_size: int, context: int, dropout: float) -> LlamaConfig:
    from transformers import LlamaConfig

    head_dim = 32 if width <= 256 or width % 64 else 64
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=width // head_dim,
        num_key_value_heads=width // head_dim,
        head_dim=head_dim,
        max_position_embeddings=context,
        attention_dropout=dropout,
        tie_word_embeddings=True,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 2,
        pad_token_id=vocab_size - 1,
    )


def build(config: LlamaConfig, *, seed: int) -> Llama:
    """Return a freshly initialised model, always the same for a seed; UserError where memory does not hold it."""
    check_weights(lambda: Llama(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Llama(config)


def save_config(config: LlamaConfig, folder: Path) -> None:
    """Write ``config.json`` as transformers writes it for ``LlamaForCausalLM``."""
    values = config.to_dict() | {"architectures": ["LlamaForCausalLM"], "dtype": "float32"}
    write_atomic(folder / CONFIG, json.dumps(values, indent=2) + "\n")


def is_described(folder: Path) -> bool:
    """Return whether ``folder`` holds the configuration of a Llama."""
    return model_type_in(folder) == MODEL_TYPE


def read_config(folder: Path) -> LlamaConfig:
    """Read ``config.json``; UserError for one that no Llama of ours has."""
    from transformers import LlamaConfig

    values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    sizes = {name: values.get(name) for name in _Sizes.model_fields}
    _Sizes.parse(sizes, where=CONFIG)
    try:
        config: LlamaConfig = LlamaConfig.from_dict(values)
        with torch.device("meta"):
            Llama(config)
    except Exception:  # whatever the library raises for values that are of another kind
        raise UserError(f"'{folder / CONFIG}' is damaged: no {MODEL_TYPE} can be made of it.") from None
    return config


def fresh_model(folder: Path, *, seed: int) -> LanguageModel:
    """Return a freshly initialised model of the folder's ``config.json``, which its checkpoints fit."""
    return build(read_config(folder), seed=seed)


def load_model(folder: Path, *, window: int | None = None, applications: int | None = None) -> Llama:
    """Read the model of a run directory in evaluation mode; UserError for ``window`` and ``applications``."""
    if window is not None:
        raise UserError("A baseline's attention has no window to change: leave 'window' out.")
    if applications is not None:
        raise UserError("A baseline repeats no blocks: leave 'applications' out.")
    check_folder(folder)
    config = read_config(folder)
    check_weights(lambda: Llama(config))
    model = Llama(config)
    load_into(model, load_weights(folder / WEIGHTS), folder / WEIGHTS)
    return model.eval()
