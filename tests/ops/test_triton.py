"""The GPU's kernels equal the plain loop, in value and in every gradient.

They run on a GPU where there is one, else in Triton's interpreter, which is slow: so the shapes are small, and chunks
and rows too, that a few steps cross every border.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import weft.ops.triton
from weft.ops import linear_recurrence_reference
from weft.ops.triton.division import CHUNK, Division, Tiling, divide, in_rows, row_stride

triton: Any = pytest.importorskip("triton", reason="Triton is not installed")

GATES = {"f": 2, "fo": 3, "ifo": 4}
SMALL = Tiling(chunk=3, width=8)
LAUNCHES = ("pooling", "recurrence", "pooling_kernels", "recurrence_kernels", "tile")
# In the interpreter numpy speaks of an exponential that is meant to overflow.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")


class Forms(NamedTuple):
    pooling: Any
    recurrence: Any
    device: str


def forget_modules() -> None:
    """Make the next import of the kernels a new one."""
    for name in LAUNCHES:
        sys.modules.pop(f"weft.ops.triton.{name}", None)
        vars(weft.ops.triton).pop(name, None)


@pytest.fixture(scope="module")
def forms() -> Iterator[Forms]:
    """The launches: for the GPU, or interpreted. Nothing that is interpreted stays behind for other tests."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    forget_modules()
    with pytest.MonkeyPatch.context() as patch:
        if device == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
            interpreter = importlib.import_module("triton.runtime.interpreter")
            interpreted = interpreter.InterpretedFunction
            # It would prepare Triton's whole language anew in each call of a function within a kernel.
            patch.setattr(interpreted, "__call__", lambda self, *args, **kwargs: self.rewrite()(*args, **kwargs))
            # It spreads the truth of a scalar as a number, and since Triton 3.9 takes no mask of numbers.
            spread = interpreter.InterpreterBuilder.create_splat

            def spread_truth(self: Any, kind: Any, value: Any) -> Any:
                if value.data.dtype == bool:
                    value = interpreter.TensorHandle(value.data, triton.language.int1)
                return spread(self, kind, value)

            patch.setattr(interpreter.InterpreterBuilder, "create_splat", spread_truth)
        yield Forms(*(importlib.import_module(f"weft.ops.triton.{name}") for name in LAUNCHES[:2]), device)
    forget_modules()


def resets(kind: str, batch: int, time: int) -> Tensor | None:
    if kind == "none":
        return None
    reset = torch.zeros(batch, time, dtype=torch.bool)
    if kind == "random":
        return torch.rand(batch, time, generator=torch.Generator().manual_seed(3)) < 0.4
    places = {"first": [0], "last": [time - 1], "all": list(range(time))}
    reset[0, places.get(kind, [*range(0, time, SMALL.chunk), *range(SMALL.chunk - 1, time, SMALL.chunk)])] = True
    return reset


def draw(*shape: int, seed: int, layout: str = "plain") -> Tensor:
    """Return random numbers, in memory as they are, with time first, with a gap after each step, or channels first."""
    generator = torch.Generator().manual_seed(seed)
    if layout == "time first" and len(shape) == 3:
        return torch.randn(shape[1], shape[0], shape[2], generator=generator, dtype=torch.float64).transpose(0, 1)
    if layout == "gap":
        return torch.randn(*shape[:-1], shape[-1] + 3, generator=generator, dtype=torch.float64)[..., : shape[-1]]
    if layout == "channels first":
        reversed_ = torch.randn(*shape[:-2], shape[-1], shape[-2], generator=generator, dtype=torch.float64)
        return reversed_.transpose(-1, -2)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def composed(gates: Tensor, cell: Tensor, reset: Tensor | None, pooling: str) -> tuple[Tensor, Tensor]:
    z, f, *rest = gates.chunk(GATES[pooling], dim=-1)
    forget = f.sigmoid()
    before = rest[1].sigmoid() if pooling == "ifo" else 1 - forget
    cells, last = linear_recurrence_reference(forget, before * z.tanh(), cell, reset)
    return (cells if pooling == "f" else rest[0].sigmoid() * cells), last


def compare(ours: tuple[Tensor, ...], truth: tuple[Tensor, ...], tolerance: float) -> None:
    for index, (mine, true) in enumerate(zip(ours, truth, strict=True)):
        assert mine.isfinite().all(), index
        torch.testing.assert_close(mine.cpu().double(), true.detach(), rtol=tolerance, atol=tolerance)


def check_pooling(
    forms: Forms,
    pooling: str,
    shape: tuple[int, int, int],
    parts: int | None = 1,
    kind: str = "none",
    layout: str = "plain",
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-12,
    tiling: Tiling | None = SMALL,
) -> None:
    batch, time, cells = shape
    gates = draw(batch, time, GATES[pooling] * cells, seed=1, layout=layout)
    cell, grad_last = draw(batch, cells, seed=2, layout=layout), draw(batch, cells, seed=4, layout=layout)
    grad_hidden = draw(batch, time, cells, seed=3, layout=layout)
    reset = resets(kind, batch, time)
    gates, grad_hidden = (x.to(dtype).double() for x in (gates, grad_hidden))  # as the kernels will see them
    bias = None if kind == "none" else draw(GATES[pooling] * cells, seed=6)
    inputs = [x.detach().clone().requires_grad_() for x in (gates, cell, *([] if bias is None else [bias]))]
    hidden, last = composed(inputs[0] if bias is None else inputs[0] + inputs[2], inputs[1], reset, pooling)
    grads = torch.autograd.grad([hidden, last], inputs, [grad_hidden, grad_last])

    real = torch.promote_types(dtype, torch.float32)
    place = {"device": forms.device}
    gates, grad_hidden = (x.to(**place, dtype=dtype) for x in (gates, grad_hidden))
    cell, grad_last = (x.to(**place, dtype=real) for x in (cell, grad_last))
    reset = reset if reset is None else reset.to(forms.device)
    bias = bias if bias is None else bias.to(**place, dtype=real)
    ours = forms.pooling.forward(gates, bias, cell, reset, pooling, tiling, parts)
    grad_gates, grad_bias, grad_cell = forms.pooling.backward(
        grad_hidden, grad_last, gates, bias, ours[2], reset, pooling, tiling, parts
    )
    assert [x.dtype for x in (*ours, grad_gates, grad_bias, grad_cell)] == [dtype, real, real, dtype, real, real]
    assert ours[1].untyped_storage().data_ptr() != cell.untyped_storage().data_ptr()
    back = (grad_gates, grad_cell) if bias is None else (grad_gates, grad_cell, grad_bias)
    compare((ours[0], ours[1], *back), (hidden, last, *grads), tolerance)


def check_recurrence(
    forms: Forms,
    shape: tuple[int, int, int],
    parts: int | None = 1,
    kind: str = "none",
    layout: str = "plain",
    dtype: torch.dtype = torch.float64,
    tolerance: float = 1e-12,
    tiling: Tiling | None = SMALL,
) -> None:
    batch, time, cells = shape
    forget, update, grad = (draw(*shape, seed=seed, layout=layout) for seed in (1, 2, 3))
    state, grad_last = (draw(batch, cells, seed=seed, layout=layout) for seed in (4, 5))
    forget, update = (x.to(dtype).double() for x in (forget.sigmoid(), update))
    reset = resets(kind, batch, time)
    inputs = [x.detach().clone().requires_grad_() for x in (forget, update, state)]
    truth = linear_recurrence_reference(*inputs, reset)
    grads = torch.autograd.grad(truth, inputs, [grad, grad_last])

    real = torch.promote_types(dtype, torch.float32)
    place = {"device": forms.device}
    forget, update = (x.to(**place, dtype=dtype) for x in (forget, update))
    state, grad, grad_last = (x.to(**place, dtype=real) for x in (state, grad, grad_last))
    reset = reset if reset is None else reset.to(forms.device)
    ours = forms.recurrence.forward(forget, update, state, reset, tiling, parts)
    back = forms.recurrence.backward(grad, grad_last, forget, state, reset, ours[0], tiling, parts)
    assert {x.dtype for x in (*ours, *back)} == {real}
    assert ours[1].untyped_storage().data_ptr() != ours[0].untyped_storage().data_ptr()
    compare((*ours, *back), (*truth, *grads), tolerance)


@pytest.fixture
def poison(monkeypatch):
    """Fill what torch.empty returns with NaN, so that an element which is not written shows itself."""
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(float("nan")))


@pytest.mark.parametrize("pooling", GATES)
@pytest.mark.parametrize("parts", [1, 2])
def test_pooling_equals_the_formulas(forms, poison, pooling, parts):
    check_pooling(forms, pooling, (2, 7, 5), parts, "random")


@pytest.mark.parametrize(
    ("pooling", "shape", "parts", "kind", "layout"),
    [
        ("f", (1, 1, 5), 1, "none", "plain"),
        ("fo", (2, 1, 1), 1, "first", "plain"),
        ("ifo", (1, 3, 5), 1, "last", "plain"),
        ("fo", (1, 4, 5), 2, "all", "plain"),
        ("ifo", (1, 8, 5), 3, "borders", "plain"),
        ("ifo", (2, 4, 5), 1, "none", "time first"),
        ("fo", (2, 4, 5), 2, "none", "gap"),
        ("f", (2, 4, 5), 1, "random", "channels first"),
        ("f", (1, 4, 33), 2, "none", "plain"),
    ],
)
def test_pooling_of_every_shape_reset_and_layout(forms, pooling, shape, parts, kind, layout):
    check_pooling(forms, pooling, shape, parts, kind, layout)


@pytest.mark.parametrize("parts", [1, 2])
def test_the_recurrence_equals_the_reference(forms, poison, parts):
    check_recurrence(forms, (2, 7, 5), parts, "random")


@pytest.mark.parametrize(
    ("shape", "parts", "kind", "layout"),
    [
        ((1, 1, 5), 1, "none", "plain"),
        ((2, 1, 1), 1, "first", "plain"),
        ((1, 3, 5), 1, "last", "plain"),
        ((1, 4, 5), 2, "all", "plain"),
        ((1, 13, 5), 5, "borders", "plain"),
        ((2, 4, 5), 1, "none", "time first"),
        ((2, 4, 5), 2, "none", "gap"),
        ((2, 4, 5), 1, "random", "channels first"),
        ((1, 4, 33), 2, "none", "plain"),
    ],
)
def test_the_recurrence_of_every_shape_reset_and_layout(forms, shape, parts, kind, layout):
    check_recurrence(forms, shape, parts, kind, layout)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 4e-3)])
def test_low_precision_gates_have_float32_cells(forms, dtype, tolerance):
    check_pooling(forms, "ifo", (1, 7, 5), 2, "random", dtype=dtype, tolerance=tolerance)
    if dtype != torch.float16:
        check_recurrence(forms, (1, 7, 5), 2, "random", dtype=dtype, tolerance=1e-5)


def test_the_division_of_work_that_is_used_in_earnest(forms):
    check_pooling(forms, "fo", (1, 2 * CHUNK + 1, 130), None, tiling=None, dtype=torch.float32, tolerance=1e-5)
    check_recurrence(forms, (1, 2 * CHUNK + 1, 130), None, tiling=None, dtype=torch.float32, tolerance=1e-5)


@pytest.mark.parametrize("shape", [(2, 0, 5), (0, 4, 5)])
def test_nothing_to_do_returns_the_state_in_storage_of_its_own(forms, shape):
    batch, time, cells = shape
    gates, cell = torch.zeros(batch, time, 2 * cells), torch.randn(batch, cells)
    hidden, last, starts = forms.pooling.forward(gates, None, cell, None, "f")
    grad_gates, grad_bias, grad_cell = forms.pooling.backward(hidden, cell, gates, None, starts, None, "f")
    assert hidden.shape == shape
    assert starts.shape == (batch, -(-time // CHUNK), cells)
    assert grad_gates.shape == gates.shape
    assert not grad_bias.any()
    states = [last, grad_cell]
    update = torch.zeros(shape)
    cells_, last = forms.recurrence.forward(update, update, cell, None)
    states += [last, forms.recurrence.backward(cells_, cell, update, cell, None, cells_)[2]]
    for state in states:
        torch.testing.assert_close(state, cell)
        assert not batch or state.data_ptr() != cell.data_ptr()


def test_large_gates_do_not_overflow(forms):
    gates = torch.tensor([-1e4, -100.0, 0.0, 100.0, 1e4], device=forms.device)[:, None].expand(5, 8).reshape(1, 5, 8)
    hidden, last, starts = forms.pooling.forward(gates, None, torch.ones(1, 2, device=forms.device), None, "ifo")
    grads = forms.pooling.backward(torch.ones_like(hidden), torch.ones_like(last), gates, None, starts, None, "ifo")
    truth, _ = composed(gates.cpu().double(), torch.ones(1, 2), None, "ifo")
    torch.testing.assert_close(hidden.cpu().double(), truth, rtol=1e-5, atol=1e-6)
    assert all(x.isfinite().all() for x in grads)


def test_steps_lie_in_rows():
    whole = torch.zeros(2, 6, 4)
    for x, stride in [(whole, 4), (whole.new_zeros(2, 6, 7)[..., :4], 7), (whole[:, 2:3], 24), (whole[:1, 2:], 4)]:
        assert in_rows(x) is x
        assert row_stride(x) == stride
    sliced, spread = whole[:, :4], whole[:1, :1, :1].expand(2, 6, 4)
    for x in (sliced, whole.transpose(0, 1), whole.new_zeros(2, 4, 6).transpose(1, 2), spread):
        rows = in_rows(x)
        assert rows.is_contiguous()
        assert row_stride(rows) == 4


@pytest.mark.parametrize("time", [1, 5, 64, 1000])
@pytest.mark.parametrize("parts", [1, 2, 7, 100_000])
def test_parts_cover_all_of_time_and_none_is_empty(time, parts):
    work: Division = divide(torch.empty(2, time, 10), 5, Tiling(8, 32), parts)
    assert work.parts <= parts
    assert (work.parts - 1) * work.span < work.chunks <= work.parts * work.span
    assert work.across_parts().time == work.parts


def test_a_new_length_or_batch_compiles_nothing(forms):
    """What a kernel is compiled for follows from types, cell width and layout."""
    options = [
        forms.recurrence.tile_options(divide(torch.empty(batch, time, 48), 48, SMALL), 48)
        for batch, time in [(1, 1), (2, 7), (64, 4096)]
    ]
    assert options[0] == options[1] == options[2]


@pytest.mark.parametrize("name", ["forward", "backward", "forward_ends", "backward_ends"])
def test_pooling_compiles_for_a_gpu_that_need_not_be_here(name, tmp_path, monkeypatch):
    compile_for_gpu("pooling_kernels", name, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", ["forward", "backward", "ends"])
def test_the_recurrence_compiles_for_a_gpu_that_need_not_be_here(name, tmp_path, monkeypatch):
    compile_for_gpu("recurrence_kernels", name, tmp_path, monkeypatch)


def compile_for_gpu(module: str, name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile a kernel down to machine code, as it would be for bfloat16 gates, a reset and all gates."""
    if "nvidia" not in importlib.import_module("triton.backends").backends:
        pytest.skip("this Triton does not compile for NVIDIA")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", 80, 32)
    forget_modules()
    kernel = getattr(importlib.import_module(f"weft.ops.triton.{module}"), name)
    forget_modules()
    changing = {parameter.name for parameter in kernel.params if parameter.do_not_specialize}
    assert changing == {"T", "N", "span"}
    given = {"CHUNK": 2, "BLOCK": 64, "ALIGN": 16, "HAS_OUTPUT": True, "HAS_INPUT": True, "HAS_RESET": True}
    given |= {"HAS_BIAS": True, "FAST": True, "BACK": True, "FLIP": False}
    wide = {"gates_ptr", "hidden_ptr", "grad_gates_ptr", "keep_ptr", "update_ptr"}
    signature, constants = {}, {}
    for argument in kernel.arg_names:
        if argument in given:
            signature[argument], constants[argument] = "constexpr", given[argument]
        elif argument == "reset_ptr":
            signature[argument] = "*u8"
        elif argument.endswith("_ptr"):
            signature[argument] = "*bf16" if argument in wide else "*fp32"
        else:
            signature[argument] = "i32"
    source = importlib.import_module("triton.compiler").ASTSource(kernel, signature, constants)
    compiled = triton.compile(source, target=target, options={"num_warps": 1, "enable_fp_fusion": True})
    assert compiled.asm["cubin"]
