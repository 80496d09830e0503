"""The fused pooling equals the plain loop, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch

from tests.ops.test_recurrence import resets
from weft.layers.pooling import pool
from weft.ops import GATES, can_fuse, cpu, fused_pooling, pooling_reference

LEAST = cpu.LEAST_WIDTH
SHAPES = [(2, 7, LEAST), (1, 1, LEAST + 1), (3, cpu.CHUNK, 37), (1, 2 * cpu.CHUNK + 1, 530), (5, cpu.CHUNK + 1, 64)]
KINDS = ["none", "first", "last", "random", "all"]


def make(shape, pooling, dtype=torch.float32, strided=False):
    batch, time, width = shape
    draw = torch.Generator().manual_seed(batch + 10 * time + 100 * width)
    wide = GATES[pooling] * width
    gates = 2 * torch.randn(batch, time, wide + (16 if strided else 0), generator=draw)
    gates = gates[..., 16:] if strided else gates
    return gates.to(dtype).requires_grad_(), torch.randn(batch, width, generator=draw).requires_grad_()


def results(function, gates, cell, reset, pooling, bias=None):
    hidden, last = function(gates, cell, reset, pooling, bias)
    draw = torch.Generator().manual_seed(7)
    weights = torch.randn(hidden.shape, generator=draw).to(hidden.dtype)
    loss = (hidden * weights).sum() + (last * last).sum()
    return hidden, last, *torch.autograd.grad(loss, [gates, cell] if bias is None else [gates, cell, bias])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pooling", list(GATES))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strided", [False, True])
def test_values_and_every_gradient_equal_the_reference(shape, pooling, kind, strided):
    gates, cell = make(shape, pooling, strided=strided)
    reset = resets(kind, *shape[:2])
    exact = gates.detach().double().requires_grad_(), cell.detach().double().requires_grad_()
    ours = results(fused_pooling, gates, cell, reset, pooling)
    for mine, truth in zip(ours, results(pooling_reference, *exact, reset, pooling), strict=True):
        torch.testing.assert_close(mine.double(), truth, rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pooling", list(GATES))
def test_a_bias_is_added_and_has_a_gradient(shape, pooling):
    gates, cell = make(shape, pooling)
    bias = torch.randn(gates.shape[2], requires_grad=True)
    reset = resets("random", *shape[:2])
    exact = [x.detach().double().requires_grad_() for x in (gates, cell, bias)]
    ours = results(fused_pooling, gates, cell, reset, pooling, bias)
    truth = results(pooling_reference, *exact[:2], reset, pooling, exact[2])
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=2e-6, atol=8e-6)


@pytest.mark.parametrize("pooling", list(GATES))
def test_bfloat16_gates_keep_float32_cells(pooling):
    gates, cell = make((2, 70, 40), pooling, torch.bfloat16)
    reset = resets("random", 2, 70)
    exact = gates.detach().double().requires_grad_(), cell.detach().double().requires_grad_()
    hidden, last, grad_gates, grad_cell = results(fused_pooling, gates, cell, reset, pooling)
    truth = results(pooling_reference, *exact, reset, pooling)
    assert (hidden.dtype, last.dtype, grad_gates.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    torch.testing.assert_close(last.double(), truth[1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hidden.double(), truth[0], rtol=8e-3, atol=4e-3)
    # the weights of the loss were rounded to bfloat16, and so are the gradients
    torch.testing.assert_close(grad_gates.double(), truth[2], rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(grad_cell.double(), truth[3], rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("extreme", [-1e4, -100.0, -20.0, 20.0, 100.0, 1e4])
def test_saturated_gates_stay_finite_and_right(extreme):
    gates = torch.full((1, 40, 3 * LEAST), extreme, requires_grad=True)
    hidden, last = fused_pooling(gates, torch.full((1, LEAST), 3.0), None, "fo")
    truth, _ = pooling_reference(gates.detach().double(), torch.full((1, LEAST), 3.0).double(), None, "fo")
    torch.testing.assert_close(hidden.double(), truth, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(hidden.sum() + last.sum(), gates)
    assert gradient.isfinite().all()


def test_what_is_not_a_number_stays_visible():
    gates, cell = make((1, 6, 16), "fo")
    spoiled = gates.detach().clone()
    spoiled[0, 3, 5] = float("nan")
    hidden, last = fused_pooling(spoiled, cell.detach(), None, "fo")
    assert hidden[0, :3].isfinite().all()
    assert hidden[0, 3:, 5].isnan().all()
    assert last[0, 5].isnan()


def test_an_infinite_cell_does_not_cross_a_reset():
    gates, _ = make((1, 4, LEAST), "fo")
    reset = torch.tensor([[False, False, True, False]])
    hidden, last = fused_pooling(gates.detach(), torch.full((1, LEAST), torch.inf), reset, "fo")
    assert hidden[:, 2:].isfinite().all()
    assert last.isfinite().all()


def test_pieces_equal_the_whole():
    gates, cell = make((2, 100, 40), "ifo")
    whole, last = fused_pooling(gates, cell, None, "ifo")
    first, middle = fused_pooling(gates[:, :41], cell, None, "ifo")
    second, end = fused_pooling(gates[:, 41:], middle, None, "ifo")
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=0, atol=0)
    torch.testing.assert_close(end, last, rtol=0, atol=0)


def test_no_steps_return_the_cell():
    gates, cell = make((2, 4, LEAST), "fo")
    hidden, last = fused_pooling(gates[:, :0], cell, None, "fo")
    assert hidden.shape == (2, 0, LEAST)
    torch.testing.assert_close(last, cell)
    (gradient,) = torch.autograd.grad(last.sum(), cell)
    torch.testing.assert_close(gradient, torch.ones_like(cell))


def test_every_element_is_written(monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    gates, cell = make((3, 45, 37), "ifo")
    for tensor in results(fused_pooling, gates, cell, resets("random", 3, 45), "ifo"):
        assert tensor.isfinite().all()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of opcheck itself, since torch 2.14
@pytest.mark.parametrize("kind", ["none", "random"])
@pytest.mark.parametrize("pooling", list(GATES))
def test_opcheck(pooling, kind):
    gates, cell = make((2, 40, 16), pooling)
    bias = None if kind == "none" else torch.randn(gates.shape[2], requires_grad=True)
    torch.library.opcheck(torch.ops.weft.pooling.default, (gates, bias, cell, resets(kind, 2, 40), pooling))


def test_compiles_into_one_graph_of_dynamic_length():
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(pool, fullgraph=True, dynamic=True, backend=backend)
    for length in (4, 70, 33):
        gates, cell = make((2, length, 24), "fo")
        ours = compiled(gates, None, cell, None, "fo", 0.0, True)[0]
        torch.testing.assert_close(ours, fused_pooling(gates, cell, None, "fo")[0])
    assert len(graphs) == 1
    assert any("weft.pooling" in str(node.target) for node in graphs[0].graph.nodes)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float64, 8), (torch.float32, 4)])
def test_what_no_form_takes_runs_in_plain_torch(dtype, width):
    gates, cell = make((2, 5, width), "fo")
    gates, cell = gates.detach().to(dtype), cell.detach().to(dtype)
    assert not can_fuse(gates, "fo")
    hidden, last = pool(gates, None, cell, None, "fo", 0.0, False)
    truth = pooling_reference(gates, cell, None, "fo")
    torch.testing.assert_close(hidden, truth[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(last, truth[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("gates", "cell", "reset", "word"),
    [((2, 5, 25), None, None, "multiple"), ((2, 5, 24), (2, 9), None, "cell"), ((2, 5, 24), None, (2, 4), "reset")],
)
def test_wrong_shapes_are_named(gates, cell, reset, word):
    with pytest.raises(ValueError, match=word):
        fused_pooling(
            torch.zeros(gates),
            None if cell is None else torch.zeros(cell),
            None if reset is None else torch.zeros(reset, dtype=torch.bool),
            "fo",
        )


@pytest.mark.parametrize("name", ["cell", "reset", "bias"])
def test_a_tensor_on_another_device_is_named(name):
    other = {
        "cell": torch.zeros(2, 8, device="meta"),
        "reset": torch.zeros(2, 5, dtype=torch.bool, device="meta"),
        "bias": torch.zeros(24, device="meta"),
    }
    given = [other[key] if key == name else None for key in ("cell", "reset")]
    with pytest.raises(ValueError, match=f"{name} is on meta, but the gates are on cpu"):
        fused_pooling(torch.zeros(2, 5, 24), *given, "fo", other["bias"] if name == "bias" else None)


def test_cells_narrower_than_a_register_are_refused_by_the_operator():
    narrow = LEAST - 1
    with pytest.raises(RuntimeError, match="no fused pooling"):
        fused_pooling(torch.randn(2, 4, 3 * narrow), None, None, "fo")
