"""Recurrent stacking: blocks that are applied several times, started from another model's, taught, and taken apart."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import weft
from tests.command import assert_mistake, run_weft
from tests.conftest import BIGRAMS, MAPS, small_model
from tests.training.test_run import Hear, StopAt, assert_same_run, last_weights
from weft.compress.unshare import unshare_blocks
from weft.config import merge
from weft.errors import Interrupted, UserError
from weft.layers.state import tensors
from weft.model_recipe import ModelRecipe
from weft.pattern import expand, reapplied
from weft.pretrained import load_model
from weft.training.methods.distillation import Distillation, DistillationConfig
from weft.training.recipe import make_recipe
from weft.training.run import train
from weft.training.transfer import candidates, transferred

CPU = torch.device("cpu")


def taught_by(run):
    return {"distillation": {"run": str(run)}}


@pytest.mark.parametrize(
    ("pattern", "times", "expected"),
    [("[qf]3", 2, "[qf]2"), ("q[af]2 f", 5, "q[af]5 f"), ("[q[f]2]3a[x]", 4, "[q[f]2]4a[x]4"), ("[qf] 3", 1, "[qf]1")],
)
def test_applications_of_a_pattern(pattern, times, expected):
    assert reapplied(expand(pattern), times) == expand(expected)


def test_a_pattern_that_repeats_nothing_has_no_applications():
    with pytest.raises(UserError, match="has no '\\[ \\]'"):
        reapplied(expand("(qf)3"), 2)


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["[qfa]3", "q[af]2[x]2", "[q[f]2]2a"])
@pytest.mark.parametrize("settings", [{}, {"maps": MAPS}, {"ngrams": BIGRAMS}])
def test_unshared_says_the_same_and_each_application_has_its_own(pattern, settings):
    model = small_model(pattern, settings)
    apart = unshare_blocks(model)
    assert expand(apart.config.pattern) == apart.config.stack
    assert apart.schedule == tuple(range(len(model.schedule)))
    tokens = torch.randint(0, 11, (2, 12))
    whole, end = model(tokens)
    ours, state = apart(tokens)
    assert torch.equal(ours, whole)
    assert all(map(torch.equal, tensors(state), tensors(end)))
    own = {parameter.data_ptr() for parameter in apart.parameters()}
    assert len(own) == len(list(apart.parameters()))


@torch.no_grad()
def test_equal_layers_are_one_that_is_applied_often():
    """A model of its own layers, all equal, computes what the stack does that shares them."""
    model = small_model("[qf]3")
    apart = unshare_blocks(model)
    together = small_model("(qf)3")
    together.load_state_dict(apart.state_dict())
    tokens = torch.randint(0, 11, (2, 12))
    assert torch.equal(together(tokens)[0], model(tokens)[0])


@pytest.fixture
def parent(tiny, tmp_path):
    train(tiny(model={"pattern": "(qf)3"}, training={"logging": {"samples": 0}, "steps": 20}), tmp_path / "parent")
    return tmp_path / "parent"


def test_a_stack_starts_from_a_trained_layer(tiny, tmp_path, parent):
    values = tiny(
        model={"pattern": "[qf]3"},
        training={"logging": {"samples": 0}, "start": {"block": 2}, "optimizer": {"learning_rate": 1e-9}},
    )
    train(values, tmp_path / "child", init_from=parent)
    ours, theirs = load_model(tmp_path / "child"), load_model(parent)
    assert ours.config.pattern == "[qf]3"
    for block in range(2):
        for name, parameter in ours.blocks[block].named_parameters():
            torch.testing.assert_close(parameter, dict(theirs.blocks[block + 2].named_parameters())[name])
    torch.testing.assert_close(ours.embedding.weight_VD, theirs.embedding.weight_VD)
    torch.testing.assert_close(ours.norm.weight, theirs.norm.weight)


def test_the_best_layer_is_taken(tiny, tmp_path, parent):
    heard, bits = Hear(), {}
    values = tiny(
        model={"pattern": "[qf]3"},
        training={"logging": {"samples": 0}, "optimizer": {"learning_rate": 1e-9}, "steps": 1},
    )
    for first in (0, 2, 4):
        run = train(merge(values, {"training": {"start": {"block": first}}}), tmp_path / f"{first}", init_from=parent)
        bits[first] = run.validation.bits_per_byte
    best = train(
        merge(values, {"training": {"start": {"block": "best"}}}), tmp_path / "best", init_from=parent, listener=heard
    )
    assert best.validation.bits_per_byte == pytest.approx(min(bits.values()))
    assert any(f"Starting from block {min(bits, key=bits.get)}" in line for line in heard.lines)


def test_blocks_that_do_not_fit_are_told(tiny, tmp_path, parent):
    for changes, words in (
        ({"model": {"pattern": "[fq]3"}, "training": {"start": {"block": 0}}}, "begin at 1, 3, not at 0"),
        ({"model": {"pattern": "[qa]3"}, "training": {"start": {"block": 0}}}, "has no blocks qa in a row"),
        ({"model": {"pattern": "[qf]3", "hidden_size": 24}, "training": {"start": {"block": 0}}}, "model.hidden_size"),
        ({"model": {"pattern": "[qf]3", "ngrams": BIGRAMS}, "training": {"start": {"block": 0}}}, "model.ngrams.heads"),
        (
            {"model": {"pattern": "{qf}3"}, "training": {"start": {"block": 0}}},
            "with some of qfqfqf, or leave model.maps and { } out",
        ),
        (
            {"model": {"pattern": "[qf]3", "parameters": 50_000}, "training": {"start": {"block": 0}}},
            "model.parameters",
        ),
        ({"training": {"start": {"block": "first"}}}, "a block is a number from 0, or 'best', not 'first'"),
        ({"training": {"methods": taught_by(parent), "compile": "on"}}, "with distillation nothing is compiled"),
    ):
        with pytest.raises(UserError, match=words):
            train(merge(tiny(), changes), tmp_path / "child", init_from=parent)


@pytest.mark.parametrize(
    ("pattern", "maps", "child", "fitting"),
    [
        ("(qf)3", {"feed_forward": {"kind": "low_rank", "rank": 4}}, "[qf]3", [0, 2, 4]),  # the first of them dense
        ("(qf)3", {"qrnn": {"kind": "low_rank", "rank": 4}}, "[qf]3", [0, 2, 4]),
        ("{qf}4", {}, "{qf}3", [0, 2]),
    ],
)
def test_blocks_of_structured_and_shared_maps(tiny, tmp_path, pattern, maps, child, fitting):
    train(
        tiny(model={"pattern": pattern, "maps": maps}, training={"logging": {"samples": 0}, "steps": 4}),
        tmp_path / "parent",
    )
    parent = load_model(tmp_path / "parent")
    found = candidates(parent.config, ModelRecipe(pattern=child), tmp_path / "parent")
    start = lambda block: transferred(found, tmp_path / "parent", block, None, 0, print)  # noqa: E731
    for first in fitting:
        ours = start(first)
        for block in range(len(ours.blocks)):
            theirs = dict(parent.blocks[first + block].named_parameters())
            assert all(torch.equal(x, theirs[name]) for name, x in ours.blocks[block].named_parameters())
    with pytest.raises(UserError, match=f"begin at {', '.join(map(str, fitting))}, not at 1"):
        start(1)


def test_blocks_of_no_run_are_told():
    with pytest.raises(UserError, match="name the run"):
        make_recipe({"training": {"start": {"block": 0}}})


def test_the_loss_of_a_student_by_hand():
    student, teacher = small_model("qf", seed=1).train(), small_model("qa", seed=2)
    config = DistillationConfig(run="", weight=0.6, temperature=2.0, hidden=0.5)
    tokens = torch.randint(0, 11, (2, 9))
    targets = torch.randint(0, 11, (2, 9))
    targets[:, 3] = -100
    state = (student.empty_state(2, CPU), teacher.empty_state(2, CPU))
    reset = tokens == 3  # where documents begin
    loss, _ = Distillation(student, teacher, config).loss(tokens, targets, state, reset)
    (ours, _), (theirs, _) = student.hidden(tokens, None, reset), teacher.hidden(tokens, None, reset)
    scored = targets >= 0
    logs = F.log_softmax(student.embedding.logits(ours) / 2, -1)
    soft = -(F.softmax(teacher.embedding.logits(theirs) / 2, -1) * logs).sum(-1)[scored].mean()
    hard = F.cross_entropy(student.embedding.logits(ours)[scored], targets[scored])
    distance = (ours - theirs).square().mean(-1)[scored].mean()
    expected = 0.4 * hard + 0.6 * 4 * soft + 0.5 * distance
    torch.testing.assert_close(loss, expected)
    parameters = list(student.parameters())
    taken = torch.autograd.grad(loss, parameters, allow_unused=True)
    for one, other in zip(taken, torch.autograd.grad(expected, parameters, allow_unused=True), strict=True):
        torch.testing.assert_close(one, other)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_a_taught_run_goes_on_bit_for_bit_and_reads_its_teachers_tokens(tiny, tmp_path, parent):
    values = tiny(model={"pattern": "[qf]2"}, training={"methods": taught_by(parent), "logging": {"samples": 0}})
    train(values, tmp_path / "straight")
    with pytest.raises(Interrupted):
        train(values, tmp_path / "stopped", listener=StopAt(5, 15))
    train({}, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "stopped")
    alone = merge(values, {"training": {"methods": {"distillation": None}}})
    train(alone, tmp_path / "alone")
    taught, untaught = last_weights(tmp_path / "straight"), last_weights(tmp_path / "alone")
    assert any(not torch.equal(taught[name], untaught[name]) for name in taught)
    other = merge(values, {"data": {"tokenizer": "characters"}})
    with pytest.raises(UserError, match="training.methods.distillation.run takes the tokenizer"):
        train(other, tmp_path / "other")


def test_commands(tiny, tmp_path, parent, corpus):
    child = tmp_path / "child"
    ran = run_weft(
        "train", corpus, "--pattern", "[qf]3", "--init-from", parent, "--init-block", "best", "--teacher", parent,
        "--steps", 3, "--out", child,
        "--set", "training.batch.batch_size=4", "--set", "training.batch.sequence_length=32",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    once, thrice = (run_weft("evaluate", child, "--applications", n, "--json").json() for n in (1, 3))
    assert thrice["bits_per_byte"] == run_weft("evaluate", child, "--json").json()["bits_per_byte"]
    assert once["bits_per_byte"] != thrice["bits_per_byte"]
    assert run_weft("generate", child, "--applications", 2, "--max-new-tokens", 5).code == 0
    told = run_weft("unshare", child, "--out", tmp_path / "apart", "--json").json()
    assert told["parameters"] > told["before"]
    apart = weft.evaluate(tmp_path / "apart")
    assert apart.bits_per_byte == pytest.approx(thrice["bits_per_byte"], rel=1e-6)
    assert_mistake(run_weft("unshare", parent, "--out", tmp_path / "no"), "nothing to take apart")
    assert_mistake(run_weft("evaluate", parent, "--applications", 2), "has no '[ ]'")
