"""Vocabularies, and folders that go to and fro between Weft and transformers."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import weft
from tests.conftest import small_config
from tests.hf.adapted import (
    BOUNDARY,
    PADDING,
    VOCABULARY,
    adapted,
    adapter_of,
    texts,
)
from weft.errors import UserError
from weft.hf import WeftConfig, WeftForCausalLM, register
from weft.model import build
from weft.pretrained import save_model


@pytest.mark.parametrize("variant", ["shared", "fused"])
@torch.no_grad()
def test_the_vocabulary_grows_and_shrinks_and_the_special_tokens_stay(tmp_path, variant, tokenizer):
    _, model = adapted(variant)
    tokens = texts(2, 9)
    before = model(tokens).logits
    mean = model.embedding.weight_VD.mean(0)
    view = model.resize_token_embeddings(300)
    assert view.weight.shape == (300, 16)
    assert (view.num_embeddings, view.embedding_dim) == (300, 16)
    assert torch.equal(view.weight[-1], mean)
    assert torch.equal(model(tokens).logits[..., :VOCABULARY], before)
    assert model(tokens).logits.shape[-1] == model.config.vocab_size == 300
    assert model.resize_token_embeddings(pad_to_multiple_of=64).num_embeddings == 320
    model.resize_token_embeddings(290, mean_resizing=False)
    model.save_pretrained(tmp_path)
    for again in (WeftForCausalLM.from_pretrained(tmp_path), adapter_of(weft.load(tmp_path))):
        assert torch.equal(again(tokens).logits, model(tokens).logits)
        config = again.config
        assert (config.vocab_size, config.boundary_id, config.padding_id) == (290, BOUNDARY, PADDING)
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (BOUNDARY, BOUNDARY, PADDING)
        assert again.generation_config.eos_token_id == BOUNDARY
    assert torch.equal(model.resize_token_embeddings(VOCABULARY).weight[:BOUNDARY], view.weight[:BOUNDARY])
    assert torch.equal(model(tokens).logits, before)
    with pytest.raises(
        UserError, match=f"{VOCABULARY - 1} tokens would lose the boundary or padding token: keep {VOCABULARY}"
    ):
        model.resize_token_embeddings(VOCABULARY - 1)


def test_an_adaptive_embedding_works_but_is_not_resized(tmp_path):
    config = small_config("qa", {"adaptive": {"cutoffs": [40, 100], "div_val": 2}}, vocab_size=VOCABULARY)
    native = build(config, seed=0).eval()
    model = adapter_of(native)
    tokens = texts(2, 9)
    torch.testing.assert_close(model(tokens, labels=tokens).loss, native.loss(tokens[:, :-1], tokens[:, 1:])[0])
    model.save_pretrained(tmp_path)
    assert torch.equal(WeftForCausalLM.from_pretrained(tmp_path)(tokens).logits, model(tokens).logits)
    assert not hasattr(model.get_input_embeddings(), "weight")
    with pytest.raises(UserError, match="adaptive embedding cannot be resized"):
        model.resize_token_embeddings(300)


def test_a_folder_goes_to_and_fro_bit_equal(run, tmp_path, tokenizer):
    native, tokens = weft.load(run), texts(2, 9)
    model = AutoModelForCausalLM.from_pretrained(run)
    assert isinstance(model, WeftForCausalLM)
    assert not model.training
    assert torch.equal(model(tokens).logits, native(tokens)[0])
    with torch.no_grad():
        model.embedding.weight_VD.add_(1)
    model.save_pretrained(tmp_path / "theirs")
    again = weft.load(tmp_path / "theirs")
    assert torch.equal(again(tokens)[0], model(tokens).logits)
    save_model(again, tokenizer, tmp_path / "ours")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "ours")(tokens).logits, model(tokens).logits)
    saved = [load_file(folder / "model.safetensors") for folder in (run, tmp_path / "theirs", tmp_path / "ours")]
    names = [name for name, _ in native.named_parameters()]
    assert [sorted(each) for each in saved] == [sorted(names)] * 3
    assert sum(tensor.numel() for tensor in saved[1].values()) == native.parameter_count
    files = [{path.name for path in folder.iterdir()} for folder in (run, tmp_path / "theirs")]
    assert files[0] - files[1] == {"tokenizer.json", "tokenizer_config.json"}
    configs = [json.loads((folder / "config.json").read_text()) for folder in (run, tmp_path / "theirs")]
    assert configs[1].items() >= {**configs[0], "boundary_id": BOUNDARY, "padding_id": PADDING}.items()


FRESH = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
assert "weft" not in sys.modules
run = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(run, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(run, trust_remote_code=True)
batch = tokenizer(["the weaver", "a warp, and more"], return_tensors="pt", padding=True)
written = model.generate(**batch, num_beams=4, max_new_tokens=6)
model.save_pretrained(run + "-again")
import weft.hf
assert type(model) is weft.hf.WeftForCausalLM
print(written.tolist())
"""


def test_a_fresh_process_that_never_imports_weft_loads_the_installed_class(run, tmp_path):
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FRESH, str(run)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(run)
    batch = tokenizer(["the weaver", "a warp, and more"], return_tensors="pt", padding=True)
    written = AutoModelForCausalLM.from_pretrained(run).generate(**batch, num_beams=4, max_new_tokens=6)
    assert json.loads(done.stdout) == written.tolist()
    again = tmp_path / "run-again"
    assert [path.name for path in again.glob("*.py")] == ["modeling_weft.py"]  # no copy of our source
    assert (again / "modeling_weft.py").read_text() == (run / "modeling_weft.py").read_text()


def test_a_folder_of_before_these_classes_still_loads(run):
    (run / "modeling_weft.py").unlink()
    (run / "generation_config.json").unlink()
    values = json.loads((run / "config.json").read_text())
    del values["auto_map"]
    (run / "config.json").write_text(json.dumps(values))
    model = AutoModelForCausalLM.from_pretrained(run)
    assert torch.equal(model(texts(2, 9)).logits, weft.load(run)(texts(2, 9))[0])
    assert model.generation_config.suppress_tokens == [PADDING]
    assert model.generation_config.eos_token_id == BOUNDARY


OLD_SHIM = """
from weft.hf import WeftConfig, WeftForCausalLM, register
register()
"""


def test_a_folder_of_before_the_backbone_still_loads_on_both_sides(run, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    (run / "modeling_weft.py").write_text(OLD_SHIM)
    values = json.loads((run / "config.json").read_text())
    del values["auto_map"]["AutoModel"]
    (run / "config.json").write_text(json.dumps(values))
    tokens = texts(2, 9)
    logits, hidden = weft.load(run)(tokens)[0], weft.load(run).hidden(tokens)[0]
    assert torch.equal(AutoModelForCausalLM.from_pretrained(run, trust_remote_code=True)(tokens).logits, logits)
    backbone = AutoModel.from_pretrained(run, trust_remote_code=True)
    assert torch.equal(backbone(tokens).last_hidden_state, hidden)


def test_a_folder_in_shards_says_so_and_loads_with_transformers(run, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(run)
    model.save_pretrained(tmp_path / "shards", max_shard_size="5KB")
    assert not (tmp_path / "shards" / "model.safetensors").exists()
    with pytest.raises(UserError, match="several files .shards., and Weft reads one: load it with transformers"):
        weft.load(tmp_path / "shards")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "shards")
    assert torch.equal(again(texts(2, 9)).logits, model(texts(2, 9)).logits)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_an_attention_implementation_may_be_named_and_changes_nothing(run, tmp_path, implementation):
    plain = AutoModelForCausalLM.from_pretrained(run)
    model = AutoModelForCausalLM.from_pretrained(run, attn_implementation=implementation)
    assert torch.equal(model(texts(2, 9)).logits, plain(texts(2, 9)).logits)
    model.save_pretrained(tmp_path / "again")
    weft.load(tmp_path / "again")


def test_registering_again_changes_nothing_and_a_configuration_makes_a_model():
    register()
    register()
    config = AutoConfig.for_model("weft", **small_config("qa", vocab_size=40).model_dump(mode="json"))
    assert isinstance(config, WeftConfig)
    assert (config.boundary_id, config.padding_id, config.num_attention_heads) == (38, 39, 2)
    model = AutoModelForCausalLM.from_config(config)
    assert isinstance(model, WeftForCausalLM)
    assert model.num_parameters() == build(config.native).parameter_count
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        model.embedding.weight_VD.zero_()
    assert twin.get_input_embeddings().weight is twin.embedding.weight_VD
    assert twin(texts(1, 5) % 38).logits.any()


def test_settings_laid_over_a_folder_reach_the_model(run):
    model = AutoModelForCausalLM.from_pretrained(run, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    model = AutoModelForCausalLM.from_pretrained(run, dropout=0.5)
    assert (model.dropout.p, model.config.native.dropout) == (0.5, 0.5)


def edit(run: Path, **changes) -> None:
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut_weights(run: Path) -> None:
    (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:1000])


def drop_tensor(run: Path) -> None:
    save_file(dict(list(load_file(run / "model.safetensors").items())[1:]), run / "model.safetensors", {"format": "pt"})


DAMAGES = {
    "a newer format": (
        lambda run: edit(run, weft_format=99, weft_version="9.9"),
        "has format 99, and this Weft reads formats up to 2: upgrade Weft",
    ),
    "a wrong block": (lambda run: edit(run, blocks=[{"kind": "z"}]), "a block says its kind, which is one of a"),
    "another size": (lambda run: edit(run, hidden_size=32), "do not fit its config.json"),
    "a pickle": (lambda run: (run / "pytorch_model.bin").write_bytes(b"x"), "holds a pickle .pytorch_model.bin"),
    "weights cut short": (cut_weights, "are damaged"),
    "a tensor missing": (drop_tensor, "do not fit its config.json"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_folder_that_is_not_right_is_told_in_a_sentence(run, case):
    damage, sentence = DAMAGES[case]
    damage(run)
    with pytest.raises(UserError, match=sentence) as caught:
        AutoModelForCausalLM.from_pretrained(run)
    assert "\n" not in str(caught.value)


def test_what_the_user_wants_of_generation_is_kept(run):
    GenerationConfig(suppress_tokens=[3], eos_token_id=7).save_pretrained(run)
    config = AutoModelForCausalLM.from_pretrained(run).generation_config
    assert (config.suppress_tokens, config.eos_token_id, config.pad_token_id) == ([3], 7, PADDING)
