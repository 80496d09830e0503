"""Latent bigrams: the hash by hand, clusters that follow the tokens, and nothing from the future."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import BIGRAMS, small_config, small_model
from weft.config import NGramsConfig
from weft.description import describe
from weft.errors import UserError
from weft.layers.ngrams import EPS, LatentBigrams, primes_above
from weft.layers.state import tensors
from weft.model import build
from weft.sizing import count_parameters, sized
from weft.training.methods.ngrams import NGramsTrainingConfig
from weft.training.optimizer import make_optimizers, set_learning_rate
from weft.training.parallel import Processes
from weft.training.recipe import TrainingConfig


def a_layer(**changes) -> LatentBigrams:
    torch.manual_seed(0)
    layer = LatentBigrams(NGramsConfig(**{**BIGRAMS, **changes}), 16).eval()
    layer.initialise(torch.randn(11, 16))
    return layer


def test_primes():
    assert primes_above(1, 5) == [2, 3, 5, 7, 11]
    assert primes_above(4096, 3) == [4099, 4111, 4127]


def test_rows_are_those_of_integer_arithmetic():
    layer = a_layer(heads=4, clusters=300, table_size=1000, width=2)
    generator = torch.Generator().manual_seed(1)
    ids, before = torch.randint(0, 300, (2, 3, 50, 4), generator=generator)
    rows = layer.rows(ids, before)
    for place in torch.cartesian_prod(torch.arange(3), torch.arange(50), torch.arange(4)).tolist():
        here, head = tuple(place), place[2]
        pair = int(ids[here]) + 300 * int(before[here])
        prime = [1009, 1013, 1019, 1021][head]
        assert int(rows[here]) == ((pair * (head + 1) + head + 1) % prime) % 1000 + head * 1000


@torch.no_grad()
def test_the_output_by_hand():
    layer, weight = a_layer(), torch.randn(11, 16, generator=torch.Generator().manual_seed(2))
    for parameter in layer.parameters():
        parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    reset = torch.tensor([[True, False, False, True, False]])
    out, _ = layer(F.embedding(tokens, weight), layer.ids(tokens, weight), (None,), reset)
    for place, token in enumerate(tokens[0].tolist()):
        for head in range(2):
            distances = (weight.view(11, 2, 1, 8)[:, head] - layer.centroids_HKE[head]).square().sum(-1)
            own = distances.argmin(-1)[tokens[0]].tolist()
            before = 0 if place == 0 or bool(reset[0, place]) else own[place - 1]
            row = ((own[place] + 5 * before) * (head + 1) + head + 1) % [17, 19][head] % 13 + head * 13
            x = weight[token].view(2, 8)[head]
            normed = F.layer_norm(x, (8,), layer.token_gain_HE[head], layer.token_bias_HE[head], EPS)
            pair = F.layer_norm(layer.tables_NW[row], (3,), layer.pair_gain_HW[head], layer.pair_bias_HW[head], EPS)
            torch.testing.assert_close(out[0, place].view(2, 8)[head], torch.cat([normed[:5], pair]))


def test_as_wide_as_the_head_the_two_are_added():
    layer, weight = a_layer(width=8), torch.randn(11, 16)
    tokens = torch.tensor([[3, 1]])
    out, _ = layer(F.embedding(tokens, weight), layer.ids(tokens, weight), (None,), None)
    alone = a_layer(table_size=0)(F.embedding(tokens, weight), None, (), None)[0]
    ids = layer.ids(tokens, weight)
    rows = layer.rows(ids, torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :1]], 1))
    torch.testing.assert_close(out, alone + F.layer_norm(F.embedding(rows, layer.tables_NW), (8,), eps=EPS).flatten(-2))


@torch.no_grad()
def test_centroids_follow_the_mean_of_their_tokens_and_empty_ones_stay():
    layer, weight = a_layer(decay=0.9), torch.randn(11, 16)
    before = layer.centroids_HKE.clone()
    tokens = torch.tensor([[2, 2, 7], [2, 7, 9]])
    layer.observe(tokens, weight)
    for head in range(2):
        vectors = weight.view(11, 2, 8)[:, head]
        nearest = (vectors[:, None] - before[head]).square().sum(-1).argmin(-1)
        for cluster in range(5):
            mine = [vectors[t] for t in tokens.flatten().tolist() if int(nearest[t]) == cluster]
            moved = 0.9 * before[head, cluster] + 0.1 * torch.stack(mine).mean(0) if mine else before[head, cluster]
            torch.testing.assert_close(layer.centroids_HKE[head, cluster], moved)
    assert not torch.equal(layer.centroids_HKE, before)
    moved = layer.centroids_HKE.clone()
    layer.observe(tokens, weight, padded_BT=torch.ones_like(tokens, dtype=torch.bool))
    layer.tables_NW.requires_grad_(False)
    layer.observe(tokens, weight)
    assert torch.equal(layer.centroids_HKE, moved)  # by padding, or beside frozen tables


@torch.no_grad()
def test_the_table_of_ids_follows_what_it_is_made_of():
    layer, weight = a_layer(), torch.randn(11, 16)
    tokens = torch.arange(11)[None]
    first, table = layer.ids(tokens, weight), layer._table_of_ids(weight)
    assert layer._table_of_ids(weight) is table  # nothing is made again for the next token
    weight.copy_(weight.flip(0))
    assert torch.equal(layer.ids(tokens, weight), first.flip(1))
    layer.centroids_HKE.copy_(layer.centroids_HKE.flip(1))
    assert torch.equal(layer.ids(tokens, weight), 4 - first.flip(1))
    assert torch.equal(layer.train().ids(tokens, weight), layer.eval().ids(tokens, weight))


def test_each_token_has_a_cluster_of_its_own_where_there_are_as_many():
    layer = LatentBigrams(NGramsConfig(heads=2, clusters=20, table_size=100, width=3), 16).eval()
    weight = torch.randn(11, 16)
    layer.initialise(weight)
    ids = layer.ids(torch.arange(11)[None], weight)[0]
    assert all(len(ids[:, head].unique()) == 11 for head in range(2))


@torch.no_grad()
def test_nothing_comes_from_later_tokens():
    model = small_model("f", {"ngrams": BIGRAMS, "token_shift": False})
    tokens = torch.randint(0, 11, (1, 12))
    other = tokens.clone()
    other[0, 8:] = (tokens[0, 8:] + 1) % 11
    one, two = model(tokens)[0][0], model(other)[0][0]
    assert torch.equal(one[:8], two[:8])
    assert not torch.equal(one[8], two[8])


def test_bigrams_are_counted_and_described():
    ngrams = {"heads": 4, "clusters": 64, "table_size": 1000, "width": 4}
    config = small_config("qf", {"ngrams": ngrams})
    described, plain = describe(config), describe(small_config("qf"))
    own = 4 * 1000 * 4 + 64 * 16 + 2 * 16 + 2 * 4 * 4  # tables, centroids, gains and biases
    assert described.parameters == plain.parameters + own == build(config).parameter_count == count_parameters(config)
    assert described.body_parameters == plain.body_parameters
    assert "latent bigrams 4 x 1000 x 4, of 64 clusters" in described.embedding_shape
    _, state = build(config)(torch.zeros(1, 2, dtype=torch.long))
    assert described.state_bytes[1024] == sum(x.numel() * x.element_size() for x in tensors(state))


@pytest.mark.parametrize("ngrams", [{"heads": 16, "table_size": 500, "width": 4}, {"table_size": 0}])
def test_a_budget_is_met_with_bigrams(ngrams):
    config = sized("hybrid", parameters=400_000, vocab_size=512, settings={"ngrams": ngrams})
    assert abs(count_parameters(config) / 400_000 - 1) <= 0.01


def test_tables_learn_at_their_own_rate_and_centroids_not_at_all():
    model = small_model("qf", {"ngrams": BIGRAMS})
    hook = NGramsTrainingConfig(rate=2.5).build(model, Processes())
    config = TrainingConfig(optimizer={"weight_decay": 0.3})
    optimizers = make_optimizers(model, config, hook.parameter_groups())
    set_learning_rate(optimizers, 0.01)
    groups = {id(p): group for o in optimizers for group in o.param_groups for p in group["params"]}
    assert groups[id(model.ngrams.tables_NW)]["lr"] == pytest.approx(0.025)
    assert groups[id(model.ngrams.tables_NW)]["weight_decay"] == 0
    assert groups[id(model.embedding.weight_VD)]["lr"] == 0.01
    assert id(model.ngrams.centroids_HKE) not in groups


def test_without_a_mixer_bigrams_come_near_to_what_pairs_of_letters_tell(corpus_text):
    """In training text, a model that mixes no positions knows one letter; the counts of what follows are its bound."""
    frequent = "".join(letter for letter, _ in Counter(corpus_text).most_common(30))
    letters = torch.tensor([frequent.find(letter) + 1 for letter in corpus_text[:5000]])
    one, two = conditional_entropy(letters, 1), conditional_entropy(letters, 2)
    assert two < one - 0.4
    assert one - 0.02 < trained_on(letters, {"heads": 4, "table_size": 0}) < one + 0.1
    assert two - 0.02 < trained_on(letters, {"heads": 4, "clusters": 31, "table_size": 950, "width": 8}) < two + 0.15


def conditional_entropy(letters: torch.Tensor, order: int) -> float:
    """Return the nats of a letter given the ``order`` before it, by the counts of this very text."""
    contexts = Counter(tuple(letters[n : n + order].tolist()) for n in range(len(letters) - order))
    longer = Counter(tuple(letters[n : n + order + 1].tolist()) for n in range(len(letters) - order))
    total = sum(longer.values())
    return -sum(count / total * math.log(count / contexts[pair[:-1]]) for pair, count in longer.items())


def trained_on(letters: torch.Tensor, ngrams: dict[str, int]) -> float:
    """Return the nats that a model of one feed-forward block comes to on this text."""
    settings = {"ngrams": ngrams, "token_shift": False, "hidden_size": 64, "feed_forward": {"inner_size": 128}}
    model = build(small_config("f", settings, vocab_size=31), seed=0)
    optimizers = make_optimizers(model, TrainingConfig())
    for step in range(120):
        set_learning_rate(optimizers, 0.02 * (1 - step / 120))
        loss, _ = model.loss(letters[None, :-1], letters[None, 1:])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        model.observe(letters[None])
    return loss.item()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ngrams": {"heads": 3}}, "multiple of ngrams.heads"),
        ({"ngrams": {"heads": 2, "width": 9}}, "more than hidden_size / ngrams.heads"),
        ({"ngrams": {"clusters": 10, "table_size": 100}}, "choose less than 100"),
        ({"ngrams": BIGRAMS, "adaptive": {"cutoffs": [3]}}, "leave out adaptive or ngrams"),
    ],
)
def test_mistakes(settings, words):
    with pytest.raises(UserError, match=words):
        small_config("f", settings)
