"""What is refused, and how it is said."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from tests.hf.adapted import (
    VOCABULARY,
    adapted,
    error_of,
    texts,
)
from weft.errors import UserError

TOKENS = texts(2, 5)
REFUSED = {
    "no tokens": ({"input_ids": TOKENS[:, :0]}, "has no tokens: begin it with the boundary token .268."),
    "nothing": ({}, "either input_ids or inputs_embeds"),
    "both": ({"input_ids": TOKENS, "inputs_embeds": torch.zeros(2, 5, 16)}, "either input_ids or inputs_embeds"),
    "a token too large": ({"input_ids": TOKENS * 0 + VOCABULARY}, "input_ids hold 270, but the vocabulary is 0 to 269"),
    "a token below zero": ({"input_ids": TOKENS * 0 - 1}, "input_ids hold -1, but"),
    "a label too large": ({"input_ids": TOKENS, "labels": TOKENS * 0 + 300}, "labels hold 300, but"),
    "a mask too short": (
        {"input_ids": TOKENS, "attention_mask": TOKENS[:, 1:] > 0},
        "attention_mask is .2, 4., but must",
    ),
    "attentions": ({"input_ids": TOKENS, "output_attentions": True}, "does not give attention weights"),
    "another cache": ({"input_ids": TOKENS, "past_key_values": DynamicCache()}, "is a DynamicCache, but Weft needs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_inputs_that_cannot_be_are_refused_in_a_sentence(case):
    inputs, sentence = REFUSED[case]
    _, model = adapted()
    with pytest.raises(UserError, match=sentence):
        model(**inputs)


def test_what_a_state_cannot_do_is_refused():
    _, model = adapted()
    cache = model(TOKENS, use_cache=True).past_key_values
    assert "of 2 sequences, but the input has 1" in error_of(lambda: model(TOKENS[:1], past_key_values=cache))
    hidden = torch.cat([torch.ones_like(TOKENS), torch.tensor([[0, 1], [1, 1]])], dim=1)
    late = error_of(lambda: model(TOKENS[:, 1:3], attention_mask=hidden, past_key_values=cache))
    assert "pad before a text's first token" in late
    assert "cannot be cropped" in error_of(lambda: cache.crop(-1))
    static = error_of(lambda: model.generate(TOKENS, max_new_tokens=2, cache_implementation="static"))
    assert "cache_implementation='static'" in static
    with pytest.raises(ValueError, match="assisted generation is not supported"):
        model.generate(TOKENS[:1], max_new_tokens=2, prompt_lookup_num_tokens=2)
    assert "use resize_token_embeddings" in error_of(lambda: model.set_input_embeddings(torch.nn.Embedding(2, 2)))
