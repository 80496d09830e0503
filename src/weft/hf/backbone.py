"""The model without its loss and its softmax: what transformers calls a base model, and what both classes share.

Shapes: B batch, T time, D model width, H heads of latent bigrams.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from weft.errors import UserError
from weft.hf.arguments import check_ids, check_keywords, check_size, document_starts
from weft.hf.cache import CACHE_NAME, WeftCache, cache_of, one_cache
from weft.hf.configuration import WeftConfig
from weft.hf.embeddings import exchange, resize, table
from weft.hf.exporting import teach_exporter
from weft.hf.offloading import loaded, uncalled
from weft.hf.padding import align
from weft.kinds import kinds
from weft.layers.embedding import Embedding
from weft.layers.ngrams import LatentBigrams
from weft.layers.sites import At, Edits
from weft.model import WeftModel, walk
from weft.pretrained import refuse_pickles


class BlockList(nn.ModuleList):
    """The blocks, and where transformers sets gradient checkpointing: on a module that both classes hold."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__(blocks)
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] | None = None

    def step(self, block: int, x_BTD: Tensor, state: Any, reset_BT: Tensor | None, at: At | None) -> tuple[Tensor, Any]:
        """Apply a block; under gradient checkpointing what is inside is made again in the backward pass."""
        module = self[block]
        apply = partial(module, reset_BT=reset_BT, at=at)  # a reentrant checkpoint passes on no keywords
        if self.gradient_checkpointing and self.training:
            assert self._gradient_checkpointing_func is not None
            apply = partial(self._gradient_checkpointing_func, apply)
        with loaded(*uncalled(module)):
            result: tuple[Tensor, Any] = apply(x_BTD, state)
        return result


class WeftPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What :class:`WeftBackbone` and :class:`weft.hf.WeftForCausalLM` share: parts, vocabulary, files.

    Parameters have the names that they have in :class:`weft.model.WeftModel`, so each
    side reads what the other saved.
    """

    config_class = WeftConfig
    config: WeftConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True  # windows are computed as Weft does, whatever attn_implementation says
    _no_split_modules = [spec.block.__name__ for spec in kinds().values()]  # noqa: RUF012
    _is_stateful = True  # a recurrent state cannot go back, so assisted decoding is refused

    embedding: Embedding
    ngrams: LatentBigrams | None
    blocks: BlockList
    norm: nn.Module
    dropout: nn.Module

    def __init__(self, config: WeftConfig) -> None:
        super().__init__(config)
        native = WeftModel(config.native)
        self.schedule = native.schedule
        self.embedding = native.embedding
        self.ngrams = native.ngrams
        self.blocks = BlockList(native.blocks)
        self.norm = native.norm
        self.dropout = native.dropout
        # Central tensors have a name in each block: files hold the first, and the others
        # are told to be the same.
        first = {id(parameter): name for name, parameter in self.named_parameters()}
        self._tied_weights_keys: dict[str, str] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            owner = first[id(parameter)]
            if owner != name:
                self._tied_weights_keys[name] = owner

    @property
    def vocab_size(self) -> int:
        """The number of tokens, the special ones included."""
        size: int = self.config.vocab_size
        return size

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:  # noqa: ARG002
        """Return the names of parameters that are others', whatever the softmax is tied to."""
        return dict(self._tied_weights_keys)

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: the native model has set its initial values."""

    def get_submodule(self, target: str) -> nn.Module:
        """Return the part of that name; the embedding for the name that peft's prompt tuning looks for."""
        if target == "embeddings.word_embeddings":
            return self.embedding
        return super().get_submodule(target)

    def get_input_embeddings(self) -> Embedding:
        """Return the embedding: tokens to the vectors that the blocks read, which are what ``inputs_embeds`` takes.

        They are its ``weight`` times the square root of the width. An adaptive embedding, which is no
        single matrix, has no ``weight``.
        """
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another embedding of the same kind and size in the place of this one; UserError for any other."""
        self.embedding = exchange(self.embedding, value)

    def resize_token_embeddings(  # type: ignore[override]
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> Embedding:
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
        return self.embedding

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Do nothing: the class is the installed one, and its source is not to be copied into folders."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Read a model from safetensors only; UserError for a folder with a pickle, damaged or unfitting weights."""
        path = pretrained_model_name_or_path
        if path is not None and Path(path).is_dir():
            refuse_pickles(Path(path))
        # Theirs only warns of weights that do not fit. Let it tell all of it, and judge that here.
        with_info = kwargs.pop("output_loading_info", False)
        lenient = kwargs.get("ignore_mismatched_sizes", False)
        kwargs |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        try:
            found: Any = super().from_pretrained(path, *args, **kwargs)
        except SafetensorError as error:
            raise UserError(f"The weights of '{path}' are damaged ({error}): restore them.") from None
        model, info = found
        mismatched = info["mismatched_keys"] and not lenient
        if info["missing_keys"] or info["unexpected_keys"] or mismatched:
            raise UserError(f"The weights of '{path}' do not fit its config.json: it was changed or only half copied.")
        return (model, info) if with_info else model


class WeftBackbone(WeftPreTrainedModel):
    """A Weft model without its loss and its softmax: tokens to the hidden states that the softmax reads.

    ``AutoModel`` makes one of a folder (with the softmax's parameters, as they belong to the embedding, so
    that saving loses nothing), and :class:`weft.hf.WeftForCausalLM` has one as ``base_model``. The state
    lives in the :class:`weft.hf.WeftCache` that comes and goes as ``cache``, never in the module. A document
    begins at a boundary token, where ``position_ids`` is 0, or after padding, and nothing crosses its start.
    """

    def __init__(self, config: WeftConfig) -> None:
        super().__init__(config)
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def within(cls, model: WeftPreTrainedModel) -> Self:
        """Return a backbone of the parts of ``model``: what is exchanged in one is exchanged in the other.

        The two share one register of parts. Thus parameters have one name, which is the one that files have,
        and the names that a child of ``model`` would give them exist nowhere.
        """
        backbone = cls.__new__(cls)
        nn.Module.__init__(backbone)
        # What nn.Module itself keeps, such as `training`, is the backbone's own; the rest is the model's.
        mine = vars(backbone)
        mine |= {name: value for name, value in vars(model).items() if name not in mine}
        mine["_modules"] = model._modules
        return backbone

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: WeftCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: WeftCache | None = None,
        edits: Edits | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Any, ...]:
        """Return the hidden states (B, T, D) that the softmax reads, and what else was asked for.

        ``attention_mask`` is 1 at tokens and 0 at padding, over everything read so far; padding may stand
        anywhere in a text's first piece. ``position_ids`` say no more than where documents begin: at each 0;
        so do ``seq_idx`` and ``cu_seq_lens_q`` of flattened batches. ``inputs_embeds`` takes the place of
        ``input_ids`` (see :meth:`get_input_embeddings`). The hidden states of all depths are what each block
        application reads, and what the softmax reads. ``cache``, which may also be called
        ``past_key_values`` as before transformers 5.24, is brought up to date; without one, a new one is
        returned if ``use_cache`` (unless said: outside training). ``edits`` change what flows through the stack
        (:class:`weft.inside.Edits`), in the whole call. Raises UserError for inputs that do not
        fit together, tokens outside the vocabulary, attention weights, which are never made, and arguments
        that transformers does not know.
        """
        # What is not said at the call is as the configuration has it.
        config = self.config
        if output_attentions is None:
            output_attentions = config.output_attentions
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        if return_dict is None:
            return_dict = config.return_dict

        if output_attentions:
            raise UserError("Weft does not give attention weights: leave output_attentions out.")
        teach_exporter()
        check_keywords(kwargs)
        check_size(input_ids, inputs_embeds, config.boundary_id)
        check_ids("input_ids", input_ids, config.vocab_size)

        with loaded(self.embedding):
            embedded_BTD = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(one_cache(cache, past_key_values), use_cache, embedded_BTD)
        time = embedded_BTD.shape[1]
        starts_BT = document_starts(input_ids, position_ids, kwargs, boundary=config.boundary_id, time=time)
        ids_BTH = self._latent_ids(input_ids, attention_mask)
        states: list[Tensor] | None = [] if output_hidden_states else None
        hidden_BTD = self._read(embedded_BTD, ids_BTH, starts_BT, attention_mask, cache, states, edits)
        remembered: dict[str, Any] = {CACHE_NAME: cache}
        output = BaseModelOutputWithPast(
            last_hidden_state=hidden_BTD,
            hidden_states=None if states is None else (*states, hidden_BTD),
            **remembered,
        )
        return output if return_dict else output.to_tuple()

    def _cache(self, past: WeftCache | None, use_cache: bool | None, embedded_BTD: Tensor) -> WeftCache | None:
        """Return the cache that was given, a new one, or None if none is wanted."""
        if past is not None:
            return cache_of(past, rows=embedded_BTD.shape[0], device=embedded_BTD.device)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        return WeftCache() if use_cache else None

    def _latent_ids(self, input_ids: Tensor | None, mask_BS: Tensor | None) -> Tensor | None:
        """Return the tokens' latent ids (B, T, H), where the model has bigrams; in training their centroids move."""
        if self.ngrams is None or not self.ngrams.remembers:
            return None
        if input_ids is None:
            raise UserError("This model has latent bigrams, which are of tokens: give input_ids, not inputs_embeds.")
        with loaded(self.ngrams, self.embedding):
            weight_VD = table(self.embedding).weight_VD
            ids_BTH = self.ngrams.ids(input_ids, weight_VD)
            if self.training:
                # Padding is no text: it must not move the centroids.
                padded = None
                if mask_BS is not None:  # its last T columns are of these tokens
                    padded = ~mask_BS[:, mask_BS.shape[1] - input_ids.shape[1] :].bool()
                elif self.config.padding_id is not None:
                    padded = input_ids == self.config.padding_id
                self.ngrams.observe(input_ids, weight_VD, _summed, padded)
        return ids_BTH

    def _read(
        self,
        embedded_BTD: Tensor,
        ids_BTH: Tensor | None,
        starts_BT: Tensor | None,
        mask_BS: Tensor | None,
        cache: WeftCache | None,
        states: list[Tensor] | None,
        edits: Edits | None,
    ) -> Tensor:
        """Return what the softmax reads (B, T, D); ``states`` takes in what goes into the blocks."""
        rows, time = embedded_BTD.shape[:2]
        seen = 0
        state = None
        if cache is not None:
            seen = cache.seen
            state = cache.state
        # Everything is brought into the order in which it is read, padding first; a
        # reset cuts the padding off.
        plan = align(mask_BS, rows=rows, time=time, seen=seen, device=embedded_BTD.device)
        reset_BT = plan.start_BT
        if starts_BT is not None:
            reset_BT = reset_BT | plan.arrange(starts_BT.to(reset_BT.device).expand(rows, time))
        if ids_BTH is not None:
            ids_BTH = plan.arrange(ids_BTH)

        def show(x_BTD: Tensor) -> Tensor:
            """Give away what a block reads, and let it read just that: so it has a gradient."""
            assert states is not None
            states.append(plan.restore(x_BTD))
            return plan.arrange(states[-1])

        if edits is not None:
            edits = edits.rearranged(plan.arrange, rows, time)
        if states is not None:
            edits = (edits or Edits()).then(dict.fromkeys(range(len(self.schedule)), show))
        x_BTD, after = walk(
            self,
            plan.arrange(embedded_BTD),
            ids_BTH,
            state,
            reset_BT,
            self.blocks.step,
            edits=edits,
        )
        if cache is not None:
            cache.store(after, time)
        hidden_BTD: Tensor = self.dropout(self.norm(x_BTD))
        return plan.restore(hidden_BTD)


def _summed(value: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes that train, if there are several."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
    return value
