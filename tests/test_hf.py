"""The Hugging Face adapter: transformers computes, writes, trains and saves what the native model does."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache, GenerationConfig

import weft
from tests.conftest import BIGRAMS, MAPS, small_config, small_model
from weft.data import train_tokenizer
from weft.errors import UserError
from weft.folder import save_model
from weft.hf import WeftCache, WeftConfig, WeftForCausalLM, register
from weft.model import build

VOCABULARY = 270
BOUNDARY, PADDING = VOCABULARY - 2, VOCABULARY - 1
GROUPED = {"attention": {"num_heads": 4, "num_kv_heads": 2, "head_dim": 4}}
# Every kind of block, shared blocks, grouped heads, both shells, separate softmax.
VARIANTS = {
    "attention": ("afaf", GROUPED, "modern"),
    "qrnn": ("qfq", {"qrnn": {"window": 3, "pooling": "ifo"}}, "modern"),
    "fused": ("xfx", {}, "modern"),
    "shared": ("[qfax]2", {"tie_embeddings": False, "head_bias": True}, "modern"),
    "matrix products": ("{qfa}2", {"tie_embeddings": False}, "modern"),
    "bigrams": ("qfa", {"ngrams": BIGRAMS}, "modern"),
    "structured": ("fqafx", {"maps": MAPS}, "modern"),
    "classic": ("aqf", {}, "classic"),
}


def adapted(variant: str = "shared", seed: int = 0, **settings):
    """Return a native model and the adapter with the same parameters."""
    pattern, own, preset = VARIANTS[variant]
    native = small_model(pattern, {**own, **settings}, preset, seed=seed, vocab_size=VOCABULARY)
    return native, adapter_of(native)


def adapter_of(native) -> WeftForCausalLM:
    model = WeftForCausalLM(WeftConfig.of(native.config)).eval()
    model.load_state_dict(native.state_dict())
    return model


def texts(rows: int, length: int, seed: int = 1) -> Tensor:
    """Return random texts, each with its boundary first."""
    tokens = torch.randint(0, BOUNDARY, (rows, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = BOUNDARY
    return tokens


def padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    """Return texts of different lengths as one batch, and its mask."""
    longest = max(len(row) for row in rows)
    tokens, mask = torch.full((len(rows), longest), PADDING), torch.zeros(len(rows), longest, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        tokens[i, where], mask[i, where] = row, 1
    return tokens, mask


LENGTHS = (3, 12, 8)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("bpe", [b"the weaver and the weft and the warp " * 20], VOCABULARY)


@pytest.fixture
def run(tmp_path, tokenizer):
    native = small_model("[qfax]2", {}, vocab_size=VOCABULARY)
    save_model(native, tokenizer, tmp_path / "run")
    register()
    return tmp_path / "run"


# What it computes


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
    function = model._gradient_checkpointing_func
    model._gradient_checkpointing_func = lambda *args: (calls.append(1), function(*args))[1]
    checkpointed = gradients()
    assert len(calls) == len(model.schedule)
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)


# What it writes


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
    first = model.generate(tokens[:, :10], max_new_tokens=3, past_key_values=cache)
    text = torch.cat([first, tokens[:, 10:]], dim=1)
    second = model.generate(text, max_new_tokens=3, past_key_values=cache)
    assert torch.equal(second, model.generate(text, max_new_tokens=3))
    assert cache.get_seq_length() == second.shape[1] - 1


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
    cache.reset()
    assert (cache.get_seq_length(), cache.batch_size, cache.is_initialized) == (0, -1, False)


# State


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


# Vocabulary


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


# Files


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


# The tokenizer

SCRIPTS = [
    "The weaver, the weft; and the warp.",
    "Ruoŧŧa lea stáhta Davvi-Eurohpás.",
    "नमस्ते दुनिया, यह एक परीक्षा है",
    "漢字かな交じり文、テスト。",
    "עברית وعربية ",
    "  two  spaces\n\n\tand 🜀🧶 signs\r\n",
    "<|boundary|> is text here, <|padding|> too",
]


@pytest.mark.parametrize("kind", ["bytes", "characters", "words", "bpe", "unigram"])
def test_the_fast_tokenizer_begins_with_one_boundary_and_its_offsets_are_right(tmp_path, kind):
    ours = train_tokenizer(kind, ["".join(SCRIPTS).encode() * 3], 330, exact=False)
    ours.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.is_fast
    assert theirs.padding_side == "left"
    for text in SCRIPTS:
        encoded = theirs(text, return_offsets_mapping=True)
        assert set(encoded) == {"input_ids", "attention_mask", "offset_mapping"}
        ids = encoded["input_ids"]
        assert ids == [ours.boundary_id, *ours.encode(text).tolist()]
        assert theirs.decode(ids, skip_special_tokens=True) == text
        end = 0
        for token, (first, last) in list(zip(ids, encoded["offset_mapping"], strict=True))[1:]:
            there, written = text[first:last].encode(), ours.token_bytes(token)
            assert written in there  # less only where a token is a part of a character
            assert there == written or len(there) < len(written) + 6
            assert first <= end <= last
            end = last
        assert end == len(text)
    assert theirs("")["input_ids"] == [ours.boundary_id]


# Training


def test_the_trainer_trains_it_and_its_folder_loads_natively(run, tmp_path):
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    tokenizer, model = AutoTokenizer.from_pretrained(run), AutoModelForCausalLM.from_pretrained(run)
    data = [tokenizer(text) for text in ["the weaver and the weft"] * 4 + ["the warp and the weft", "the"] * 2]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"),
        max_steps=6,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        learning_rate=3e-2,
        report_to="none",
        save_steps=6,
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        dataloader_pin_memory=False,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=data, data_collator=collator, processing_class=tokenizer
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] / 2
    batch = collator(data[3:5])
    del batch["labels"]
    folder = tmp_path / "out" / "checkpoint-6"  # where the optimizer and the arguments lie, too
    assert torch.equal(weft.load(folder)(batch["input_ids"])[0], model.eval()(batch["input_ids"]).logits)
    assert weft.load_tokenizer(folder).boundary_id == BOUNDARY


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # the page does not trouble its readers with it
def test_the_python_of_the_page_runs_in_order(run, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs" / "hugging-face.md").read_text(encoding="utf-8")
    (run.parent / "runs").mkdir()
    run.rename(run.parent / "runs" / "mine")
    monkeypatch.chdir(run.parent)
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(compile(block, "hugging-face.md", "exec"), names)
    assert "Sápmi lea" in capsys.readouterr().out
    assert names["kept"].get_seq_length() > names["cache"].get_seq_length() > 0
    weft.load("runs/tuned")
    assert weft.load_tokenizer(Path("runs/tuned")).vocab_size == VOCABULARY


# What is refused


def error_of(function) -> str:
    with pytest.raises(UserError) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)


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
        "has format 99, and this Weft reads formats up to 1: upgrade Weft",
    ),
    "a wrong pattern": (lambda run: edit(run, pattern="qz"), "In 'config.json', 'z' is not a block"),
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
    assert "\n" not in str(caught.value) or case == "a wrong pattern"  # which is pointed at


def test_what_the_user_wants_of_generation_is_kept(run):
    GenerationConfig(suppress_tokens=[3], eos_token_id=7).save_pretrained(run)
    config = AutoModelForCausalLM.from_pretrained(run).generation_config
    assert (config.suppress_tokens, config.eos_token_id, config.pad_token_id) == ([3], 7, PADDING)
