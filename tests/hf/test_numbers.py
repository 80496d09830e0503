"""What the adapter computes is what the native model computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.hf.adapted import (
    LENGTHS,
    PADDING,
    VARIANTS,
    adapted,
    adapter_of,
    padded,
    texts,
)
from weft.hf import WeftCache


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_logits_are_the_native_models(variant):
    native, model = adapted(variant)
    tokens = texts(2, 20)
    assert torch.equal(model(tokens).logits, native(tokens)[0])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_each_row_of_a_padded_batch_is_that_row_alone(variant, side):
    _, model = adapted(variant)
    rows = [texts(1, length, seed=length)[0] for length in LENGTHS]
    rows[2] = rows[2][1:]  # begins in the middle of a text
    tokens, mask = padded(rows, side)
    output = model(tokens, attention_mask=mask, output_hidden_states=True)
    for i, row in enumerate(rows):
        alone = model(row[None], output_hidden_states=True)
        torch.testing.assert_close(output.logits[i, mask[i] == 1], alone.logits[0], atol=1e-4, rtol=1e-4)
        for hidden, hidden_alone in zip(output.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(hidden[i, mask[i] == 1], hidden_alone[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_padded_batch_goes_on_from_its_cache_as_each_row_would(variant, side):
    _, model = adapted(variant)
    rows = [texts(1, length, seed=length)[0] for length in LENGTHS]
    tokens, mask = padded(rows, side)
    cache = model(tokens, attention_mask=mask, use_cache=True).past_key_values
    more = texts(len(rows), 5, seed=9)[:, 1:]
    for step in more.split([1, 3], dim=1):
        mask = torch.cat([mask, torch.ones_like(step)], dim=1)
        output = model(step, attention_mask=mask, past_key_values=cache)
    assert output.past_key_values is cache
    for i, row in enumerate(rows):
        alone = model(torch.cat([row, more[i]])[None]).logits[0, -3:]
        torch.testing.assert_close(output.logits[i], alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_long_padded_batch_may_be_read_in_pieces_that_are_all_padding():
    _, model = adapted()
    rows = [texts(1, 1 + length, seed=length)[0, 1:] for length in LENGTHS]  # no boundary, which resets by itself
    tokens, mask = padded(rows, "left")
    whole, cache = model(tokens, attention_mask=mask).logits, None
    for start in range(0, tokens.shape[1], 4):
        piece = tokens[:, start : start + 4]
        output = model(piece, attention_mask=mask[:, : start + 4], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
    torch.testing.assert_close(output.logits, whole[:, -4:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mark", ["boundary", "position_ids"])
@torch.no_grad()
def test_documents_packed_into_a_row_do_not_see_each_other(mark):
    _, model = adapted()
    parts = [texts(1, length, seed=length) for length in LENGTHS]
    positions = None
    if mark == "position_ids":
        parts = [part[:, 1:] for part in parts]
        positions = torch.cat([torch.arange(part.shape[1])[None] for part in parts], dim=1)
    together = model(torch.cat(parts, dim=1), position_ids=positions).logits
    alone = torch.cat([model(part).logits for part in parts], dim=1)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_may_be_asked_of_a_forward_pass():
    native, model = adapted()
    tokens = texts(2, 9)
    whole = model(tokens)
    assert torch.equal(model(tokens, logits_to_keep=2).logits, whole.logits[:, -2:])
    assert torch.equal(model(tokens, logits_to_keep=torch.tensor([0, 4])).logits, whole.logits[:, [0, 4]])
    logits, cache = model(tokens, return_dict=False)
    assert torch.equal(logits, whole.logits)
    assert isinstance(cache, WeftCache)
    assert "past_key_values" not in model(tokens, use_cache=False)
    hidden = model(tokens, output_hidden_states=True).hidden_states
    assert len(hidden) == len(native.schedule) + 1 == model.config.num_hidden_layers + 1
    assert torch.equal(hidden[0], native.embedding(tokens))
    assert torch.equal(hidden[-1], native.hidden(tokens)[0])
    embedded = model.get_input_embeddings()(tokens)
    assert torch.equal(model(inputs_embeds=embedded).logits, whole.logits)
    torch.testing.assert_close(model.get_output_embeddings()(hidden[-1]), whole.logits)
    assert model.to(torch.bfloat16)(tokens).logits.dtype == torch.float32


def test_the_loss_is_the_one_of_transformers():
    _, model = adapted()
    tokens = texts(2, 9)
    labels = tokens.clone()
    labels[0, 3:6] = -100
    output = model(tokens, labels=labels)
    expected = F.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(output.loss, expected)
    scored = int((labels[:, 1:] != -100).sum())
    for count in (torch.tensor(4 * scored), 4 * scored):
        torch.testing.assert_close(model(tokens, labels=labels, num_items_in_batch=count).loss, expected / 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_centroids_follow_training_and_padding_has_no_part_in_it(dtype):
    tokens, mask = padded([texts(1, length, seed=length)[0] for length in LENGTHS], "left")
    found = []
    for rows, masks in ((tokens, mask), (torch.cat([tokens, torch.full_like(tokens, PADDING)], 1), None)):
        native, model = adapted("bigrams")
        model = model.to(dtype).train()
        model(rows, attention_mask=masks)
        found.append(model.ngrams.centroids_HKE)
        assert not torch.equal(found[-1], native.ngrams.centroids_HKE.to(dtype))
    assert torch.equal(*found)


@torch.no_grad()
def test_vectors_can_be_given_where_there_is_a_norm_but_no_bigrams():
    native, _ = adapted("bigrams", ngrams={"heads": 2, "table_size": 0})
    tokens = texts(2, 9)
    given = adapter_of(native)(inputs_embeds=native.embedding(tokens), position_ids=torch.arange(9)[None])
    torch.testing.assert_close(given.logits, native(tokens)[0])


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_under_checkpointing_are_exactly_the_same(reentrant):
    _, model = adapted(dropout=0.2)
    model.train()
    tokens = texts(2, 9)

    def gradients() -> dict[str, Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        model(tokens, labels=tokens).loss.backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain = gradients()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    calls = []
    function = model.blocks._gradient_checkpointing_func
    model.blocks._gradient_checkpointing_func = lambda *args: (calls.append(1), function(*args))[1]
    checkpointed = gradients()
    assert len(calls) == len(model.schedule)
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
