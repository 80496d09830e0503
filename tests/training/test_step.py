"""A step on the device: it begins with an empty state, is left out where not finite, and can do with less memory."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from tests.conftest import small_model
from weft.baselines import llama
from weft.layers.state import detach, tensors
from weft.training.checkpoint import optimizer_tensors
from weft.training.objective import ForwardPass, rebuild
from weft.training.optimizer import make_optimizers
from weft.training.recipe import TrainingConfig
from weft.training.step import apply_gradients, clear_if_

CPU = torch.device("cpu")
MODELS = [
    ("qfaf", "modern", {}),
    ("xqf", "modern", {}),
    ("afq", "classic", {}),
    ("q2", "modern", {"qrnn": {"kernel_size": 1}}),
]
NOISE = {"dropout": 0.2, "qrnn": {"zoneout": 0.2}, "attention": {"dropout": 0.1}, "feed_forward": {"dropout": 0.1}}


def segment(seed: int = 0, batch_size: int = 2, length: int = 6) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens, targets = torch.randint(0, 11, (2, batch_size, length), generator=generator).unbind()
    return tokens, targets, torch.rand((batch_size, length), generator=generator) < 0.2


@pytest.mark.parametrize(("pattern", "preset", "settings"), MODELS)
def test_an_empty_state_is_like_none_and_as_large_as_later_ones(pattern, preset, settings):
    model = small_model(pattern, settings, preset)
    tokens, targets, reset = segment(length=7)
    reset[:, 0] = False
    empty = model.empty_state(2, CPU)
    fresh, _ = model.loss(tokens, targets, None, reset)
    loss, after = model.loss(tokens, targets, empty, reset)
    torch.testing.assert_close(loss, fresh, rtol=1e-5, atol=1e-6)
    assert [part.shape for part in tensors(after)] == [part.shape for part in tensors(empty)]
    assert [part.dtype for part in tensors(after)] == [part.dtype for part in tensors(empty)]


def test_a_state_with_nan_in_it_is_emptied_or_left():
    model = small_model("qfaf")
    _, state = model.hidden(segment()[0])
    state = rebuild(state, [part.detach().clone() for part in tensors(state)])
    before = [part.clone() for part in tensors(state)]
    clear_if_(torch.tensor(0.0), state)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(state), strict=True))
    tensors(state)[0].fill_(float("nan"))
    clear_if_(torch.tensor(1.0), state)
    assert not any(part.any() for part in tensors(state))


def test_the_wrapped_step_gives_the_loss_and_the_state_as_they_are():
    model = small_model("xqfa")
    empty = model.empty_state(2, CPU)
    tokens, targets, reset = segment()
    loss, *parts = ForwardPass(model, model.loss, empty)(tokens, targets, reset, *tensors(empty))
    expected, after = model.loss(tokens, targets, empty, reset)
    assert torch.equal(loss, expected)
    assert all(torch.equal(a, b) for a, b in zip(parts, tensors(detach(after)), strict=True))
    assert not any(part.requires_grad for part in parts)
    assert all(part.is_contiguous() for part in parts)


@pytest.mark.parametrize("optimizer", ["muon", "normuon", "adamw"])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_what_is_not_finite_changes_nothing(optimizer, bad):
    model = small_model("qfaf").train()
    optimizers = make_optimizers(model, TrainingConfig(optimizer={"name": optimizer}))

    def step(factor: float, shown: float = 0.0) -> torch.Tensor:
        loss, _ = model.loss(*segment()[:2], None, segment()[2])
        (loss * factor).backward()
        return apply_gradients(optimizers, loss.detach() + shown, 1.0)

    good = step(1.0)
    assert good[2] == 0
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    states = [{k: v.clone() for k, v in optimizer_tensors(each).items()} for each in optimizers]
    told = step(1.0, float("inf")) if bad == "loss" else step(float("nan"))
    assert told[2] == 1
    assert not told[:2].isfinite().all()
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    for each, before in zip(optimizers, states, strict=True):
        after = optimizer_tensors(each)
        assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert all(p.grad is None for p in model.parameters())
    assert step(1.0)[2] == 0
    assert any(not torch.equal(p, weights[name]) for name, p in model.named_parameters())


def gradients_and_kept(model, remembered) -> tuple[list[torch.Tensor], int]:
    """The loss, the gradients and the new state; and the bytes kept for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    torch.manual_seed(3)
    model.zero_grad()
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, state = model.loss(*segment(batch_size=4, length=40)[:2], remembered, segment(batch_size=4, length=40)[2])
        held = sum(size for place, size in kept.items() if place not in own)
    loss.backward()
    found = [loss.detach(), *(parameter.grad for parameter in model.parameters()), *tensors(detach(state))]
    return found, held


@pytest.mark.parametrize(("pattern", "preset"), [("qfafqf", "modern"), ("[xf]3", "modern"), ("afaf", "classic")])
def test_checkpointed_activations_give_the_same_numbers_from_less_memory(pattern, preset):
    model = small_model(pattern, NOISE, preset).train()
    remembered = model.empty_state(4, CPU)
    plain, much = gradients_and_kept(model, remembered)
    model.checkpoint_activations = True
    again, little = gradients_and_kept(model, remembered)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert little < 0.5 * much
    model.eval()
    assert torch.equal(model(segment()[0])[0], model(segment()[0])[0])


def test_a_baseline_checkpoints_its_layers_too():
    model = llama.build(llama.sized(parameters=60_000, vocab_size=300, context=16), seed=0).train()
    tokens, targets, reset = segment()
    losses, gradients = [], []
    for _ in range(2):
        model.zero_grad()
        loss, _ = model.loss(tokens, targets, None, reset)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.checkpoint_activations = True
    assert torch.equal(*losses)
    assert torch.equal(*gradients)
    assert all(layer.gradient_checkpointing for layer in model.blocks)
