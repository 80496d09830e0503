"""What may be given to a forward pass beside tokens and masks, and what is wrong with it.

Shapes: B batch, T time.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.utils.generic import TransformersKwargs

from weft.errors import UserError

# Given by collators, tokenizers and generate(), and without a meaning here: a model
# without positions needs none.
_WITHOUT_EFFECT = {"token_type_ids", "cache_position", "tokenizer"}
_KNOWN = set(TransformersKwargs.__annotations__) | _WITHOUT_EFFECT


def check_keywords(keywords: Mapping[str, Any]) -> None:
    """Raise UserError for an argument that transformers does not know, naming the nearest that there is."""
    for name in keywords:
        if name in _KNOWN:
            continue
        known = sorted(_KNOWN | {"input_ids", "attention_mask", "inputs_embeds", "cache", "past_key_values", "labels"})
        near = difflib.get_close_matches(name, known, n=1)
        hint = "leave it out."
        if near:
            hint = f"did you mean '{near[0]}'?"
        raise UserError(f"A Weft model's forward pass does not know '{name}': {hint}")


def check_size(input_ids: Tensor | None, inputs_embeds: Tensor | None, boundary: int | None) -> None:
    """Raise UserError unless there is one input, and it has tokens."""
    given = input_ids if inputs_embeds is None else inputs_embeds
    if given is None or (input_ids is not None and inputs_embeds is not None):
        raise UserError("Give either input_ids or inputs_embeds.")
    if given.shape[1] == 0:
        raise UserError(
            f"The text has no tokens: begin it with the boundary token ({boundary}), as the tokenizer does even for an "
            "empty text."
        )


def check_ids(name: str, ids: Tensor | None, vocabulary: int) -> None:
    """Raise UserError for ids outside the vocabulary, which would fail far from here, or only on some devices."""
    if ids is None or torch.compiler.is_compiling():
        return
    wrong = (ids < 0) | (ids >= vocabulary)
    if not bool(wrong.any()):
        return
    raise UserError(
        f"{name} hold {int(ids[wrong][0])}, but the vocabulary is 0 to {vocabulary - 1}: "
        "use the tokenizer that was saved with the model."
    )


def document_starts(
    input_ids: Tensor | None, position_ids: Tensor | None, keywords: Mapping[str, Any], *, boundary: int, time: int
) -> Tensor | None:
    """Return where documents begin (B or 1, T), None where nothing says so.

    They do at each ``boundary`` token, where positions are 0, where the numbers of ``seq_idx`` change, and
    at the places that ``cu_seq_lens_q`` holds for a row of many (beside its end).
    """
    starts = []
    if input_ids is not None:
        starts.append(input_ids == boundary)
    if position_ids is not None:
        starts.append(position_ids == 0)
    numbers_BT = keywords.get("seq_idx")
    if numbers_BT is not None:
        starts.append(functional.pad(numbers_BT[:, 1:] != numbers_BT[:, :-1], (1, 0)))
    places = keywords.get("cu_seq_lens_q")
    if places is not None:
        here_TN = torch.arange(time, device=places.device)[:, None] == places
        starts.append(here_TN.any(1)[None])
    if not starts:
        return None
    return reduce(torch.logical_or, starts)
