"""The adaptive softmax equals the dense one built from its equations, in value and in every gradient."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch.nn import functional as F

import weft
from tests.conftest import small_config, small_model
from weft.config import AdaptiveConfig
from weft.errors import UserError
from weft.layers import cross_entropy
from weft.layers.adaptive import AdaptiveEmbedding, make_embedding, widths
from weft.layers.embedding import TokenEmbedding
from weft.model import WeftModel, build
from weft.pretrained import load_into, load_weights, read_config, save_config, save_weights
from weft.training.optimizer import make_optimizers
from weft.training.recipe import TrainingConfig
from weft.training.run import train

VOCABULARY, WIDTH = 23, 8
VARIANTS = {
    "plain": {"cutoffs": (5, 9, 20)},
    "one tail": {"cutoffs": (1,)},
    "narrower tails": {"cutoffs": (5, 9, 20), "div_val": 2},
    "narrow for all": {"cutoffs": (5, 9), "embedding_size": 3},
    "narrow to one feature": {"cutoffs": (5, 9, 20), "div_val": 4, "embedding_size": 12},
}


def make(variant, *, tied=True, bias=True, dtype=torch.float64):
    torch.manual_seed(0)
    adaptive = AdaptiveConfig(**VARIANTS[variant])
    embedding = AdaptiveEmbedding(VOCABULARY, WIDTH, adaptive, tied=tied, bias=bias).to(dtype)
    with torch.no_grad():
        for parameter in embedding.parameters():
            parameter.normal_()
    return embedding


def dense(embedding, hidden_ND):
    """The log-probabilities (N, V) by the equations, with nothing clever."""
    tables = embedding.tables if embedding.head_tables is None else embedding.head_tables
    maps = embedding.projections if embedding.head_projections is None else embedding.head_projections
    biases = torch.zeros(VOCABULARY, dtype=hidden_ND.dtype) if embedding.bias_V is None else embedding.bias_V
    clusters = embedding.cluster_bias_K if embedding.cluster_bias_K is not None else torch.zeros(())

    def narrow(cluster):
        return hidden_ND @ maps[min(cluster, len(maps) - 1)] if len(maps) else hidden_ND

    scores = [narrow(0) @ tables[0].T + biases[: len(tables[0])], narrow(0) @ embedding.clusters_KE.T + clusters]
    head = torch.cat(scores, dim=1).softmax(dim=1)
    columns = [head[:, : len(tables[0])]]
    start = len(tables[0])
    for tail in range(1, len(tables)):
        end = start + len(tables[tail])
        within = (narrow(tail) @ tables[tail].T + biases[start:end]).softmax(dim=1)
        columns.append(head[:, len(tables[0]) + tail - 1, None] * within)
        start = end
    return torch.cat(columns, dim=1).log()


def some(*, batch=3, time=11, ignored="some"):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(batch, time, WIDTH, dtype=torch.float64, generator=generator, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (batch, time), generator=generator)
    if ignored != "none":
        targets[slice(None) if ignored == "all" else slice(1, 2)] = -100
    return hidden, targets


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("tied", "bias"), [(True, True), (False, False), (True, False)])
@pytest.mark.parametrize("ignored", ["none", "some", "all"])
def test_loss_and_every_gradient_equal_the_dense_reference(monkeypatch, variant, tied, bias, ignored):
    monkeypatch.setattr(cross_entropy, "CHUNK_ELEMENTS", 3 * 10)
    monkeypatch.setattr(cross_entropy, "FEWEST_ROWS", 1)
    embedding = make(variant, tied=tied, bias=bias)
    hidden, targets = some(ignored=ignored)
    own = {name: p for name, p in embedding.named_parameters() if _of_the_softmax(name, tied)}
    wanted = [hidden, *own.values()]
    ours = embedding.loss(hidden, targets)
    nats = F.nll_loss(dense(embedding, hidden.flatten(0, 1)), targets.flatten(), ignore_index=-100, reduction="none")
    truth = nats.sum() / max(1, int((targets != -100).sum()))
    torch.testing.assert_close(ours, truth)
    gradients = (torch.autograd.grad(3 * loss, wanted) for loss in (ours, truth))
    for name, one, other in zip(["hidden", *own], *gradients, strict=True):
        torch.testing.assert_close(one, other, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(embedding.surprisal(hidden, targets), nats.detach().view(targets.shape))
    assert not embedding.surprisal(hidden, targets).requires_grad


def _of_the_softmax(name, tied):
    return tied or not name.startswith(("tables", "projections"))


@pytest.mark.parametrize("variant", ["narrower tails", "narrow for all"])
def test_gradcheck(variant):
    embedding = make(variant)
    hidden, targets = some(batch=1, time=6, ignored="none")
    names = [name for name, _ in embedding.named_parameters()]

    def loss(hidden, *values):
        return torch.func.functional_call(
            embedding, dict(zip(names, values, strict=True)), (hidden, targets), tie_weights=False
        )

    embedding.forward = embedding.loss  # functional_call calls forward
    assert torch.autograd.gradcheck(loss, (hidden, *embedding.parameters()))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_log_probabilities_of_the_whole_vocabulary(variant, tied):
    embedding = make(variant, tied=tied)
    hidden, targets = some(ignored="none")
    logits = embedding.logits(hidden)
    assert logits.shape == (3, 11, VOCABULARY)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(3, 11, dtype=torch.float64))
    torch.testing.assert_close(logits.flatten(0, 1), dense(embedding, hidden.flatten(0, 1)))
    nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten())  # a softmax over them changes nothing
    torch.testing.assert_close(nats, embedding.loss(hidden, targets))
    assert embedding.float().logits(hidden.float()).dtype == torch.float32
    assert embedding.logits(hidden[:, -1].float()).shape == (3, VOCABULARY)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_input_is_the_scaled_vector_of_each_token(variant):
    embedding = make(variant)
    tokens = torch.arange(VOCABULARY)[None].repeat(2, 1)
    rows, maps = [], embedding.projections
    for cluster, table in enumerate(embedding.tables):
        mapped = table @ maps[min(cluster, len(maps) - 1)].T if len(maps) else table
        rows.append(mapped * math.sqrt(WIDTH))
    torch.testing.assert_close(embedding(tokens), torch.cat(rows).expand(2, -1, -1))
    weights = torch.randn(2, VOCABULARY, WIDTH, dtype=torch.float64)
    wanted = [*embedding.tables, *maps]
    ours, truth = ((weights * vectors).sum() for vectors in (embedding(tokens), torch.cat(rows)))
    for one, other in zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(truth, wanted), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_without_rare_tokens_gives_every_parameter_a_gradient(variant):
    """Processes that train together wait for the gradient of every parameter."""
    embedding = make(variant)
    hidden, _ = some()
    embedding.loss(hidden, torch.zeros(3, 11, dtype=torch.long)).backward()
    assert all(parameter.grad is not None for parameter in embedding.parameters())
    assert not embedding.tables[-1].grad.any()


@pytest.mark.parametrize("outside", [-1, VOCABULARY])
def test_a_token_outside_the_vocabulary_is_an_error(outside):
    with pytest.raises(IndexError):
        make("plain")(torch.tensor([[0, outside]]))


def test_a_target_outside_the_vocabulary_is_an_error():
    with pytest.raises((IndexError, RuntimeError)):
        make("plain").loss(some()[0][:1, :1], torch.tensor([[VOCABULARY]]))


def test_rare_tokens_are_computed_only_where_they_are_targets(monkeypatch):
    sizes = []
    logits = cross_entropy._logits
    monkeypatch.setattr(cross_entropy, "_logits", lambda *a: sizes.append((r := logits(*a)).shape) or r)
    embedding = make("plain")
    hidden, targets = some(ignored="none")
    targets[:] = 0
    targets[0, :4] = 10
    embedding.loss(hidden, targets)
    assert [tuple(size) for size in sizes] == [(33, 5 + 3), (4, 11)]


def test_bf16_autocast_is_near_and_gives_float32_gradients():
    embedding = make("narrower tails", dtype=torch.float32)
    hidden, targets = some()
    exact = embedding.loss(hidden.float(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        loss = embedding.loss(hidden.float(), targets)
        assert embedding.logits(hidden.float()).dtype == torch.float32
        nats = embedding.surprisal(hidden.float(), targets)
    assert loss.dtype == nats.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)
    torch.testing.assert_close(nats.sum() / (targets != -100).sum(), loss.detach(), rtol=0.02, atol=0.02)
    loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in embedding.parameters())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (8, 8, 8)),
        ({"div_val": 2}, (8, 4, 2)),
        ({"embedding_size": 5}, (5, 5, 5)),
        ({"div_val": 4, "embedding_size": 12}, (12, 3, 1)),
    ],
)
def test_widths_of_the_clusters(settings, expected):
    adaptive = AdaptiveConfig(cutoffs=(5, 9), **settings)
    assert widths(8, adaptive) == expected
    embedding = AdaptiveEmbedding(VOCABULARY, 8, adaptive)
    assert [tuple(table.shape) for table in embedding.tables] == list(zip((5, 4, 14), expected, strict=True))
    maps = 0 if expected == (8, 8, 8) else 1 if len(set(expected)) == 1 else 3
    assert [tuple(p.shape) for p in embedding.projections] == [(8, width) for width in expected[:maps]]


@pytest.mark.parametrize("shell", ["modern", "classic"])
@pytest.mark.parametrize("tied", [True, False])
def test_initial_values(shell, tied):
    adaptive = {"adaptive": {"cutoffs": [600, 1000], "div_val": 2}, "tie_embeddings": tied, "hidden_size": 64}
    embedding = build(small_config("f", adaptive, shell, vocab_size=2000), seed=0).embedding
    tables = [*embedding.tables, *(embedding.head_tables or []), embedding.clusters_KE]
    assert all(table.std().item() == pytest.approx(0.02, rel=0.15) for table in tables)
    for projection in (*embedding.projections, *(embedding.head_projections or [])):
        expected = 0.01 if shell == "classic" else projection.shape[1] ** -0.5
        assert projection.std().item() == pytest.approx(expected, rel=0.1)
    if shell == "classic":
        assert not embedding.bias_V.any()
        assert not embedding.cluster_bias_K.any()
    else:
        assert embedding.bias_V is None
        sizes = [embedding(torch.arange(first, last)[None]).std().item() for first, last in embedding.ranges]
        assert max(sizes) < 1.2 * min(sizes)


def test_tables_and_maps_go_with_adamw():
    model = small_model("qf", {"adaptive": {"cutoffs": [4, 7], "div_val": 2}})
    muon, adamw = make_optimizers(model, TrainingConfig(optimizer={"weight_decay": 0.3}))
    decayed = {id(p) for group in adamw.param_groups if group["weight_decay"] for p in group["params"]}
    assert {id(p) for p in model.embedding.parameters()} <= decayed
    hidden = {id(p) for group in muon.param_groups for p in group["params"]}
    assert not hidden & {id(p) for p in model.embedding.parameters()}


@pytest.mark.parametrize("adaptive", [{}, {"div_val": 2}])
def test_a_model_learns_a_closed_vocabulary(adaptive):
    """Every word follows from the one before: the loss falls towards nothing."""
    torch.manual_seed(0)
    settings = {"adaptive": {"cutoffs": [10, 20], **adaptive}, "hidden_size": 32}
    model = build(small_config("qf", settings, vocab_size=40), seed=0)
    following = torch.randperm(40)
    words = [torch.randint(0, 40, (16,))]
    for _ in range(12):
        words.append(following[words[-1]])
    text = torch.stack(words, dim=1)
    optimizers = make_optimizers(model, TrainingConfig(optimizer={"learning_rate": 0.02}))
    losses = []
    for _ in range(80):
        loss, _ = model.loss(text[:, :-1], text[:, 1:])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    uniform = (10 * math.log(12) + 10 * math.log(12 * 10) + 20 * math.log(12 * 20)) / 40
    assert losses[0] == pytest.approx(uniform, rel=0.15)
    assert losses[-1] < 0.1 * losses[0]
    logits, _ = model.eval()(text[:, :-1])
    assert (logits.argmax(-1) == text[:, 1:]).float().mean() > 0.95


def test_a_run_with_a_closed_vocabulary_from_recipe_to_text(tmp_path):
    """Train, save, load, score, generate: all with clusters; what is loaded is what was trained, bit for bit."""
    words = [f"w{index}" for index in range(60)]
    chooser = random.Random(0)
    lines = [" ".join(chooser.choices(words, [1 / (1 + rank) for rank in range(60)], k=12)) for _ in range(300)]
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    recipe = {
        "model": {
            "pattern": "qf",
            "hidden_size": 16,
            "head_bias": True,
            "adaptive": {"cutoffs": [10, 30], "div_val": 2},
        },
        "data": {"sources": [str(tmp_path / "text.txt")], "tokenizer": "closed-words"},
        "training": {
            "steps": 30,
            "batch": {"batch_size": 2, "sequence_length": 32},
            "optimizer": {"learning_rate": 0.02},
            "logging": {"samples": 0, "validations": 1},
        },
    }
    result = train(recipe, tmp_path / "run")
    assert result.validation.perplexity_per_token < 50  # of 60 words
    model = weft.load(tmp_path / "run")
    assert model.config.adaptive == AdaptiveConfig(cutoffs=(10, 30), div_val=2)
    figures = weft.evaluate(tmp_path / "run", split="test")
    frozen = weft.evaluate(tmp_path / "run", adapt=True).bits_per_byte_frozen
    assert frozen == pytest.approx(figures.bits_per_byte_of_weights)
    assert figures.bits_per_byte == pytest.approx(result.test.bits_per_byte, rel=1e-6)
    text = weft.generate(tmp_path / "run", "w1 w2", max_new_tokens=8, sampling=weft.Sampling(seed=0))
    assert set(text.split()) <= {*words, "<unk>"}


@torch.no_grad()
def test_a_saved_model_comes_back_bit_equal(tmp_path):
    model = small_model("qaf", {"adaptive": {"cutoffs": [3, 7], "div_val": 2}, "tie_embeddings": False}, "classic")
    save_config(model.config, tmp_path)
    save_weights(dict(model.named_parameters()), tmp_path / "model.safetensors")
    with torch.device("meta"):
        again = WeftModel(read_config(tmp_path))
    load_into(again, load_weights(tmp_path / "model.safetensors"), tmp_path)
    tokens = torch.arange(11)[None]
    assert torch.equal(again.eval()(tokens)[0], model(tokens)[0])


def test_the_configuration_chooses_the_embedding():
    assert isinstance(make_embedding(small_config("f")), TokenEmbedding)
    assert isinstance(make_embedding(small_config("f", {"adaptive": {"cutoffs": [5]}})), AdaptiveEmbedding)


@pytest.mark.parametrize(
    ("adaptive", "word"),
    [
        ({"cutoffs": [20000, 40000]}, "vocabulary of 11 tokens, but the last is 40000: keep only those below"),
        ({"cutoffs": [11]}, "must lie below the vocabulary"),
        ({"cutoffs": [5, 5]}, "must increase"),
        ({"cutoffs": []}, "adaptive.cutoffs"),
        ({"cutoffs": [0, 5]}, "adaptive.cutoffs"),
        ({"cutoffs": [5], "div_val": 0}, "div_val"),
        ({"cutoffs": [5], "divval": 2}, "did you mean 'div_val'"),
        ({}, "cutoffs"),
    ],
)
def test_impossible_clusters_say_what_to_do(adaptive, word):
    with pytest.raises(UserError, match=word) as error:
        small_config("f", {"adaptive": adaptive | {"div_val": adaptive.get("div_val", 1)}})
    assert "\n" not in str(error.value)
