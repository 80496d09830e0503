"""The base model: what feature extraction and training tools call without the softmax."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

import weft
from tests.conftest import small_config
from tests.hf.adapted import LENGTHS, VARIANTS, VOCABULARY, adapted, adapter_of, error_of, padded, texts
from weft.hf import WeftBackbone, WeftForCausalLM
from weft.layers.embedding import TokenEmbedding
from weft.model import build


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_the_base_model_gives_what_the_softmax_reads(variant):
    native, model = adapted(variant)
    tokens = texts(2, 9)
    assert model.base_model is model.model is model.get_decoder()
    output = model.base_model(tokens, output_hidden_states=True)
    assert torch.equal(output.last_hidden_state, native.hidden(tokens)[0])
    assert torch.equal(model.lm_head(output.last_hidden_state), model(tokens).logits)
    whole = model(tokens, output_hidden_states=True)
    assert all(torch.equal(a, b) for a, b in zip(output.hidden_states, whole.hidden_states, strict=True))
    more = texts(2, 4)[:, 1:]
    goes_on = model.base_model(more, past_key_values=output.past_key_values).last_hidden_state
    torch.testing.assert_close(goes_on, model.base_model(torch.cat([tokens, more], 1)).last_hidden_state[:, -3:])
    hidden, cache = model.base_model(tokens, return_dict=False)
    assert torch.equal(hidden, output.last_hidden_state)
    assert len(cache) == len(native.schedule) == model.config.num_hidden_layers


def test_auto_model_reads_and_writes_the_whole_folder(run, tmp_path):
    backbone = AutoModel.from_pretrained(run)
    assert type(backbone) is WeftBackbone
    tokens = texts(2, 9)
    with torch.no_grad():
        assert torch.equal(backbone(tokens).last_hidden_state, weft.load(run).hidden(tokens)[0])
    backbone.save_pretrained(tmp_path / "again")
    saved = [load_file(folder / "model.safetensors") for folder in (run, tmp_path / "again")]
    assert saved[0].keys() == saved[1].keys()
    with torch.no_grad():
        assert torch.equal(weft.load(tmp_path / "again")(tokens)[0], weft.load(run)(tokens)[0])
    auto_map = json.loads((run / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == "modeling_weft.WeftBackbone"
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "again")) is WeftForCausalLM


def test_the_backbone_is_no_second_set_of_names():
    native, model = adapted()
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in model.base_model.named_parameters()]
    assert names == [name for name, _ in native.named_parameters()]
    assert model.state_dict().keys() == native.state_dict().keys()


@torch.no_grad()
def test_backbone_and_model_have_the_same_parts_and_the_same_mode():
    _, model = adapted()
    tokens = texts(2, 9)
    assert (model.training, model.base_model.training) == (False, False)
    assert model.train().base_model.training
    model.eval()
    other = copy.deepcopy(model.embedding)
    other.weight_VD.mul_(2)
    before = model(tokens).logits
    model.embedding = other  # as peft does with modules_to_save
    assert model.base_model.embedding is model.get_input_embeddings() is other
    after = model(tokens).logits
    assert not torch.equal(after, before)
    native = build(model.config.native, seed=0).eval()
    native.load_state_dict(model.state_dict())
    assert torch.equal(after, native(tokens)[0])
    model.base_model.norm = torch.nn.Identity()
    assert isinstance(model.norm, torch.nn.Identity)


@torch.no_grad()
def test_a_copy_has_parts_of_its_own_and_the_softmax_is_not_copied_alone():
    _, model = adapted()
    tokens = texts(2, 9)
    before = model(tokens).logits
    twin = copy.deepcopy(model)
    twin.embedding.weight_VD.zero_()
    assert twin.base_model.embedding is twin.embedding is twin.lm_head.embedding
    assert twin.base_model(tokens).last_hidden_state is not None
    assert torch.equal(model(tokens).logits, before)
    assert "name 'embedding' instead of 'lm_head'" in error_of(lambda: copy.deepcopy(model.lm_head))
    assert "one process for each GPU" in error_of(model._replicate_for_data_parallel)


def test_an_embedding_of_the_same_kind_may_be_set_and_is_used():
    _, model = adapted()
    other = TokenEmbedding(VOCABULARY, 16)
    other.initialise(classic=False)
    model, tokens = adapter_of(build(small_config("qa", vocab_size=VOCABULARY), seed=0)), texts(2, 9)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other
    assert torch.equal(model(tokens, output_hidden_states=True).hidden_states[0], other(tokens))


def test_names_that_tools_look_for_are_those_of_registered_modules():
    _, model = adapted()
    names = {module: name for name, module in model.named_modules()}
    assert names[model.get_input_embeddings()] == "embedding"
    assert names[model.get_output_embeddings()] == "lm_head"
    assert model.get_submodule("embeddings.word_embeddings") is model.embedding  # peft's prompt tuning
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert embedding.weight.shape == head.weight.shape == (VOCABULARY, 16)
    assert (embedding.num_embeddings, embedding.embedding_dim) == (head.out_features, head.in_features)
    assert model.vocab_size == model.base_model.vocab_size == VOCABULARY
    values = model.config.to_dict()
    native = model.config.native
    assert values["num_hidden_layers"] == len(native.schedule)
    attention = next((block for block in native.blocks if block.kind == "attention"), None)
    heads = (values["num_attention_heads"], values["num_key_value_heads"], values["head_dim"])
    assert heads == ((attention.num_heads, attention.kv_heads, attention.head_dim) if attention else (1, 1, 16))
    assert values["max_position_embeddings"] > 10**6
    assert type(model.config).from_dict(values).to_dict() == values


def test_hooks_on_embedding_backbone_and_softmax_are_called_in_a_forward_pass():
    _, model = adapted()
    called = []
    for part in (model.embedding, model.base_model, model.lm_head):
        part.register_forward_hook(lambda module, *_: called.append(module))
    model(texts(2, 9))
    assert called == [model.embedding, model.base_model, model.lm_head]


@pytest.mark.parametrize("side", ["left", "right", "none"])
def test_hidden_states_that_are_given_away_have_a_gradient(side):
    _, model = adapted()
    tokens, mask = padded([texts(1, length, seed=length)[0] for length in LENGTHS], side)
    mask = torch.ones_like(mask) if side == "none" else mask
    output = model(tokens, attention_mask=mask, labels=tokens, output_hidden_states=True)
    for hidden in output.hidden_states:
        hidden.retain_grad()
    output.loss.backward()
    assert all(hidden.grad is not None and hidden.grad.any() for hidden in output.hidden_states)


def test_checkpointing_that_is_enabled_on_either_is_on_in_both():
    _, model = adapted()
    model.base_model.train()
    enable = getattr(model.base_model, "activation_checkpointing_enable", None)
    (enable or model.base_model.gradient_checkpointing_enable)()
    assert model.blocks.gradient_checkpointing
    model.train()
    model(texts(2, 9), labels=texts(2, 9)).loss.backward()
