"""What ``generate`` writes, and what is remembered between calls."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoTokenizer

from tests.hf.adapted import (
    BOUNDARY,
    LENGTHS,
    PADDING,
    VARIANTS,
    adapted,
    error_of,
    padded,
    texts,
)
from weft.errors import UserError
from weft.hf import WeftCache
from weft.hf.cache import CACHE_NAME


def mode_of(name: str) -> dict:
    return {
        "greedy": {},
        "beams": {"num_beams": 4},
        "beams returned": {"num_beams": 4, "num_return_sequences": 3},
        "sampling": {"do_sample": True, "num_return_sequences": 3, "temperature": 1.3},
    }[name]


MODES = ["greedy", "beams", "beams returned", "sampling"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", MODES)
def test_writing_with_the_cache_is_writing_without(variant, mode):
    _, model = adapted(variant)
    tokens, mask = padded([texts(1, length, seed=length)[0] for length in LENGTHS], "left")
    written = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        settings = {"attention_mask": mask, "max_new_tokens": 8, "use_cache": use_cache, **mode_of(mode)}
        written.append(model.generate(tokens, **settings))
    assert torch.equal(*written)
    assert len(written[0]) == len(tokens) * mode_of(mode).get("num_return_sequences", 1)


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_a_prompt_of_vectors_writes_what_its_tokens_write(mode):
    _, model = adapted()
    tokens, mask = padded([texts(1, length, seed=length)[0] for length in LENGTHS], "left")
    vectors = model.get_input_embeddings()(tokens)
    settings = {"attention_mask": mask, "max_new_tokens": 8, **mode_of(mode)}
    written = model.generate(tokens, **settings)
    assert torch.equal(model.generate(inputs_embeds=vectors, **settings), written[:, tokens.shape[1] :])
    both = model.generate(tokens, inputs_embeds=vectors, **settings)
    assert torch.equal(both, written)
    _, model = adapted("bigrams")
    with pytest.raises(UserError, match="bigrams, which are of tokens: give input_ids"):
        model.generate(inputs_embeds=vectors, max_new_tokens=2)


def test_stop_strings_end_a_text(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    theirs, (_, model) = AutoTokenizer.from_pretrained(tmp_path), adapted()
    written = model.generate(texts(1, 5), max_new_tokens=8)[0, 5:]
    stop = theirs.decode(written[:2])
    assert stop.isascii()
    ended = model.generate(texts(1, 5), max_new_tokens=8, stop_strings=[stop], tokenizer=theirs)[0, 5:]
    assert torch.equal(ended, written[:2])


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_a_padded_batch_writes_what_each_prompt_alone_would(mode):
    _, model = adapted()
    rows = [texts(1, length, seed=length)[0] for length in LENGTHS]
    tokens, mask = padded(rows, "left")
    together = model.generate(tokens, attention_mask=mask, max_new_tokens=8, **mode_of(mode))
    for row, written in zip(rows, together, strict=True):
        alone = model.generate(row[None], max_new_tokens=8, **mode_of(mode))[0]
        assert written[len(tokens[0]) :].tolist() == [*alone[len(row) :].tolist(), *[PADDING] * 8][:8]


def test_greedy_writes_the_native_models_likeliest_tokens_and_never_padding():
    native, model = adapted()
    with torch.no_grad():
        for each in (native, model):
            each.embedding.bias_V[PADDING] = 100.0  # as likely as it gets
    tokens, state = texts(1, 20), None  # longer than the attention's memory
    written, step = [], tokens
    with torch.no_grad():
        for _ in range(8):
            logits, state = native(step, state)
            step = logits[:, -1:, :PADDING].argmax(-1)
            written.append(int(step))
    assert model.generate(tokens, max_new_tokens=8)[0, 20:].tolist() == written


def test_nothing_of_a_prompt_longer_than_the_memory_is_lost():
    _, model = adapted("qrnn", qrnn={"forget_bias": "spread"})  # cells that remember for long from the start on
    tokens = texts(2, 60)
    tokens[1] = tokens[0]
    tokens[1, 1] = (tokens[0, 1] + 1) % BOUNDARY  # long out of any window
    logits = model(tokens).logits[:, -1]
    assert not torch.equal(logits[0], logits[1])


def test_a_prompt_in_chunks_and_a_conversation_give_what_the_whole_text_gives():
    _, model = adapted()
    tokens = texts(2, 23)
    whole = model.generate(tokens, max_new_tokens=5)
    assert torch.equal(model.generate(tokens, max_new_tokens=5, prefill_chunk_size=4), whole)
    cache = WeftCache()
    first = model.generate(tokens[:, :10], max_new_tokens=3, cache=cache)
    text = torch.cat([first, tokens[:, 10:]], dim=1)
    second = model.generate(text, max_new_tokens=3, cache=cache)
    assert torch.equal(second, model.generate(text, max_new_tokens=3))
    assert cache.get_seq_length() == second.shape[1] - 1


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_has_either_name_whatever_transformers_calls_it(name):
    _, model = adapted()
    tokens = texts(2, 9)
    cache = WeftCache()
    first = model.generate(tokens, max_new_tokens=3, **{name: cache})
    assert torch.equal(first, model.generate(tokens, max_new_tokens=3))
    assert cache.get_seq_length() == first.shape[1] - 1
    with torch.no_grad():
        output = model(tokens, **{name: WeftCache()})
        kept = output[CACHE_NAME]
        assert kept.get_seq_length() == 9
        assert model(tokens[:, 1:], **{name: kept})[CACHE_NAME] is kept
    both = {"cache": WeftCache(), "past_key_values": WeftCache()}
    assert "two names of one thing" in error_of(lambda: model(tokens, **both))
    assert "two names of one thing" in error_of(lambda: model.generate(tokens, **both))


def test_a_cache_is_reordered_repeated_and_forgotten():
    _, model = adapted()
    tokens = texts(2, 9)
    with torch.no_grad():
        cache = model(tokens).past_key_values
        before = copy.copy(cache)
        cache.batch_repeat_interleave(2)
        assert cache.batch_size == 4
        cache.reorder_cache(torch.tensor([3, 0]))
        more = texts(2, 4)[:, 1:]
        swapped = model(more, past_key_values=cache).logits
        kept = model(more, past_key_values=before).logits
    for tokens_before, logits in ((tokens.flip(0), swapped), (tokens, kept)):
        whole = model(torch.cat([tokens_before, more], dim=1)).logits[:, -3:]
        torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)
    assert len(cache) == len(model.schedule)
    cache.reset()
    assert (cache.get_seq_length(), cache.batch_size, cache.is_initialized) == (0, -1, False)


def test_nothing_is_left_over_from_one_call_to_the_next():
    _, model = adapted()
    inside = {name: set(vars(module)) for name, module in model.named_modules()}
    first, second = texts(2, 9), texts(3, 5, seed=2)
    for tokens in (first, second, first):
        _, fresh = adapted()
        assert torch.equal(model.generate(tokens, max_new_tokens=6), fresh.generate(tokens, max_new_tokens=6))
    model.train()
    for tokens in (first, second):
        for _ in range(2):  # a second backward pass through a kept graph would fail
            model(tokens, labels=tokens, use_cache=True).loss.backward()
    grown = {name: set(vars(module)) - inside[name] for name, module in model.named_modules()}
    assert not {name: names for name, names in grown.items() if names - {"_previous_max_cache_length"}}


def test_training_goes_over_segments_when_the_cache_is_detached():
    _, model = adapted()
    model.train()
    tokens = texts(2, 12)
    cache = WeftCache()
    for part in tokens.split(6, dim=1):
        model(part, labels=part, past_key_values=cache.detach()).loss.backward()
    assert model(tokens).past_key_values is None  # no cache in training unless wanted
