"""The operator equals the plain loop, in value and in every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from weft.ops import linear_recurrence, linear_recurrence_reference

SHAPES = [(2, 7, 5), (1, 1, 3), (3, 1, 1), (1, 9, 4)]


def make(shape: tuple[int, int, int], dtype: torch.dtype = torch.float64, strided: bool = False) -> list[Tensor]:
    batch, time, width = shape
    make = torch.Generator().manual_seed(hash(shape) % 2**31)
    layout = (time, batch, width) if strided else shape
    tensors = [torch.randn(layout, generator=make, dtype=torch.float64) for _ in range(2)]
    forget, update = (t.transpose(0, 1) if strided else t for t in tensors)
    state = torch.randn((width, batch) if strided else (batch, width), generator=make, dtype=torch.float64)
    state = state.t() if strided else state
    return [t.to(dtype).detach().requires_grad_() for t in (forget.sigmoid(), update, state)]


def resets(kind: str, batch: int, time: int) -> Tensor | None:
    if kind == "none":
        return None
    reset = torch.zeros(batch, time, dtype=torch.bool)
    if kind == "first":
        reset[:, 0] = True
    elif kind == "last":
        reset[0, -1] = True
    elif kind == "all":
        reset[:] = True
    else:
        reset = torch.rand(batch, time, generator=torch.Generator().manual_seed(3)) < 0.4
    return reset


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["none", "first", "last", "random", "all"])
@pytest.mark.parametrize("strided", [False, True])
def test_values_and_every_gradient_equal_the_reference(shape, kind, strided):
    inputs = make(shape, strided=strided)
    reset = resets(kind, *shape[:2])
    results = []
    for function in (linear_recurrence, linear_recurrence_reference):
        cells, last = function(*inputs, reset)
        weights = torch.linspace(-1, 2, cells.numel(), dtype=cells.dtype).view_as(cells)
        loss = (cells * weights).sum() + (last * last).sum()
        results.append((cells, last, *torch.autograd.grad(loss, inputs)))
    for ours, truth in zip(*results, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["none", "random"])
def test_gradcheck(kind):
    inputs = make((2, 6, 3))
    assert torch.autograd.gradcheck(lambda *x: linear_recurrence(*x, resets(kind, 2, 6)), inputs)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of opcheck itself, since torch 2.14
@pytest.mark.parametrize("kind", ["none", "random"])
def test_opcheck(kind):
    forget, update, state = make((2, 5, 3), torch.float32)
    torch.library.opcheck(torch.ops.weft.linear_recurrence.default, (forget, update, state, resets(kind, 2, 5)))


def test_low_precision_inputs_have_float32_cells():
    forget, update, state = make((2, 64, 8), torch.bfloat16)
    cells, last = linear_recurrence(forget, update, state)
    truth, _ = linear_recurrence_reference(*(x.detach().double() for x in (forget, update, state)))
    assert cells.dtype == last.dtype == torch.float32
    torch.testing.assert_close(cells.double(), truth, rtol=1e-5, atol=1e-5)
    cells.sum().backward()
    assert forget.grad is not None
    assert forget.grad.dtype == torch.bfloat16


def test_pieces_equal_the_whole_and_the_state_carries_gradient():
    forget, update, state = make((2, 9, 4))
    whole, last = linear_recurrence(forget, update, state)
    first, middle = linear_recurrence(forget[:, :4], update[:, :4], state)
    second, end = linear_recurrence(forget[:, 4:], update[:, 4:], middle)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, last)
    torch.testing.assert_close(torch.autograd.grad(end.sum(), state)[0], torch.autograd.grad(last.sum(), state)[0])


def test_no_steps_return_the_state_in_storage_of_its_own():
    forget, update, state = make((2, 4, 3))
    cells, last = linear_recurrence(forget[:, :0], update[:, :0], state)
    assert cells.shape == (2, 0, 3)
    torch.testing.assert_close(last, state)
    assert last.data_ptr() != state.data_ptr()


def test_last_does_not_alias_the_cells():
    cells, last = linear_recurrence(*make((1, 1, 3)))
    assert last.untyped_storage().data_ptr() != cells.untyped_storage().data_ptr()


def test_every_element_is_written(monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    forget, update, state = make((2, 7, 5))
    cells, last = linear_recurrence(forget, update, state, resets("random", 2, 7))
    (cells.sum() + last.sum()).backward()
    for tensor in (cells, last, forget.grad, update.grad, state.grad):
        assert tensor is not None
        assert tensor.isfinite().all()


def test_compiles_into_one_graph_of_dynamic_length():
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(linear_recurrence, fullgraph=True, dynamic=True, backend=backend)
    for length in (4, 7, 9):
        inputs = make((2, length, 3))
        torch.testing.assert_close(compiled(*inputs)[0], linear_recurrence(*inputs)[0])
    assert len(graphs) == 1


@pytest.mark.parametrize(
    ("forget", "state", "reset", "word"),
    [
        ((2, 4, 3), None, None, "forget"),
        ((2, 5, 3), (2, 4), None, "state"),
        ((2, 5, 3), None, (2, 4), "reset"),
    ],
)
def test_wrong_shapes_are_named(forget, state, reset, word):
    with pytest.raises(ValueError, match=word):
        linear_recurrence(
            torch.zeros(forget),
            torch.zeros(2, 5, 3),
            None if state is None else torch.zeros(state),
            None if reset is None else torch.zeros(reset, dtype=torch.bool),
        )
