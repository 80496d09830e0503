"""The baseline is transformers' Llama, cut at documents in training and scored by a sliding window."""

from __future__ import annotations

import json
import signal
from itertools import pairwise

import numpy as np
import pytest
import torch

import weft
from tests import toy_baseline
from tests.evaluation.test_scoring import BOUNDARY, split_of
from tests.training.conftest import corpus, tiny  # noqa: F401 - fixtures
from tests.training.test_run import StopAt, assert_same_run
from weft import api
from weft.baselines import BASELINES, load_any
from weft.baselines.llama import Llama, build, sized
from weft.data import IGNORED, Tokenizer
from weft.errors import Interrupted, UserError
from weft.evaluation import windows as by_windows
from weft.evaluation.scoring import score
from weft.training.recipe import load_recipe, make_recipe
from weft.training.run import train

VOCAB = 11
LENGTHS = (1, 30, 8, 7, 9, 3, 17, 8)
LLAMA = {"baseline": "llama", "parameters": 20_000}


def small_llama(context=8, parameters=20_000):
    """Return a Llama in which nothing is near zero, so that every path can show itself."""
    llama = build(sized(parameters=parameters, vocab_size=VOCAB, context=context), seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in llama.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return llama


def stock(llama):
    """Return transformers' own model for generation with the weights of ``llama``."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(llama.config).eval()
    missing, unexpected = model.load_state_dict(llama.state_dict(), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])  # tied
    return model


@torch.no_grad()
def costs(model, document):
    """Return the nats of each token of one document but its first, by transformers' own model alone."""
    logits = model(torch.tensor([document])).logits[0, :-1].double()
    return -logits.log_softmax(-1).gather(1, torch.tensor(document)[1:, None])[:, 0]


@pytest.mark.parametrize(
    ("parameters", "vocab_size"),
    [(20_000, 258), (50_000, 258), (300_000, 1024), (2_000_000, 2048), (2_000_000, 4096), (20_000_000, 16_384)],
)
def test_the_budget_is_met_in_plausible_proportions(parameters, vocab_size):
    config = sized(parameters=parameters, vocab_size=vocab_size)
    with torch.device("meta"):
        llama = build(config, seed=0)
    assert abs(llama.parameter_count - parameters) <= 0.01 * parameters
    assert llama.parameter_count - llama.body_parameter_count == vocab_size * config.hidden_size
    if parameters >= 300_000:
        assert 2 < config.intermediate_size / config.hidden_size < 3.5  # 8/3 is the rule
    if parameters >= 2_000_000:
        assert config.intermediate_size % 8 == 0


def test_what_cannot_be_built_is_told():
    with pytest.raises(UserError, match="No llama of 2 layers has 1,000"):
        sized(parameters=1000, vocab_size=258)
    with pytest.raises(UserError, match="There is no model.baseline 'gpt': choose from llama"):
        make_recipe({"model": {"baseline": "gpt", "parameters": 1_000_000}})


@pytest.mark.parametrize("training", [True, False])
def test_the_loss_of_packed_documents_is_that_of_each_alone(training):
    llama = small_llama(context=24).train(training)
    draw = np.random.default_rng(0)
    rows = [[7, 12, 5], [24], [1, 22, 1]]  # documents of a lane; a lane goes on in the next segment
    documents = [[[BOUNDARY, *draw.integers(0, BOUNDARY, length - 1)] for length in row] for row in rows]
    tokens = torch.tensor([[token for document in row for token in document] for row in documents])
    following = torch.cat([tokens[:, 1:], tokens[:, :1]], dim=1)
    targets = torch.where((following == BOUNDARY) | (torch.arange(24) == 23), IGNORED, following)
    loss, state = llama.loss(tokens, targets, None, tokens == BOUNDARY)
    model = stock(llama)
    alone = torch.cat([costs(model, document) for row in documents for document in row if len(document) > 1])
    assert state == ()
    assert loss.item() == pytest.approx(alone.mean().item(), rel=1e-5)


def test_a_text_in_pieces_is_the_text_in_one_whatever_stands_before_it():
    llama = small_llama(context=64)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, BOUNDARY, (3, 20)))
    reset = torch.zeros(tokens.shape, dtype=torch.bool)
    reset[0, 0] = reset[1, 6] = reset[2, 3] = reset[2, 14] = True  # from the start; after padding; two documents
    model, logits, state = stock(llama), [], None
    with torch.no_grad():
        for start, stop in ((0, 10), (10, 16), (16, 17), (17, 20)):
            piece, state = llama(tokens[:, start:stop], state, reset[:, start:stop])
            logits.append(piece)
        whole = torch.cat(logits, dim=1)
        for row, start, stop in ((0, 0, 20), (1, 6, 20), (2, 3, 14), (2, 14, 20)):
            alone = model(tokens[row : row + 1, start:stop]).logits[0]
            torch.testing.assert_close(whole[row, start:stop], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("context", [8, 7, 1])
def test_the_score_is_that_of_a_sliding_window_token_by_token(context):
    llama, split = small_llama(context), split_of(LENGTHS)
    model, expected = stock(llama), np.zeros(len(split.tokens))
    advance = context - context // 2
    for begin, end in pairwise(split.offsets.tolist()):
        document = split.tokens[begin:end].astype(int).tolist()
        for place in range(1, len(document)):
            later = max(0, place - context - 1) // advance  # windows after the second
            start = 0 if place <= context else context + later * advance - context // 2
            assert place - start >= min(place, 1 + context // 2)
            assert place - start <= context
            expected[begin + place] = costs(model, document[start : place + 1])[-1]
    nats = score(llama, split, boundary_id=BOUNDARY)
    np.testing.assert_allclose(nats, expected, atol=1e-4)
    assert (nats[split.offsets[:-1]] == 0).all()
    assert not llama.training


@pytest.mark.parametrize("at_once", [1, 20, 100_000])
def test_what_else_is_in_the_batch_does_not_matter(at_once, monkeypatch):
    llama, split, told = small_llama(), split_of(LENGTHS), []
    expected = score(llama, split, boundary_id=BOUNDARY)
    monkeypatch.setattr(by_windows, "SCORED_AT_ONCE", at_once)
    np.testing.assert_allclose(score(llama, split, boundary_id=BOUNDARY, progress=told.append), expected, atol=1e-4)
    assert sum(told) == len(split.tokens) - split.documents


def test_bytes_of_state_are_those_of_the_cache():
    llama = small_llama(context=64)
    _, state = llama(torch.zeros(1, 20, dtype=torch.long))
    held = sum(part.numel() * 4 for layer in state.cache.layers for part in (layer.keys, layer.values))
    assert llama.state_bytes(20) == held


@pytest.fixture
def recipe(tiny):  # noqa: F811
    """Return a maker of recipes of a tiny Llama."""
    return lambda **model: tiny(training={"logging": {"samples": 0}}) | {"model": LLAMA | model}


def test_a_run_is_a_llama_folder_and_works_like_any_run(recipe, tmp_path):
    from transformers import AutoModelForCausalLM

    result = train(recipe(), tmp_path / "run")
    run = tmp_path / "run"
    tokens = torch.randint(0, 256, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, _ = load_any(run)(tokens)
        theirs = AutoModelForCausalLM.from_pretrained(run)
        torch.testing.assert_close(theirs(tokens).logits, ours, rtol=1e-5, atol=1e-5)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == result.parameters
    assert json.loads((run / "config.json").read_text())["eos_token_id"] == Tokenizer.load(run).boundary_id
    assert weft.evaluate(run).bits_per_byte == result.test.bits_per_byte
    scored: list[int] = []
    with pytest.raises(UserError, match="score a baseline without 'adapt'"):
        weft.evaluate(run, adapt=True, progress=scored.append)
    assert not scored, "refused before the text is scored for nothing"
    with pytest.raises(UserError, match="leave 'window' out"):
        weft.evaluate(run, window=8)
    prompts = ["Sápmi", "", "Ruoŧŧa lea"]
    together = api.generate(run, prompts, max_new_tokens=12)
    for lane, prompt in enumerate(prompts):
        assert together[lane] == api.generate(run, prompt, max_new_tokens=12, sampling=weft.Sampling(seed=lane))


def test_going_on_is_training_straight(recipe, tmp_path):
    train(recipe(), tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(recipe(), tmp_path / "stopped", listener=StopAt(5, signal.SIGINT))
    train({}, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")


def test_dropout_is_of_the_attention_weights_and_of_training_alone(recipe, tmp_path):
    train(recipe(dropout=0.3), tmp_path / "run")
    llama = load_any(tmp_path / "run")
    assert isinstance(llama, Llama)
    assert llama.config.attention_dropout == 0.3
    tokens = torch.arange(12)[None]
    assert torch.equal(llama.eval()(tokens)[0], llama(tokens)[0])
    assert not torch.equal(llama.train()(tokens)[0], llama(tokens)[0])


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"pattern": "qf"}, "pattern"), ({"norm": "rms"}, "norm"), ({"attention": {"window": 9}}, "attention")],
)
def test_settings_of_our_models_are_refused(recipe, tmp_path, changes, named):
    with pytest.raises(UserError, match=f"A baseline is built by its own rules: leave out {named}, or"):
        train(recipe(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_baseline_is_a_file_and_a_line(tiny, tmp_path, monkeypatch):  # noqa: F811
    """It trains, resumes bit for bit, carries its state, is scored, adapts to a text, and writes."""
    monkeypatch.setitem(BASELINES, toy_baseline.NAME, toy_baseline.__name__)
    recipe = tiny(training={"logging": {"samples": 0}}) | {"model": {"baseline": "toy", "parameters": 20_000}}
    result = train(recipe, tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "stopped", listener=StopAt(5, signal.SIGINT))
    train({}, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    model = load_any(tmp_path / "straight")
    assert isinstance(model, toy_baseline.Toy)
    assert model.parameter_count == result.parameters
    assert weft.evaluate(tmp_path / "straight").bits_per_byte == result.test.bits_per_byte
    assert weft.evaluate(tmp_path / "straight", adapt=True).bits_per_byte > 0
    assert api.generate(tmp_path / "straight", "Sápmi", max_new_tokens=5)


def test_the_key_of_0_1_0_is_read(tmp_path):
    with pytest.warns(FutureWarning, match="model.peer is model.baseline"):
        assert make_recipe({"model": {"peer": "llama"}}).model.baseline == "llama"
    path = tmp_path / "recipe.yaml"
    path.write_text("weft_version: 0.1.0\nmodel: {peer: llama, parameters: 20000}\n", encoding="utf-8")
    assert make_recipe(load_recipe(path)).model.baseline == "llama"  # of a run: without a word


def test_a_baseline_learns_from_no_teacher(recipe, tmp_path):
    train(recipe(), tmp_path / "teacher")
    values = recipe()
    values["training"] = values["training"] | {"methods": {"distillation": {"run": str(tmp_path / "teacher")}}}
    with pytest.raises(UserError, match="leave out training.methods.distillation.run, or"):
        train(values, tmp_path / "run")
