"""Whether an exported program says what the model says: both read random tokens, and the logits are compared.

Shapes: B batch, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor

from weft.errors import UserError
from weft.export.programs import ProgramName, input_names, output_names
from weft.export.states import StateLayout
from weft.layers.window_attention import QUERY_BLOCK
from weft.model import WeftModel

TOLERANCE = 1e-4  # of a logit
FURTHER = 5  # tokens that are read from the state that a first run left
FIRST_STEPS = 64  # most single steps from the start of a text
LARGEST_LOGITS = 1 << 26  # numbers that one run may return


@dataclass(frozen=True, kw_only=True)
class Check:
    """One comparison: ``batch`` texts of ``tokens`` tokens, and the largest difference of a logit."""

    program: ProgramName
    what: str
    batch: int
    tokens: int
    largest_difference: float


class Session:
    """An exported program in onnxruntime, with torch's tensors going in and coming out."""

    def __init__(self, name: ProgramName, path: Path, layout: StateLayout) -> None:
        self.name = name
        self.layout = layout
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, too
        options.intra_op_num_threads = torch.get_num_threads()
        with _runtime_errors():
            self.program = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def __call__(
        self, tokens: Tensor, state: tuple[Tensor, ...], reset: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return ``(logits_BTV, state)`` after ``tokens`` (B, T); only ``sequence`` looks at ``reset``."""
        if reset is None:
            reset = torch.zeros_like(tokens, dtype=torch.bool)
        first = [tokens] if self.name == "step" else [tokens, reset]
        values = [tensor.numpy() for tensor in (*first, *state)]
        feed = dict(zip(input_names(self.name, self.layout), values, strict=True))
        with _runtime_errors():
            logits, *after = map(torch.from_numpy, self.program.run(output_names(self.layout), feed))
        return logits, tuple(after)


@torch.no_grad()
def check_program(name: ProgramName, model: WeftModel, layout: StateLayout, path: Path) -> list[Check]:
    """Return how far the program at ``path`` is from ``model``.

    Raises UserError where onnxruntime cannot run it, or where a logit differs by more
    than :data:`TOLERANCE`.
    """
    session = Session(name, path, layout)
    checks = list(_check_step(session, model) if name == "step" else _check_sequence(session, model))
    worst = max(check.largest_difference for check in checks)
    if not worst <= TOLERANCE:  # nor is anything as it should be where this is not a number
        raise UserError(
            f"Nothing was exported: the logits of {path.name} are up to {worst:.1e} from the model's, and "
            f"{TOLERANCE:.0e} is allowed; report this with the model's config.json."
        )
    return checks


def _check_step(session: Session, model: WeftModel) -> Iterator[Check]:
    """Read token by token, from the start of a text and from where every block's window is full."""
    # From the start of a text: the state fills up, and what is not filled yet must have
    # no part in the logits.
    full = _until_full(model)
    tokens = _random_tokens(model, 2, min(full, FIRST_STEPS))
    expected, _ = model(tokens)
    difference = _largest(_by_step(session, tokens, session.layout.start(2)), expected)
    yield _check(session, "from the start of a text", tokens, difference)

    # From where every window is full: old positions must go. The model reads up to
    # there, as steps would take long.
    tokens = _random_tokens(model, 3, full + FURTHER)
    _, state = model.hidden(tokens[:, :-FURTHER])
    expected, _ = model(tokens[:, -FURTHER:], state)
    actual = _by_step(session, tokens[:, -FURTHER:], session.layout.flatten(state))
    yield _check(session, f"after {full:,} tokens", tokens[:, -FURTHER:], _largest(actual, expected))


def _until_full(model: WeftModel) -> int:
    """Return a few tokens more than any attention reaches back; enough to tell drift where none attends."""
    return (model.window or FIRST_STEPS) + 3


def _by_step(session: Session, tokens_BT: Tensor, state: tuple[Tensor, ...]) -> Tensor:
    """Return the logits (B, T, V) of one step after another."""
    logits = []
    for tokens_B1 in torch.split(tokens_BT, 1, dim=1):
        logits_B1V, state = session(tokens_B1.contiguous(), state)
        logits.append(logits_B1V)
    return torch.cat(logits, dim=1)


def _check_sequence(session: Session, model: WeftModel) -> Iterator[Check]:
    """Read texts of several lengths with resets in them, and go on from the state that is left."""
    longest = max(model.window, QUERY_BLOCK) + 3  # more than one block of attention's queries
    for batch, time in ((1, 1), (3, 7), (2, _until_full(model)), (1, longest)):
        tokens = _random_tokens(model, batch, time + FURTHER)
        lengths = _pieces(time, batch * model.config.vocab_size)
        difference = _run_pieces(session, model, tokens, [*lengths, FURTHER])
        yield _check(session, f"and {FURTHER} from the state", tokens[:, :-FURTHER], difference)


def _pieces(time: int, numbers: int) -> list[int]:
    """Cut ``time`` tokens so that logits, ``numbers`` for each token, do not fill the memory."""
    most = max(1, LARGEST_LOGITS // numbers)
    return [min(most, time - start) for start in range(0, time, most)]


def _run_pieces(session: Session, model: WeftModel, tokens_BT: Tensor, lengths: list[int]) -> float:
    """Return the largest difference over pieces of ``lengths`` tokens, each read from the state before."""
    reset_BT = torch.rand(tokens_BT.shape, generator=torch.Generator().manual_seed(1)) < 0.1
    pieces = zip(torch.split(tokens_BT, lengths, 1), torch.split(reset_BT, lengths, 1), strict=True)
    flat = session.layout.start(tokens_BT.shape[0])
    state = None
    differences = []
    for tokens, reset in pieces:
        expected, state = model(tokens, state, reset)
        actual, flat = session(tokens.contiguous(), flat, reset.contiguous())
        differences.append(_largest(actual, expected))
    return max(differences)


def _random_tokens(model: WeftModel, batch: int, time: int) -> Tensor:
    return torch.randint(model.config.vocab_size, (batch, time), generator=torch.Generator().manual_seed(0))


def _largest(actual: Tensor, expected: Tensor) -> float:
    return (actual - expected).abs().max().item()


def _check(session: Session, what: str, tokens: Tensor, difference: float) -> Check:
    batch, time = tokens.shape
    return Check(program=session.name, what=what, batch=batch, tokens=time, largest_difference=difference)


@contextmanager
def _runtime_errors() -> Iterator[None]:
    """Tell in one sentence what onnxruntime cannot do."""
    try:
        yield
    except Exception as error:  # its exceptions have no base of their own
        reason = str(error).splitlines()[0]
        raise UserError(f"onnxruntime {onnxruntime.__version__} cannot run the exported program: {reason}") from error
