"""The CPU's kernels against plain torch, and how they are run: threads, other threads, without Numba."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import small_model
from weft.layers.activations import relu_squared
from weft.layers.cross_entropy import cross_entropy
from weft.layers.norms import RMSNorm
from weft.ops import cpu, linear_recurrence
from weft.ops.cpu import launch


def against_float64(function, truth, *inputs):
    """Compare values and gradients of a function of float32 tensors with ``truth`` in float64."""
    ours = [x.detach().clone().requires_grad_() for x in inputs]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    mine, real = function(*ours), truth(*exact)
    weights = torch.randn(real.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    pairs = [(mine.double(), real)]
    pairs += zip(
        torch.autograd.grad(mine, ours, weights.float()), torch.autograd.grad(real, exact, weights), strict=True
    )
    for got, expected in pairs:
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 16), (3, 5, 144), (700, 32), (2, 3, 4, 72)])
def test_rms_norm(shape, monkeypatch):
    used = []
    forward = cpu.rms_norm_forward
    monkeypatch.setattr(cpu, "rms_norm_forward", lambda *a: used.append(1) or forward(*a))
    norm = RMSNorm(shape[-1])
    x, weight = torch.randn(shape) * 3, torch.randn(shape[-1])
    norm.weight.data.copy_(weight)
    y = norm(x.requires_grad_())
    exact, exact_weight = x.detach().double().requires_grad_(), weight.double().requires_grad_()
    truth = F.rms_norm(exact, exact_weight.shape, exact_weight, norm.eps)
    grad = torch.randn(shape)
    torch.testing.assert_close(y.double(), truth, rtol=1e-5, atol=1e-5)
    mine = torch.autograd.grad(y, [x, norm.weight], grad)
    for got, expected in zip(mine, torch.autograd.grad(truth, [exact, exact_weight], grad.double()), strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)
    assert used


@pytest.mark.parametrize("shape", [(16,), (3, 999), (40_000,)])
def test_relu_squared(shape):
    x = torch.randn(shape)
    assert cpu.usable(x)
    against_float64(relu_squared, lambda x: F.relu(x).square(), x)


@pytest.mark.parametrize("vocabulary", [8, 203, 4099])
def test_softmax_loss(vocabulary):
    hidden, weight = torch.randn(50, 16), torch.randn(vocabulary, 16)
    targets = torch.randint(0, vocabulary, (50,))
    targets[::7] = -100
    against_float64(
        lambda h, w: cross_entropy(h, w, None, targets),
        lambda h, w: F.cross_entropy(h @ w.t(), targets),
        hidden,
        weight,
    )


def test_softmax_loss_of_far_apart_logits_is_finite():
    logits = torch.tensor([[1e4, -1e4] + [0.0] * 20])
    nats = cpu.softmax_loss(logits, torch.tensor([1]), torch.tensor(1.0), gradient=True)
    assert nats.item() == pytest.approx(2e4)
    torch.testing.assert_close(logits[0, :2], torch.tensor([1.0, -1.0]))


def both_ways(monkeypatch, how):
    """Return a model's loss and gradients with the kernels and with ``how`` applied."""
    model = small_model("qfaf", {"hidden_size": 16})
    tokens = torch.randint(0, 11, (3, 90), generator=torch.Generator().manual_seed(0))

    def once():
        model.zero_grad()
        loss, _ = model.loss(tokens, tokens.roll(-1, 1), None, tokens == 3)
        loss.backward()
        return [loss.detach(), *[p.grad.clone() for p in model.parameters() if p.grad is not None]]

    ours = once()
    how(monkeypatch)
    return ours, once()


def without_kernels(monkeypatch):
    monkeypatch.setattr(cpu, "available", lambda: False)


def by_other_threads(monkeypatch):
    monkeypatch.setattr(launch, "openmp", lambda: None)
    monkeypatch.setattr(cpu, "_threads", lambda _: 3)


def by_three_threads(monkeypatch):
    monkeypatch.setattr(cpu, "_threads", lambda _: 3)


@pytest.mark.parametrize("how", [without_kernels, by_other_threads, by_three_threads])
def test_a_model_trains_the_same_however_the_kernels_run(monkeypatch, how):
    for got, expected in zip(*both_ways(monkeypatch, how), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="torch's OpenMP is GNU's on Linux")
def test_kernels_run_on_torchs_own_threads():
    assert launch.openmp() is not None


@pytest.mark.parametrize("why", ["is missing", "cannot be imported"])
def test_without_numba_it_is_said_once(monkeypatch, why):
    if why == "is missing":
        monkeypatch.setattr(cpu, "_FOUND", False)
    else:
        monkeypatch.setitem(sys.modules, "numba", None)  # as one that does not fit NumPy
    cpu._imports.cache_clear()
    try:
        with pytest.warns(UserWarning, match=f"Numba {why}.*pip install --upgrade numba"):
            assert not cpu.available()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            cells, _ = linear_recurrence(torch.rand(1, 4, 8), torch.rand(1, 4, 8))
        assert cells.shape == (1, 4, 8)
    finally:
        cpu._imports.cache_clear()


def test_targets_outside_the_vocabulary_are_refused_and_int32_ones_are_taken():
    hidden, weight, targets = torch.randn(4, 8), torch.randn(16, 8), torch.tensor([3, -100, 0, 15])
    whole = cross_entropy(hidden, weight, None, targets)
    torch.testing.assert_close(cross_entropy(hidden, weight, None, targets.int()), whole)
    with pytest.raises(IndexError, match="target 16 is outside the vocabulary of 16"):
        cross_entropy(hidden, weight, None, targets + 1)


def test_code_of_sources_that_are_no_more_is_removed():
    old = launch.cache_folder().parent.with_name("kernels-old")
    old.mkdir(exist_ok=True)
    launch.cache_folder.cache_clear()
    assert launch.cache_folder().is_dir()
    assert not old.exists()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_waits_for_the_threads_that_write(monkeypatch, threads):
    started, done = launch.ThreadPoolExecutor(threads), []
    begun = [started.submit(lambda: (time.sleep(0.2), done.append(True))) for _ in range(threads)]
    waited = launch.wait
    interrupts = iter([KeyboardInterrupt()])

    def interrupted(futures):
        for interrupt in interrupts:
            raise interrupt
        return waited(futures)

    monkeypatch.setattr(launch, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        launch._wait(begun)
    assert len(done) == threads


def test_nothing_of_numba_is_imported_before_a_kernel_is_needed():
    code = "import sys, weft.model, weft.ops; sys.exit('numba' in sys.modules or 'triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_machine_code_is_kept_where_the_sources_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path))
    monkeypatch.setattr(launch.os, "access", lambda path, _: str(path).startswith(str(tmp_path)))
    launch.cache_folder.cache_clear()
    try:
        assert launch.cache_folder().is_relative_to(tmp_path / "weft-kernels")
    finally:
        launch.cache_folder.cache_clear()


def test_another_default_precision_changes_nothing():
    model = small_model("qfaf", {"hidden_size": 32})
    tokens = torch.randint(0, 11, (2, 40), generator=torch.Generator().manual_seed(0))

    def gradients():
        model.zero_grad()
        model.loss(tokens, tokens.roll(-1, 1))[0].backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    expected = gradients()
    torch.set_default_dtype(torch.float64)
    try:
        found = gradients()
    finally:
        torch.set_default_dtype(torch.float32)
    for got, right in zip(found, expected, strict=True):
        torch.testing.assert_close(got, right)
