"""Steering vectors: what a model reads in one kind of text and not in another, kept in its run under a name.

At every depth the mean difference between the positive and the negative texts of pairs (contrastive activation
addition, Rimsky et al. 2024, arXiv 2312.06681), and the same of the state behind them (Paulo et al. 2024, arXiv
2404.05971). Multiplier 1 is the mean difference.
Shapes: L depths of a stack, T positions of a text, D model width, N pairs of texts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from weft.data import Tokenizer
from weft.errors import DamagedError, UserError
from weft.evaluation.scoring import device_of
from weft.files import disk_errors, write_atomic
from weft.generation.steering import Steering
from weft.inside.lens import check_traceable, weights_identity
from weft.inside.pairs import Pair
from weft.inside.states import shift_state, vectors_of, with_vectors
from weft.language_model import LanguageModel
from weft.layers.sites import RESIDUAL, Edits
from weft.model import ModelState, WeftModel
from weft.tracing import Collected

FOLDER = "steering"
FORMAT = 1
HELD_BACK = 5  # one pair in so many chooses the depth
_NAME = re.compile(r"\w[\w.-]*")

Sites = Literal["residual", "state", "both"]
Place = Literal["last", "mean"]
Method = Literal["mean", "lda"]


@dataclass(frozen=True)
class Vector:
    """A direction of a model.

    Attributes:
        name: its file's in the run.
        residual_LD: what is added at each depth, the last that of the last norm, so L + 1 of them.
        state: what the state is shifted by, of one text; only its vectors count.
        depth: the depth at which it is added.
        sites: whether the residual stream is steered, the state, or both.
        pairs: from how many it was made.
    """

    name: str
    residual_LD: Tensor
    state: ModelState
    depth: int
    sites: Sites
    pairs: int

    def steering(self, multiplier: float, *, everywhere: bool = False) -> Steering:
        """Return how a text is steered by it."""
        edits = None
        shift = None
        if self.sites != "state":
            edits = Edits(add={self.depth: multiplier * self.residual_LD[self.depth]})
        if self.sites != "residual":
            shift = partial(shift_state, delta=self.state, multiplier=multiplier)
        return Steering(edits, shift, everywhere)


def check_name(name: str) -> None:
    """UserError for a name that is none for a file."""
    if not _NAME.fullmatch(name):
        raise UserError(f"'{name}' is no name for a vector: give letters, digits, '.', '-' and '_'.")


def make_vector(
    model: WeftModel,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    name: str,
    *,
    sites: Sites = "residual",
    at: Place = "last",
    method: Method = "mean",
) -> Vector:
    """Return the vector of ``pairs``: of the residuals at each text's last token, or the ``mean`` over its tokens.

    ``lda`` multiplies the difference of means by the pseudo-inverse of the covariance within both sides, at the same
    length. The depth is the one at which a vector of the other pairs moves those that are held back furthest.
    """
    check_name(name)
    held_back = list(pairs[HELD_BACK - 1 :: HELD_BACK]) or list(pairs[-1:])
    rest = [pair for pair in pairs if pair not in held_back] or list(pairs)
    trial = _mean_vector(model, tokenizer, rest, name, sites="residual", at=at, method=method)
    plain = [log_odds(model, tokenizer, pair) for pair in held_back]
    gains = []
    for depth in range(model.depth + 1):
        steer = replace(trial, depth=depth).steering(1.0)
        moved = [log_odds(model, tokenizer, pair, steer) for pair in held_back]
        gains.append(sum(moved) - sum(plain))
    depth = max(range(model.depth + 1), key=gains.__getitem__)
    whole = _mean_vector(model, tokenizer, pairs, name, sites=sites, at=at, method=method)
    return replace(whole, depth=depth)


def _mean_vector(
    model: WeftModel, tokenizer: Tokenizer, pairs: Sequence[Pair], name: str, *, sites: Sites, at: Place, method: Method
) -> Vector:
    sides: list[list[Tensor]] = [[], []]
    state = model.empty_state(1, device_of(model))
    for pair in pairs:
        for side, (text, sign) in enumerate(((pair.positive, 1), (pair.negative, -1))):
            read_LD, after = _read(model, tokenizer, pair.prompt, text, at)
            sides[side].append(read_LD)
            state = shift_state(state, after, sign / len(pairs))
    positive_NLD, negative_NLD = map(torch.stack, sides)
    difference_LD = positive_NLD.mean(0) - negative_NLD.mean(0)
    if method == "lda":
        difference_LD = _whitened(difference_LD, positive_NLD, negative_NLD)
    return Vector(name, difference_LD, state, 0, sites, len(pairs))


def _whitened(difference_LD: Tensor, positive_NLD: Tensor, negative_NLD: Tensor) -> Tensor:
    """Return the discriminants' directions, as long as the differences."""
    within_NLD = torch.cat([positive_NLD - positive_NLD.mean(0), negative_NLD - negative_NLD.mean(0)])
    made = []
    for depth, difference_D in enumerate(difference_LD):
        within_ND = within_NLD[:, depth].double()
        covariance_DD = within_ND.mT @ within_ND / len(within_ND)
        direction_D = torch.linalg.pinv(covariance_DD, hermitian=True) @ difference_D.double()
        scale = difference_D.norm() / direction_D.norm().clamp(min=1e-30)
        made.append((scale * direction_D).float())
    return torch.stack(made)


@torch.no_grad()
def _read(model: WeftModel, tokenizer: Tokenizer, prompt: str, text: str, at: Place) -> tuple[Tensor, ModelState]:
    """Return what stands at each depth (L + 1, D) when a text was read, and the state behind it."""
    before, after = _encoded(tokenizer, prompt, text)
    watch = Collected([site for site in model.sites() if site.name == RESIDUAL])
    tokens_BT = torch.tensor([[*before, *after]], device=device_of(model))
    _, state = model.hidden(tokens_BT, watch=watch)
    read_LTD = torch.cat(list(watch.values.values()))
    return (read_LTD[:, -1] if at == "last" else read_LTD[:, 1:].mean(1)), state  # the boundary is no token


def _encoded(tokenizer: Tokenizer, prompt: str, text: str) -> tuple[list[int], list[int]]:
    """Return the tokens of the prompt behind a boundary, and those of the text, which are encoded by themselves."""
    return [tokenizer.boundary_id, *tokenizer.encode(prompt).tolist()], tokenizer.encode(text).tolist()


@torch.no_grad()
def completion_nats(
    model: WeftModel, tokenizer: Tokenizer, prompt: str, text: str, steer: Steering | None = None
) -> float:
    """Return the nats of ``text`` behind ``prompt``, steered from the prompt's last token on."""
    before, after = _encoded(tokenizer, prompt, text)
    device = device_of(model)
    edits = steer.edits if steer else None
    state: ModelState | None = None
    if before[:-1]:
        early = edits if steer and steer.everywhere else None
        _, state = model.hidden(torch.tensor([before[:-1]], device=device), edits=early)
    if steer and steer.shift:
        state = steer.shift(state if state is not None else model.empty_state(1, device))
    tokens_BT = torch.tensor([[before[-1], *after[:-1]]], device=device)
    nats_BT, _ = model.surprisal(tokens_BT, torch.tensor([after], device=device), state, edits=edits)
    return float(nats_BT.double().sum())


def log_odds(model: WeftModel, tokenizer: Tokenizer, pair: Pair, steer: Steering | None = None) -> float:
    """Return how much likelier the positive side is than the negative: nats, for each byte where there is no prompt.

    Completions are short and compared whole; texts are of different lengths.
    """
    costs = []
    for text in (pair.positive, pair.negative):
        nats = completion_nats(model, tokenizer, pair.prompt, text, steer)
        costs.append(nats if pair.prompt else nats / len(text.encode()))
    return costs[1] - costs[0]


def save_vector(vector: Vector, run: Path) -> Path:
    """Write a vector of ``run``'s weights into its folder, in place of one of that name; return where."""
    about = {
        "format": FORMAT,
        "weights": weights_identity(run),
        "depth": vector.depth,
        "sites": vector.sites,
        "pairs": vector.pairs,
    }
    tensors = {"residual": vector.residual_LD.cpu().contiguous()}
    tensors |= {f"state.{place}": tensor.cpu().contiguous() for place, tensor in vectors_of(vector.state).items()}
    path = run / FOLDER / f"{vector.name}.safetensors"
    with disk_errors(path):
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, save(tensors, metadata={"weft": json.dumps(about)}))
    return path


def vector_names(run: Path) -> list[str]:
    """Return the names of the vectors of a run."""
    return sorted(path.stem for path in (run / FOLDER).glob("*.safetensors"))


def load_vector(run: Path, model: WeftModel, name: str) -> Vector:
    """Return a vector of ``run``; UserError where there is none of that name, or it is damaged or of other weights."""
    check_name(name)
    path = run / FOLDER / f"{name}.safetensors"
    if not path.is_file():
        names = ", ".join(vector_names(run))
        raise UserError(
            f"'{run}' has no vector '{name}': " + (f"there are {names}." if names else "make one with 'weft steer'.")
        )
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["weft"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
        residual_LD = tensors.pop("residual")
        known = about["format"], about["sites"] in ("residual", "state", "both")
        if known != (FORMAT, True) or not 0 <= about["depth"] < len(residual_LD):
            raise ValueError
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise DamagedError(f"The vector '{path}' is damaged: make it anew with 'weft steer'.") from None
    if about["weights"] != weights_identity(run):
        raise UserError(
            f"The vector '{path}' is of other weights than '{run}' has now: make it anew with 'weft steer'."
        )
    try:
        if residual_LD.shape != (model.depth + 1, model.config.hidden_size):
            raise ValueError
        vectors = {key.removeprefix("state."): tensor for key, tensor in tensors.items()}
        state = with_vectors(model.empty_state(1, device_of(model)), vectors)
    except (KeyError, ValueError):
        raise DamagedError(f"The vector '{path}' is damaged: make it anew with 'weft steer'.") from None
    return Vector(name, residual_LD, state, about["depth"], about["sites"], about["pairs"])


def edits_of(run: Path, model: LanguageModel, wanted: Mapping[str, float]) -> Edits:
    """Return what vectors of ``run`` add to the stream; UserError for one that shifts the state.

    A text that is scored stands in a lane with others, where no state begins that could be shifted.
    """
    made = steering(run, model, wanted)
    if made.shift or made.edits is None:
        raise UserError(
            "Text is scored with vectors of the residual stream alone: choose such as do not steer the state."
        )
    return made.edits


def steering(run: Path, model: LanguageModel, wanted: Mapping[str, float], *, everywhere: bool = False) -> Steering:
    """Return how a text is steered by vectors of ``run``, each times its multiplier.

    Several add up. UserError for a vector that there is not, and for a multiplier that is no finite number.
    """
    model = check_traceable(model, run)
    parts = []
    for name, multiplier in wanted.items():
        if isinstance(multiplier, bool) or not isinstance(multiplier, int | float) or not math.isfinite(multiplier):
            raise UserError(f"The multiplier of '{name}' is {multiplier!r}: give a finite number.")
        parts.append(load_vector(run, model, name).steering(multiplier, everywhere=everywhere))
    add: dict[int, Tensor] = {}
    for depth, vector_D in _added(parts):
        add[depth] = add[depth] + vector_D if depth in add else vector_D
    shifts = [part.shift for part in parts if part.shift]

    def shift(state: ModelState) -> ModelState:
        for one in shifts:
            state = one(state)
        return state

    return Steering(Edits(add=add) if add else None, shift if shifts else None, everywhere)


def _added(parts: Sequence[Steering]) -> Iterator[tuple[int, Tensor]]:
    for part in parts:
        for depth, vector_D in (part.edits.add if part.edits else {}).items():
            assert isinstance(vector_D, Tensor)
            yield depth, vector_D


def random_like(vector: Vector, seed: int = 0) -> Vector:
    """Return a vector of the same lengths in random directions, to compare with."""
    generator = torch.Generator().manual_seed(seed)

    def as_long(tensor: Tensor) -> Tensor:
        drawn = torch.randn(tensor.shape, generator=generator).to(tensor)
        scaled: Tensor = drawn * tensor.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True).clamp(min=1e-30)
        return scaled

    state = with_vectors(vector.state, {place: as_long(part) for place, part in vectors_of(vector.state).items()})
    return replace(vector, residual_LD=as_long(vector.residual_LD), state=state)


def figures(
    model: WeftModel, tokenizer: Tokenizer, vector: Vector, pairs: Sequence[Pair], multipliers: Sequence[float]
) -> list[dict[str, Any]]:
    """Return what steering does to ``pairs``, for the residual, the state, both, and random vectors, by multiplier.

    ``matching`` is the mean probability of the positive side of the two, ``outside`` that of anything else (both None
    for texts without a prompt), ``log_odds`` the mean of :func:`log_odds`, ``moved`` how far it moved by the pair's
    mean, ``spread`` the standard deviation over pairs, ``wrong`` the share of pairs that moved against the multiplier.
    """
    plain = [log_odds(model, tokenizer, pair) for pair in pairs]
    rows = []
    for what, of in (("vector", vector), ("random", random_like(vector))):
        for sites in ("residual", "state", "both"):
            for multiplier in multipliers:
                steer = replace(of, sites=sites).steering(multiplier)
                rows.append(
                    {"what": what, "sites": sites, "multiplier": multiplier}
                    | _figures(model, tokenizer, pairs, plain, steer, multiplier)
                )
    return rows


def _figures(
    model: WeftModel,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    plain: Sequence[float],
    steer: Steering,
    multiplier: float,
) -> dict[str, Any]:
    odds, matching, outside = [], [], []
    for pair in pairs:
        odds.append(log_odds(model, tokenizer, pair, steer))
        if pair.prompt:
            costs = [completion_nats(model, tokenizer, pair.prompt, text, steer) for text in pair[1:]]
            chances = [math.exp(-cost) for cost in costs]
            matching.append(1 / (1 + math.exp(min(costs[0] - costs[1], 700.0))))
            outside.append(1 - sum(chances))
    moved = torch.tensor(odds, dtype=torch.float64) - torch.tensor(plain, dtype=torch.float64)
    against = (moved * multiplier < 0).double().mean()
    return {
        "matching": sum(matching) / len(matching) if matching else None,
        "outside": sum(outside) / len(outside) if outside else None,
        "log_odds": sum(odds) / len(odds),
        "moved": float(moved.mean()),
        "spread": float(moved.std(correction=0)),
        "wrong": float(against),
    }
