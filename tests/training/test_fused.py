"""The kernels' steps are those of torch's AdamW and of the reference Muon; copies and versions follow the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from tests.conftest import small_model
from weft.layers.copies import bf16_copy, keep_copies
from weft.ops import cpu
from weft.ops.cpu import optimizer as passes
from weft.training import muon as module
from weft.training import optimizer as made
from weft.training.checkpoint import load_optimizer, optimizer_tensors
from weft.training.fused import FusedAdamW, FusedMuon
from weft.training.muon import Muon
from weft.training.optimizer import make_optimizers
from weft.training.orthogonalisation import Orthogonaliser
from weft.training.recipe import TrainingConfig
from weft.training.step import apply_gradients

pytestmark = pytest.mark.skipif(not cpu.available(), reason="without Numba torch's own run")

# Less than a register, as many numbers as several, a few more; more than a task.
SIZES = [(1,), (5,), (16,), (17,), (3, 11), (64, 32), (70_001,)]
# Wide, tall, square, long; widths that are no multiple of a register; too narrow for the kernels; rows of matrices.
SHAPES = [(24, 33)] * 3 + [(33, 24), (32, 32), (200, 24), (24, 200), (1, 40), (40, 8), (3, 20, 24), (4, 8, 3, 9)]
MUON = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95}


def start(shapes, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def give_gradients(parameters, seed: int, *, but_every: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for place, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if but_every and place % but_every == 0 else gradient


def test_steps_of_adamw_are_those_of_torch():
    ours, theirs = start(SIZES), start(SIZES)
    one, other = (
        kind([{"params": p[:4], "weight_decay": 0.0}, {"params": p[4:], "lr": 0.02}], lr=0.01, betas=(0.8, 0.95))
        for kind, p in ((FusedAdamW, ours), (AdamW, theirs))
    )
    for step in range(6):
        give_gradients(ours, step, but_every=step)
        give_gradients(theirs, step, but_every=step)
        if step == 4:
            one.factor = 0.25
            for parameter in theirs:
                if parameter.grad is not None:
                    parameter.grad *= 0.25
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for name, value in other.state[b].items():
            torch.testing.assert_close(one.state[a][name], value, rtol=1e-5, atol=1e-7)


def test_the_state_of_torchs_adamw_is_taken_up():
    ours, theirs = start(SIZES), start(SIZES)
    one, other = FusedAdamW(ours, lr=0.01), AdamW(theirs, lr=0.01, fused=True)
    give_gradients(theirs, 0)
    other.step()
    load_optimizer(one, {name: value.clone() for name, value in optimizer_tensors(other).items()})
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            a.copy_(b)
    for optimizer, parameters in ((one, ours), (other, theirs)):
        give_gradients(parameters, 1)
        optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert optimizer_tensors(one).keys() == optimizer_tensors(other).keys()


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("native", "tolerance"), [(False, 1e-4), (True, 0.05)])
def test_steps_of_muon_are_those_of_the_reference(monkeypatch, normalise, native, tolerance):
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: native)
    ours, theirs = start(SHAPES), start(SHAPES)
    one, other = (kind(p, **MUON, normalise=normalise) for kind, p in ((FusedMuon, ours), (Muon, theirs)))
    for step in range(5):
        give_gradients(ours, step, but_every=step)
        give_gradients(theirs, step, but_every=step)
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        length = MUON["lr"] * 0.2 * max(a.shape) ** 0.5
        assert (a - b).detach().norm() < tolerance * length * a.numel() ** 0.5
        assert one.state[a].keys() == other.state[b].keys()
        for name, value in other.state[b].items():
            torch.testing.assert_close(one.state[a][name], value, rtol=tolerance, atol=tolerance * 1e-2)


def torchs_own(monkeypatch) -> None:
    monkeypatch.setattr(made, "fits", lambda _: False)


@pytest.mark.parametrize("name", ["adamw", "normuon"])
def test_forty_steps_in_float32_are_the_reference_to_five_digits(monkeypatch, name):
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: False)
    config = TrainingConfig.model_validate({"precision": "fp32", "optimizer": {"name": name, "learning_rate": 1e-3}})
    tokens = torch.randint(11, (2, 3, 24), generator=torch.Generator().manual_seed(0))
    losses: list[list[float]] = []
    models = []
    for reference in (False, True):
        if reference:
            torchs_own(monkeypatch)
        model = small_model("qfaf", {"hidden_size": 32}).train()
        optimizers = make_optimizers(model, config)
        assert isinstance(optimizers[-1], FusedAdamW) == (not reference)
        losses.append([])
        models.append(model)
        for _ in range(40):
            loss, _ = model.loss(tokens[0], tokens[1])
            loss.backward()
            told = apply_gradients(optimizers, loss.detach(), 0.5)
            losses[-1].append(float(told[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][-1] < 0.9 * losses[0][0]
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert (a - b).norm() < 1e-3 * b.norm() + 1e-4


def test_the_norm_and_clipping_are_torchs():
    tensors = start(SIZES)
    assert passes.norm(tensors) == pytest.approx(float(nn.utils.get_total_norm(tensors)), rel=1e-6)
    assert passes.norm([torch.full((50_000,), float("nan"))]) != passes.norm(tensors)
    assert passes.norm([torch.tensor([float("inf")])]) == float("inf")


@pytest.mark.parametrize(("kind", "settings"), [(FusedAdamW, {"lr": 0.01}), (FusedMuon, {**MUON, "normalise": True})])
def test_copies_are_written_with_the_weights_and_autograd_hears_of_the_change(kind, settings):
    weights = start([(64, 48), (33, 40), (40, 33)])
    optimizer = kind(weights, **settings)
    keep_copies(weights, optimizer)
    copies = [bf16_copy(weight) for weight in weights]
    product = (weights[0] * weights[0]).sum()
    give_gradients(weights, 0)
    optimizer.step()
    for weight, copy in zip(weights, copies, strict=True):
        assert torch.equal(copy, weight.detach().to(torch.bfloat16))
        assert bf16_copy(weight) is copy
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_a_step_is_the_same_on_any_number_of_threads():
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            weights = start([(70_001,), (300, 400)])
            give_gradients(weights, 0)
            optimizer = FusedAdamW(weights, lr=0.1)
            optimizer.factor = 1 / passes.norm([weight.grad for weight in weights])
            optimizer.step()
            found.append(torch.cat([weight.detach().flatten() for weight in weights]))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def by_the_book(matrix: torch.Tensor) -> torch.Tensor:
    """The five steps in float64."""
    p, q, s = module.COEFFICIENTS
    x = matrix.double() / matrix.double().norm()
    for _ in range(module.STEPS):
        a = x @ x.t()
        x = p * x + (q * a + s * a @ a) @ x
    return x


def with_values(shape: tuple[int, int], kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator)
    if kind == "random":
        return matrix
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = {
        "ill-conditioned": torch.logspace(0, -6, min(shape)),
        "rank-deficient": (torch.arange(min(shape)) < min(shape) // 2).float(),
        "a small batch's": torch.logspace(-1.2, -3, min(shape)).index_fill(0, torch.tensor(0), 1.0),
        "one large": torch.full((min(shape),), 0.01).index_fill(0, torch.tensor(0), 1.0),
    }[kind]
    return (left * values) @ right


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


@pytest.mark.parametrize("kind", ["random", "ill-conditioned", "rank-deficient", "a small batch's", "one large"])
@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 1.22), (torch.float32, 1.205)])
def test_singular_values_end_near_one_in_batches_of_several_shapes(monkeypatch, kind, dtype, most):
    """As near to five steps in float64 as the steps come that are taken as they are written."""
    monkeypatch.setattr(module, "cpu_has_bf16", lambda: dtype == torch.bfloat16)
    shapes = [(96, 40), (40, 160), (72, 72), (40, 48)]
    matrices = [with_values(shape, kind) for shape in shapes]
    works = Orthogonaliser([(2, *shape) for shape in shapes], dtype)
    for update, matrix in zip(works.updates, matrices, strict=True):
        update[0] = matrix
        update[1] = 1e-3 * matrix
    works(torch.stack([update.float().norm(dim=(1, 2)) for update in works.updates]).flatten())
    for result, matrix in zip(works.results, matrices, strict=True):
        expected = by_the_book(matrix)
        as_written = module.orthogonalise(matrix[None])[0].double()
        for found in result.double():
            assert cosine(found, expected) > cosine(as_written, expected) - 3e-3
            values = torch.linalg.svdvals(found)
            assert values.max() < most
            if kind == "random":
                torch.testing.assert_close(values, torch.linalg.svdvals(expected), rtol=0.03, atol=0.03)
