"""Muon's steps are torch's, matrix by matrix; a step that must change nothing changes nothing."""

from __future__ import annotations

import pytest
import torch

from weft.training import muon as module
from weft.training.checkpoint import load_optimizer, optimizer_tensors
from weft.training.muon import Muon, orthogonalise

# Wide, tall, square, long ones that take the other way, and single ones.
SHAPES = [(24, 16)] * 3 + [(16, 48)] * 2 + [(16, 16)] * 2 + [(96, 16), (1, 8)]
SETTINGS = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95}


def start(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]


def take_steps(optimizer, parameters, number: int, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def farthest(ours, theirs) -> float:
    """The largest difference in units of a step's typical size, 0.2 x the learning rate x sqrt(largest side)."""
    pairs = zip(ours, theirs, strict=True)
    return max(float((a - b).detach().abs().max()) / (0.2 * SETTINGS["lr"] * max(a.shape) ** 0.5) for a, b in pairs)


@pytest.mark.parametrize(("native", "tolerance"), [(True, 1e-4), (False, 0.05)])
def test_steps_are_those_of_torch(monkeypatch, native, tolerance):
    """To rounding in torch's bfloat16; in float32 as far as bfloat16 is from the truth."""
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: native)
    ours, theirs = start(), start()
    one, other = Muon(ours, **SETTINGS), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **SETTINGS)
    take_steps(one, ours, 6)
    take_steps(other, theirs, 6)
    assert farthest(ours, theirs) < tolerance
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(one.state[a]["momentum_buffer"], other.state[b]["momentum_buffer"])


def stepwise(matrix: torch.Tensor) -> torch.Tensor:
    """The five steps in float64, as they are defined."""
    x = matrix.double()
    x = x / x.norm()
    p, q, s = module.COEFFICIENTS
    for _ in range(module.STEPS):
        a = x @ x.t()
        x = p * x + (q * a + s * a @ a) @ x
    return x


@pytest.mark.parametrize("shape", [(32, 32), (32, 40), (40, 32), (32, 200), (200, 32)])
@pytest.mark.parametrize("smallest", [1e-2, 1e-8])
def test_both_ways_to_orthogonalise_are_exact_however_the_singular_values_are_spread(monkeypatch, shape, smallest):
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: False)
    generator = torch.Generator().manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape, generator=generator), full_matrices=False)
    values = torch.logspace(0, torch.tensor(smallest).log10().item(), min(shape))
    matrix = (left * values) @ right
    found = orthogonalise(torch.stack([matrix, 7 * matrix]))
    expected = stepwise(matrix)
    assert torch.linalg.matrix_norm(found.double() - expected, 2).max() < 2e-3 * torch.linalg.matrix_norm(expected, 2)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_step_to_be_left_out_changes_nothing_whatever_the_gradient(normalise):
    parameters = start()
    optimizer = Muon(parameters, **SETTINGS, normalise=normalise)
    take_steps(optimizer, parameters, 2)
    before = [parameter.detach().clone() for parameter in parameters]
    momenta = {key: value.clone() for key, value in optimizer_tensors(optimizer).items()}
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))
    after = optimizer_tensors(optimizer)
    assert all(torch.equal(value, after[key]) for key, value in momenta.items())
    optimizer.found_inf = torch.tensor(0.0)
    take_steps(optimizer, parameters, 1)
    assert all(parameter.isfinite().all() for parameter in parameters)


def test_parameters_without_a_gradient_stay_and_come_back():
    ours, theirs = start(), start()
    one, other = Muon(ours, **SETTINGS), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **SETTINGS)
    for optimizer, parameters in ((one, ours), (other, theirs)):
        take_steps(optimizer, parameters, 2)
        for parameter in parameters[::2]:
            parameter.grad = None
        optimizer.step()
        take_steps(optimizer, parameters, 2, seed=2)
    assert farthest(ours, theirs) < 0.05
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.state[a]["momentum_buffer"], other.state[b]["momentum_buffer"])


def test_the_state_of_torchs_muon_is_taken_up():
    ours, theirs = start(), start()
    other = torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **SETTINGS)
    take_steps(other, theirs, 3)
    one = Muon(ours, **SETTINGS)
    load_optimizer(one, optimizer_tensors(other))
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            a.copy_(b)
    take_steps(one, ours, 2, seed=3)
    take_steps(other, theirs, 2, seed=3)
    assert farthest(ours, theirs) < 0.05


def test_normuons_steps_are_those_of_its_definition(monkeypatch):
    """Matrix by matrix, from orthogonalised momenta, with rows or columns evened by their own running squares."""
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: False)
    ours, theirs = start(), start()
    optimizer = Muon(ours, **SETTINGS, normalise=True)
    momenta = [torch.zeros_like(parameter) for parameter in theirs]
    seconds = [0.0] * len(theirs)
    rate, momentum, decay = SETTINGS["lr"], SETTINGS["momentum"], SETTINGS["weight_decay"]
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for place, parameter in enumerate(theirs):
            gradient = torch.randn(parameter.shape, generator=generator)
            ours[place].grad = gradient
            momenta[place] = momentum * momenta[place] + (1 - momentum) * gradient
            update = stepwise((1 - momentum) * gradient + momentum * momenta[place]).float()
            along = 1 if parameter.shape[0] > parameter.shape[1] else 0
            seconds[place] = 0.95 * seconds[place] + 0.05 * update.square().mean(along, keepdim=True)
            evened = update / seconds[place].sqrt()
            evened *= update.norm() / evened.norm()
            step = 0.2 * rate * max(parameter.shape) ** 0.5 * evened
            theirs[place] = (1 - rate * decay) * parameter.detach() - step
        optimizer.step()
    assert farthest(ours, theirs) < 2e-3


def test_normuon_goes_on_from_its_saved_state():
    straight, ours = start(), start()
    one = Muon(straight, **SETTINGS, normalise=True)
    take_steps(one, straight, 5)
    other = Muon(ours, **SETTINGS, normalise=True)
    take_steps(other, ours, 5)
    again = Muon(ours, **SETTINGS, normalise=True)
    load_optimizer(again, optimizer_tensors(other))
    take_steps(one, straight, 2, seed=5)
    take_steps(again, ours, 2, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(straight, ours, strict=True))


@pytest.mark.parametrize("normalise", [False, True])
def test_rows_of_matrices_and_local_tensors_are_taken_as_the_matrices_that_they_are(normalise):
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(shape, generator=generator).requires_grad_() for shape in ((3, 8, 12), (4, 2, 3, 6))]
    apart = [*(part.detach().clone() for part in whole[0]), whole[1].detach().clone().view(8, 18)]
    apart = [part.requires_grad_() for part in apart]
    one, other = Muon(whole, **SETTINGS, normalise=normalise), Muon(apart, **SETTINGS, normalise=normalise)
    for _ in range(3):
        gradients = [torch.randn(parameter.shape, generator=generator) for parameter in whole]
        for parameter, gradient in zip(whole, gradients, strict=True):
            parameter.grad = gradient
        for parameter, gradient in zip(apart, [*gradients[0], gradients[1].view(8, 18)], strict=True):
            parameter.grad = gradient.clone()
        one.step()
        other.step()
    assert torch.allclose(whole[0], torch.stack(apart[:3]), atol=1e-5)
    assert torch.allclose(whole[1].flatten(), apart[3].flatten(), atol=1e-5)
