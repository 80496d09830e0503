"""A compiled loss is one graph with the same numbers; where it cannot be had, that is said."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.conftest import small_model
from tests.training.test_run import events
from tests.training.test_step import segment
from weft.errors import UserError
from weft.layers.state import tensors
from weft.training import compilation
from weft.training.compilation import compile_loss, training_loss
from weft.training.listener import Silent
from weft.training.objective import ForwardPass, LanguageModelling
from weft.training.recipe import make_recipe, parse_settings
from weft.training.run import train

CPU = torch.device("cpu")
# What torch's tracing says of autograd functions and of caches that it looks through; nothing is wrong with either.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:(?s).*lru_cache:UserWarning"),
]


@pytest.fixture
def backend(monkeypatch):
    """Compile with a backend that counts its graphs and is there everywhere."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compilation, "BACKEND", counter)
    yield counter
    torch._dynamo.reset()


def numbers(model, loss) -> list[torch.Tensor]:
    """Losses, gradients and states of a few segments, the state carried from one to the next."""
    step, state, found = ForwardPass(model, loss, model.empty_state(2, CPU)), tensors(model.empty_state(2, CPU)), []
    torch.manual_seed(0)
    for seed in range(3):
        model.zero_grad()
        nats, *state = step(*segment(seed), *state)
        nats.backward()
        found += [nats.detach(), *(p.grad.clone() for p in model.parameters()), *state]
    return found


@pytest.mark.parametrize(
    ("pattern", "settings", "checkpointed"),
    [("xqfa", {}, False), ("qfa", {"dropout": 0.1}, True), ("qf", {"adaptive": {"cutoffs": [4, 8]}}, False)],
    ids=["plain", "checkpointed", "adaptive"],
)
def test_the_loss_is_one_graph_with_the_same_numbers(backend, pattern, settings, checkpointed):
    model = small_model(pattern, settings).train()
    model.checkpoint_activations = checkpointed
    compiled = numbers(model, compile_loss(model))
    assert backend.frame_count == 1
    for ours, theirs in zip(compiled, numbers(model, model.loss), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_in_bf16_it_is_one_graph_too(backend):
    """As on a GPU, where autocast is around the loss."""
    model = small_model("xqfa").train()
    with torch.autocast("cpu", torch.bfloat16):
        compiled, plain = numbers(model, compile_loss(model)), numbers(model, model.loss)
    assert backend.frame_count == 1
    assert [part.dtype for part in compiled] == [part.dtype for part in plain]
    ours, theirs = (torch.cat([part.flatten().float() for part in found]) for found in (compiled, plain))
    assert (ours - theirs).norm() < 0.01 * theirs.norm()  # as far as bfloat16 goes


def test_a_whole_run_is_compiled_once(tiny, tmp_path, backend):
    # A compiled model rounds in other places, of which bfloat16 and Muon's steps of one size make much.
    exact = {"precision": "fp32", "optimizer": {"name": "adamw"}}
    settings = {**exact, "batch": {"accumulation": 2}, "logging": {"samples": 1}}
    values = tiny(training={"compile": "on", **settings})
    train(values, tmp_path / "compiled")
    assert backend.frame_count == 1  # validation and samples, of other lengths, are not compiled
    train(tiny(training=settings), tmp_path / "plain")
    ours, theirs = (
        [r["loss"] for r in events(tmp_path / name) if r["event"] == "train"] for name in ("compiled", "plain")
    )
    assert ours == pytest.approx(theirs, rel=1e-3)


def failing(graph, inputs):
    raise RuntimeError("No working C++ compiler found")


def chosen(model, choice: str, device: str = "cpu", sharded: bool = False, said: list[str] | None = None):
    def attempt(loss) -> None:
        loss(*segment()[:2], model.empty_state(2, CPU), segment()[2])[0].backward()

    say = [].append if said is None else said.append
    objective = LanguageModelling(model)
    return training_loss(objective, choice, device=torch.device(device), sharded=sharded, attempt=attempt, say=say)


def test_without_a_compiler_on_is_an_error_and_auto_goes_on_without(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(compilation, "BACKEND", failing)
    model, said = small_model("q").train(), []
    with pytest.raises(UserError, match="cannot compile the model .*No working C.. compiler found.*compile=off"):
        chosen(model, "on")
    assert chosen(model, "auto", device="cuda", said=said).__func__ is LanguageModelling.loss  # not a compiled one
    assert "No working C++ compiler found" in said[-1]


def test_what_is_not_wanted_is_not_compiled(backend):
    model = small_model("q").train()
    for choice, device, sharded in (("off", "cuda", False), ("auto", "cpu", False), ("auto", "cuda", True)):
        assert chosen(model, choice, device, sharded).__func__ is LanguageModelling.loss
    assert backend.frame_count == 0
    with pytest.raises(UserError, match="sharded model cannot be compiled"):
        chosen(model, "on", sharded=True)


@pytest.mark.parametrize(("text", "meant"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")])
def test_the_words_on_and_off_reach_the_recipe(text, meant):
    """YAML takes a bare on for true."""
    assert make_recipe(parse_settings([f"training.compile={text}"])).training.compile == meant
    with pytest.raises(UserError, match="compile"):
        make_recipe(parse_settings(["training.compile=perhaps"]))


def test_checkpointed_activations_reach_the_run(tiny, tmp_path):
    train(tiny(model={"dropout": 0.1}), tmp_path / "plain", listener=Silent())
    train(tiny(model={"dropout": 0.1}, training={"checkpoint_activations": True}), tmp_path / "again")
    ours, theirs = ([r["loss"] for r in events(tmp_path / n) if r["event"] == "train"] for n in ("plain", "again"))
    assert ours == theirs
