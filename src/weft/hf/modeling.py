"""``WeftForCausalLM``: the native model's parts behind the interface that transformers' tools expect.

Shapes: B batch, T time, D model width, V vocabulary.
"""

from __future__ import annotations

import os
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from weft.errors import UserError
from weft.hf.arguments import check_ids
from weft.hf.backbone import WeftBackbone, WeftPreTrainedModel
from weft.hf.cache import CACHE_NAME, WeftCache, one_cache
from weft.hf.configuration import WeftConfig
from weft.hf.embeddings import OutputEmbeddings
from weft.layers.cross_entropy import IGNORE
from weft.layers.sites import Edits
from weft.pretrained import generation_settings


class WeftForCausalLM(WeftPreTrainedModel, GenerationMixin):
    """A Weft model for transformers: ``generate``, ``Trainer`` and whatever else takes a causal language model.

    ``base_model`` is the :class:`weft.hf.WeftBackbone` of the same parts, which also says how a text is
    read; ``lm_head`` is the softmax, whose parameters are the embedding's.
    """

    accepts_loss_kwargs = True  # Trainer: the loss divides by num_items_in_batch
    model: WeftBackbone
    lm_head: OutputEmbeddings

    def __init__(self, config: WeftConfig) -> None:
        super().__init__(config)
        self.lm_head = OutputEmbeddings(self)
        self.post_init()  # type: ignore[no-untyped-call]
        self.__dict__["model"] = WeftBackbone.within(self)  # not registered: its parts are
        self._set_generation_defaults()

    def _set_generation_defaults(self) -> None:
        """Fill in what neither the folder nor the user has said."""
        for name, value in generation_settings(self.config.native).items():
            if getattr(self.generation_config, name, None) is None:
                setattr(self.generation_config, name, value)

    def train(self, mode: bool = True) -> Self:
        """Go to training mode, or out of it, with the backbone, which is no registered child."""
        super().train(mode)
        self.model.training = mode
        return self

    def _replicate_for_data_parallel(self) -> Self:
        """Raise UserError: a replica's softmax and backbone would be those of the first device."""
        raise UserError(
            "Weft does not train in torch.nn.DataParallel: start one process for each GPU (torchrun, accelerate "
            "launch), or show this one only one of them (CUDA_VISIBLE_DEVICES=0)."
        )

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
        shift_labels: Tensor | None = None,
        cache: WeftCache | None = None,
        edits: Edits | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Return float32 logits (B, T, V), and what else was asked for.

        The text is read as :meth:`WeftBackbone.forward` says. ``labels`` (B, T) are shifted inside, and -100
        is ignored, as is a label at or right after padding (nothing is predicted from padding, nor is
        padding predicted) and a boundary right after another (no text is empty).
        ``shift_labels`` (B, T) are labels that are shifted already. The loss is their mean, or their sum
        divided by ``num_items_in_batch``. Raises UserError for what does not fit together.
        """
        for name, given in (("labels", labels), ("shift_labels", shift_labels)):
            check_ids(name, _scored(given), self.config.vocab_size)
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=one_cache(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            edits=edits,
            **kwargs,
        )
        # A number of last positions (0: all), or the positions themselves.
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(output.last_hidden_state[:, kept])
        if shift_labels is None and labels is not None:
            told_BT = self._told(labels, input_ids, attention_mask)
            shift_labels = functional.pad(told_BT[:, 1:], (0, 1), value=IGNORE)
        loss = None
        if shift_labels is not None:
            loss = self._loss(logits, shift_labels, num_items_in_batch)
        result = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=output.hidden_states,
            **{CACHE_NAME: output.get(CACHE_NAME)},
        )
        if return_dict is None:
            return_dict = self.config.return_dict
        return result if return_dict else result.to_tuple()

    def _told(self, labels: Tensor, input_ids: Tensor | None, mask_BS: Tensor | None) -> Tensor:
        """Return ``labels`` (B, T) without those that nothing should predict.

        They are padding, what comes right after it (the mask's last T columns are theirs), and a second
        boundary: texts that are packed with a boundary at both ends would else teach that a text which
        has just begun is at its end.
        """
        before_BT = labels if input_ids is None else input_ids  # what stands before each label's token
        boundary = self.config.boundary_id
        twice_BT = (labels[:, 1:] == boundary) & (before_BT[:, :-1].to(labels.device) == boundary)
        labels = labels.masked_fill(functional.pad(twice_BT, (1, 0)), IGNORE)
        if mask_BS is None:
            return labels
        here_BT = mask_BS[:, mask_BS.shape[1] - labels.shape[1] :].to(labels.device).bool()
        goes_on_BT = functional.pad(here_BT[:, :-1], (1, 0), value=True)
        return labels.masked_fill(~(here_BT & goes_on_BT), IGNORE)

    def _loss(self, logits: Tensor, shift_labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
        """Return the loss as transformers defines it for causal language models; 0 where nothing is to be predicted."""
        if num_items_in_batch is None:
            num_items_in_batch = (shift_labels != IGNORE).sum().clamp(min=1)
        loss: Tensor = self.loss_function(
            logits=logits,
            labels=None,
            shift_labels=shift_labels,
            vocab_size=self.config.vocab_size,
            num_items_in_batch=num_items_in_batch,
        )
        return loss

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Write tokens as transformers' ``generate`` does; the cache may come as ``cache`` or ``past_key_values``."""
        given = one_cache(kwargs.pop("cache", None), kwargs.pop("past_key_values", None))
        if given is not None:
            kwargs[CACHE_NAME] = given
        return super().generate(*args, **kwargs)  # type: ignore[misc, unused-ignore] # theirs is typed for a protocol

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
        given = model_kwargs.get(CACHE_NAME)
        if given is not None:
            given._is_user_defined = True  # so that generate reads no token that it does not return
        elif generation_config.use_cache is not False:
            model_kwargs[CACHE_NAME] = WeftCache()

    def get_output_embeddings(self) -> OutputEmbeddings:
        """Return the softmax: hidden states to logits."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Raise UserError for another softmax: it is a part of the embedding."""
        if new_embeddings is not self.lm_head:
            raise UserError(
                "Weft's softmax is a part of its embedding and cannot be exchanged by itself: use "
                "resize_token_embeddings, or change its weight in place."
            )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """Read a model from safetensors only; UserError for a folder with a pickle, damaged or unfitting weights."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info, a pair
        model._set_generation_defaults()
        return loaded


def _scored(labels: Tensor | None) -> Tensor | None:
    """Return the labels that count; None where there are none, or while a graph is made, which looks at no value."""
    if labels is None or torch.compiler.is_compiling():
        return None
    return labels[labels != IGNORE]


# By this list of names Trainer and pipelines know what predicts the next token: without it, label smoothing
# scores each token against itself. It must hold however the class was reached.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[WeftConfig.model_type] = WeftForCausalLM.__name__
