"""``WeftForCausalLM``: the native model's parts behind the interface that transformers' tools expect.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from weft.blocks import BLOCKS
from weft.errors import UserError
from weft.folder import generation_settings, refuse_pickles
from weft.hf.cache import WeftCache, cache_of
from weft.hf.configuration import WeftConfig
from weft.hf.embeddings import InputEmbeddings, OutputEmbeddings, resize
from weft.hf.padding import align
from weft.layers.cross_entropy import IGNORE
from weft.layers.embedding import vectors
from weft.model import ModelState, WeftModel


class WeftForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """A Weft model for transformers: ``generate``, ``Trainer`` and whatever else takes a causal language model.

    Parameters have the names that they have in :class:`weft.model.WeftModel`, so each side reads what the other saved.
    The state lives in the :class:`weft.hf.WeftCache` that comes and goes as ``past_key_values``, never in the module.
    A document begins at a boundary token, where ``position_ids`` is 0, or after padding, and nothing crosses its start.
    """

    config_class = WeftConfig
    config: WeftConfig
    supports_gradient_checkpointing = True
    _no_split_modules = [block.__name__ for block in BLOCKS.values()]  # noqa: RUF012
    accepts_loss_kwargs = True  # Trainer: the loss divides by num_items_in_batch
    _is_stateful = True  # a recurrent state cannot go back, so assisted decoding is refused
    _gradient_checkpointing_func: Callable[..., Any]
    _views: tuple[InputEmbeddings, OutputEmbeddings]

    def __init__(self, config: WeftConfig) -> None:
        super().__init__(config)
        native = WeftModel(config.native)
        self.schedule = native.schedule
        self.embedding, self.ngrams, self.blocks = native.embedding, native.ngrams, native.blocks
        self.norm, self.dropout = native.norm, native.dropout
        self.gradient_checkpointing = False
        first = {id(parameter): name for name, parameter in self.named_parameters()}
        named = self.named_parameters(remove_duplicate=False)
        self._tied_weights_keys = {name: first[id(x)] for name, x in named if first[id(x)] != name}  # central tensors
        # Views of what is registered above: not registered, or its parameters would have two names.
        self.__dict__["_views"] = (InputEmbeddings(self.embedding), OutputEmbeddings(self.embedding))
        self.post_init()  # type: ignore[no-untyped-call]
        self._set_generation_defaults()

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:  # noqa: ARG002
        """Return the names of parameters that are others', whatever the softmax is tied to."""
        return dict(self._tied_weights_keys)

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: the native model has set its initial values."""

    def _set_generation_defaults(self) -> None:
        """Fill in what neither the folder nor the user has said."""
        for name, value in generation_settings(self.config.native).items():
            if getattr(self.generation_config, name, None) is None:
                setattr(self.generation_config, name, value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: WeftCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return float32 logits (B, T, V), and what else was asked for.

        ``attention_mask`` is 1 at tokens and 0 at padding, over everything read so far; padding may stand anywhere in
        a text's first piece. ``position_ids`` say no more than where documents begin: at each 0. ``inputs_embeds``
        takes the place of ``input_ids`` (see :class:`InputEmbeddings`). ``labels`` are shifted inside, and -100 is
        ignored. The hidden states are what each block application reads, and what the softmax reads. The cache given
        as ``past_key_values`` is brought up to date; without one, a new one is returned if ``use_cache`` (unless said:
        outside training). Raises UserError for inputs that do not fit together, tokens outside the vocabulary, and
        attention weights, which are never made.
        """
        if output_attentions or (output_attentions is None and self.config.output_attentions):
            raise UserError("Weft does not give attention weights: leave output_attentions out.")
        self._check_inputs(input_ids, inputs_embeds, labels)
        embedded_BTD = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(past_key_values, use_cache, embedded_BTD)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states: list[Tensor] | None = [] if wanted else None
        starts_BT = self._document_starts(input_ids, position_ids)
        ids_BTH = self._latent_ids(input_ids)
        hidden_BTD = self._read(embedded_BTD, ids_BTH, starts_BT, attention_mask, cache, states)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.embedding.logits(hidden_BTD[:, kept])
        output = CausalLMOutputWithPast(
            loss=None if labels is None else self._loss(logits, labels, num_items_in_batch),
            logits=logits,
            past_key_values=cache,
            hidden_states=None if states is None else (*states, hidden_BTD),
        )
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def _check_inputs(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, labels: Tensor | None) -> None:
        """Raise UserError for inputs that would fail far from here, or only on some devices."""
        given = input_ids if inputs_embeds is None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise UserError("Give either input_ids or inputs_embeds.")
        if given.shape[1] == 0:
            raise UserError(
                "The text has no tokens: begin it with the boundary token "
                f"({self.config.boundary_id}), as the tokenizer does even for an empty text."
            )
        if not torch.compiler.is_compiling():
            scored = None if labels is None else labels[labels != IGNORE]
            self._check_range("input_ids", input_ids)
            self._check_range("labels", scored)

    def _check_range(self, name: str, ids: Tensor | None) -> None:
        vocabulary = self.config.vocab_size
        if ids is None or not bool((wrong := (ids < 0) | (ids >= vocabulary)).any()):
            return
        raise UserError(
            f"{name} hold {int(ids[wrong][0])}, but the vocabulary is 0 to {vocabulary - 1}: "
            "use the tokenizer that was saved with the model."
        )

    def _cache(self, past: WeftCache | None, use_cache: bool | None, embedded_BTD: Tensor) -> WeftCache | None:
        """Return the cache that was given, a new one, or None if none is wanted."""
        if past is not None:
            return cache_of(past, rows=embedded_BTD.shape[0], device=embedded_BTD.device)
        wanted = self.config.use_cache and not self.training if use_cache is None else use_cache
        return WeftCache() if wanted else None

    def _document_starts(self, input_ids: Tensor | None, position_ids: Tensor | None) -> Tensor | None:
        """Return where documents begin (B or 1, T), None where nothing says so."""
        starts = [] if input_ids is None else [input_ids == self.config.boundary_id]
        starts += [] if position_ids is None else [position_ids == 0]
        return reduce(torch.logical_or, starts) if starts else None

    def _latent_ids(self, input_ids: Tensor | None) -> Tensor | None:
        """Return the tokens' latent ids (B, T, H), where the model has bigrams; in training their centroids move."""
        if self.ngrams is None or not self.ngrams.remembers:
            return None
        if input_ids is None:
            raise UserError("This model has latent bigrams, which are of tokens: give input_ids, not inputs_embeds.")
        ids_BTH = self.ngrams.ids(input_ids, vectors(self.embedding))
        if self.training:
            padded = None if self.config.padding_id is None else input_ids == self.config.padding_id
            self.ngrams.observe(input_ids, vectors(self.embedding), _summed, padded)
        return ids_BTH

    def _read(
        self,
        embedded_BTD: Tensor,
        ids_BTH: Tensor | None,
        starts_BT: Tensor | None,
        mask_BS: Tensor | None,
        cache: WeftCache | None,
        states: list[Tensor] | None,
    ) -> Tensor:
        """Return what the softmax reads (B, T, D); ``states`` takes in what goes into and out of the blocks."""
        rows, time = embedded_BTD.shape[:2]
        plan = align(mask_BS, rows=rows, time=time, seen=cache.seen if cache else 0, device=embedded_BTD.device)
        reset_BT = plan.start_BT
        if starts_BT is not None:
            reset_BT = reset_BT | plan.arrange(starts_BT.to(reset_BT.device).expand(rows, time))
        depth = len(self.schedule)
        before: ModelState = (cache.state if cache else None) or (None,) * (depth + 1)
        x_BTD, remembered = plan.arrange(embedded_BTD), ()
        if self.ngrams is not None:
            ids_BTH = None if ids_BTH is None else plan.arrange(ids_BTH)
            x_BTD, remembered = self.ngrams(x_BTD, ids_BTH, before[depth:], reset_BT)
        x_BTD, after = self.dropout(x_BTD), []
        for block, state in zip(self.schedule, before[:depth], strict=True):
            if states is not None:
                states.append(plan.restore(x_BTD))
            x_BTD, new = self._step(block, x_BTD, state, reset_BT)
            after.append(new)
        if cache is not None:
            cache.store((*after, *remembered), time)
        hidden_BTD: Tensor = self.dropout(self.norm(x_BTD))
        return plan.restore(hidden_BTD)

    def _step(self, block: int, x_BTD: Tensor, state: Any, reset_BT: Tensor) -> tuple[Tensor, Any]:
        """Apply a block; under gradient checkpointing what is inside is made again in the backward pass."""
        apply = partial(self.blocks[block], reset_BT=reset_BT)
        if self.gradient_checkpointing and self.training:
            apply = partial(self._gradient_checkpointing_func, apply)
        result: tuple[Tensor, Any] = apply(x_BTD, state)
        return result

    def _loss(self, logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        """Return the loss as transformers defines it for causal language models."""
        loss: Tensor = self.loss_function(
            logits=logits, labels=labels, vocab_size=self.config.vocab_size, num_items_in_batch=num_items_in_batch
        )
        return loss

    def _prepare_cache_for_generation(  # type: ignore[override]
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Let ``generate`` begin with an empty cache of ours."""
        if generation_config.cache_implementation is not None:
            raise UserError(
                f"Weft has one kind of cache, and cache_implementation={generation_config.cache_implementation!r} is "
                "not it: leave it out."
            )
        if generation_config.use_cache is not False and model_kwargs.get("past_key_values") is None:
            model_kwargs["past_key_values"] = WeftCache()

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Keep the tokenizer, which ``generate`` takes for stop strings, from :meth:`forward`."""
        kwargs.pop("tokenizer", None)
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(*args, **kwargs)  # type: ignore[misc]
        return inputs

    def get_input_embeddings(self) -> InputEmbeddings:
        """Return a view of the embedding: tokens to what the blocks read."""
        return self._views[0]

    def get_output_embeddings(self) -> OutputEmbeddings:
        """Return a view of the softmax: hidden states to logits."""
        return self._views[1]

    def set_input_embeddings(self, value: nn.Module) -> None:  # noqa: ARG002
        """Raise UserError: embedding and softmax are one part here."""
        raise UserError(
            "Weft's embedding cannot be exchanged: use resize_token_embeddings, or change its weight in place."
        )

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Raise UserError: embedding and softmax are one part here."""
        self.set_input_embeddings(new_embeddings)

    def resize_token_embeddings(  # type: ignore[override]
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> InputEmbeddings:
        """Give the vocabulary ``new_num_tokens`` tokens, the first of which stay; the special tokens keep their ids.

        New rows are the mean of the old ones, or with ``mean_resizing=False`` drawn anew. Make the optimizer
        afterwards. Raises UserError where a special token would be cut off, and for an adaptive embedding.
        """
        size = self.config.vocab_size if new_num_tokens is None else new_num_tokens
        if pad_to_multiple_of is not None:
            size = -(-size // pad_to_multiple_of) * pad_to_multiple_of
        least = max(self.config.boundary_id, self.config.padding_id) + 1
        if size < least:
            raise UserError(
                f"A vocabulary of {size} tokens would lose the boundary or padding token: keep {least} or more."
            )
        if size != self.config.vocab_size:
            resize(self.embedding, size, mean=mean_resizing)
            self.config.vocab_size = size
        return self.get_input_embeddings()

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModelForCausalLM") -> None:
        """Do nothing: the class is the installed one, and its source is not to be copied into folders."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Read a model from safetensors only; UserError for a folder with a pickle, damaged or unfitting weights."""
        path = pretrained_model_name_or_path
        if path is not None and Path(path).is_dir():
            refuse_pickles(Path(path))
        with_info = kwargs.pop("output_loading_info", False)
        lenient = kwargs.get("ignore_mismatched_sizes", False)
        kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        try:
            loaded: Any = super().from_pretrained(path, *args, **kwargs)
        except SafetensorError as error:
            raise UserError(f"The weights of '{path}' are damaged ({error}): restore them.") from None
        model, info = loaded
        unfit = info["missing_keys"] or info["unexpected_keys"] or (info["mismatched_keys"] and not lenient)
        if unfit:
            raise UserError(f"The weights of '{path}' do not fit its config.json: it was changed or only half copied.")
        model._set_generation_defaults()
        return (model, info) if with_info else model


def _summed(value: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes that train, if there are several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value
