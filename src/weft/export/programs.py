"""The two programs that are exported, ``step`` and ``sequence``, and their translation to ONNX.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn
from torch.export import Dim

from weft.errors import UserError
from weft.export.recurrence import linear_recurrence
from weft.export.states import StateLayout
from weft.model import WeftModel

ProgramName = Literal["step", "sequence"]
OPSET = 18  # of the ONNX operators: what torch translates to without a conversion afterwards
LARGEST_FILE = 1_900_000_000  # bytes of parameters that one file (a protobuf message: 2 GB) holds

# What torch.export and torch.onnx of torch 2.11 to 2.13 warn of among themselves.
_WARNINGS = (
    (r".*LeafSpec.*is deprecated", FutureWarning),
    (r"# The axis name: .* will not be used, since it shares the same shape constraints", UserWarning),
)


class Step(nn.Module):
    """One token of each text: ``(tokens_B1, state) -> (logits_B1V, state)``; the state is flat."""

    def __init__(self, model: WeftModel, layout: StateLayout) -> None:
        super().__init__()
        self.model = model
        self.layout = layout

    def forward(self, tokens: Tensor, state: tuple[Tensor, ...] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read the tokens."""
        return self.read(tokens, state, None)

    def read(
        self, tokens: Tensor, state: tuple[Tensor, ...], reset: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run the model between the flat form of the state and the blocks' own."""
        logits, after = self.model(tokens, self.layout.nest(state, tokens.shape[0]), reset)
        return logits, self.layout.flatten(after)


class Sequence(Step):
    """Any number of tokens: ``(tokens_BT, state, reset_BT) -> (logits_BTV, state)``; nothing crosses a reset."""

    def forward(  # type: ignore[override]
        self, tokens: Tensor, reset: Tensor, state: tuple[Tensor, ...] = ()
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read the tokens."""
        return self.read(tokens, state, reset)


@torch.no_grad()
def write_program(name: ProgramName, model: WeftModel, layout: StateLayout, path: Path) -> None:
    """Write one program of ``model``; weights lie inside the file, or beside it (``.data``) where they are too large.

    Raises UserError where torch cannot translate the model.
    """
    module, args, dims = _traced(name, model, layout)
    with _quietly():
        try:
            program = torch.onnx.export(
                module,
                args,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                dynamic_shapes=dims,
                input_names=input_names(name, layout),
                output_names=output_names(layout),
                custom_translation_table={torch.ops.weft.linear_recurrence.default: linear_recurrence},
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"torch {torch.__version__} cannot translate this model to ONNX: {reason}") from error
        assert program is not None
        ClearMetadataAndDocStringPass()(program.model)  # tracebacks of this machine, larger than a small model
        size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        program.save(path, external_data=size > LARGEST_FILE)


def _traced(name: ProgramName, model: WeftModel, layout: StateLayout) -> tuple[nn.Module, tuple[Any, ...], Any]:
    """Return the module to translate, example inputs, and which of their dimensions are dynamic."""
    batch = Dim("batch")
    time = Dim("time")
    module: Step
    args: tuple[Any, ...]
    dims: tuple[Any, ...]
    # Two texts, and three tokens where there may be more: a dimension of 1 would be
    # taken for one that stays 1.
    if name == "step":
        module = Step(model, layout)
        args = (torch.zeros(2, 1, dtype=torch.long),)
        dims = ({0: batch},)
    else:
        module = Sequence(model, layout)
        tokens = torch.zeros(2, 3, dtype=torch.long)
        args = (tokens, tokens == 0)
        dims = ({0: batch, 1: time}, {0: batch, 1: time})
    if layout.tensors:
        args = (*args, layout.start(2))
        dims = (*dims, ({0: batch},) * len(layout.tensors))
    return module.eval(), args, dims


def input_names(name: ProgramName, layout: StateLayout) -> list[str]:
    """Return the names of a program's inputs, in order."""
    first = ["tokens"] if name == "step" else ["tokens", "reset"]
    return first + [f"state.{tensor.name}" for tensor in layout.tensors]


def output_names(layout: StateLayout) -> list[str]:
    """Return the names of both programs' outputs, in order."""
    return ["logits", *(f"next_state.{tensor.name}" for tensor in layout.tensors)]


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep what torch's exporter says to its own developers off the terminal."""
    # This one says that torchvision is not installed.
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message, category in _WARNINGS:
                warnings.filterwarnings("ignore", message=message, category=category)
            yield
    finally:
        logger.setLevel(level)
