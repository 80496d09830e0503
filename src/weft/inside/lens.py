"""A lens on every depth: what a model would say of the next token if its stack ended there.

    h' = h + A h + b, then the model's own norm and softmax

With A and b zero this is the logit lens (nostalgebraist 2020). The tuned lens (Belrose et al. 2023, arXiv 2303.08112)
trains them for each depth to the least KL(model || lens) on the run's training text. Of each depth those are kept that
were best on validation text, and zeros take part: so there a tuned lens is never worse than the logit lens. Depth 0 is
the embedding; every application of a block is a depth.
Shapes: L depths of a stack, B lanes, T positions, N tokens, D model width, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from weft.data import TokenizedSplit, Tokenizer
from weft.errors import UserError
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import LANES, device_of, segments, spread_part
from weft.files import disk_errors, write_atomic
from weft.language_model import LanguageModel
from weft.layers.cross_entropy import CHUNK_ELEMENTS, FEWEST_ROWS
from weft.layers.sites import RESIDUAL
from weft.model import ModelState, WeftModel
from weft.pretrained import WEIGHTS
from weft.tracing import Collected

LENS = Path("lens") / "tuned.safetensors"
FORMAT = 1
TRAINED_ON = 400_000  # tokens of the training text
CHECKED_ON = 20_000  # tokens of the validation text
CHECKS = 5
ROWS, LENGTH = 8, 128  # of a step
RATE = 2e-3  # of Adam; goes down to 0 linearly
SCORED_LENGTH = 512

Tell = Callable[[str], None]


class Lens(NamedTuple):
    """The maps of a lens, the tokens it was trained on, and the KL (nats) of both lenses on the validation text."""

    maps_LDD: Tensor
    biases_LD: Tensor
    tokens: int = 0
    logit_kl: tuple[float, ...] = ()
    tuned_kl: tuple[float, ...] = ()

    def at(self, depth: int, x_BTD: Tensor) -> Tensor:
        """Return what the last norm is to read in place of what stands at ``residual.depth``."""
        return x_BTD + x_BTD @ self.maps_LDD[depth].mT + self.biases_LD[depth]


class Depth(NamedTuple):
    """The bits per byte of a text at one depth, by both lenses; ``block`` made what stands there."""

    depth: int
    block: str
    logit: float
    tuned: float


@dataclass(frozen=True)
class LensFigures:
    """The bits per byte of a text at every depth, and the model's own."""

    depths: tuple[Depth, ...]
    model: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"depths": [depth._asdict() for depth in self.depths], "model": self.model}


def check_traceable(model: LanguageModel, run: Path) -> WeftModel:
    """Return ``model``; UserError for a baseline, which has no sites."""
    if not isinstance(model, WeftModel):
        raise UserError(f"'{run}' holds a baseline, inside which nothing can be looked at: name a run of Weft's own.")
    return model


def train_lens(
    model: WeftModel,
    tokenizer: Tokenizer,
    train: TokenizedSplit,
    validation: TokenizedSplit,
    *,
    tokens: int = TRAINED_ON,
    watch: Callable[[Progress], None] = lambda _: None,
) -> Lens:
    """Return a tuned lens for ``model``, trained on ``tokens`` tokens from all over ``train``; of each depth the best.

    The model is left as it was. The same lens every time.
    """
    read = spread_part(train, tokens, tokenizer)
    checked = spread_part(validation, CHECKED_ON, tokenizer)
    depth, width = model.depth, model.config.hidden_size
    maps_LDD = torch.zeros(depth, width, width, device=device_of(model), requires_grad=True)
    biases_LD = torch.zeros(depth, width, device=device_of(model), requires_grad=True)
    optimizer = torch.optim.Adam([maps_LDD, biases_LD], lr=RATE, betas=(0.9, 0.99))

    logit_kl = _divergences(model, Lens(maps_LDD, biases_LD), checked, tokenizer.boundary_id)
    best = Lens(maps_LDD.detach().clone(), biases_LD.detach().clone())
    best_kl = list(logit_kl)
    how: dict[str, Any] = {"lanes": ROWS, "length": LENGTH, "boundary_id": tokenizer.boundary_id}
    steps = sum(1 for _ in segments(read, device=device_of(model), **how))
    far = Progress(read.scored_tokens, watch)
    for step, looked in enumerate(_looks(model, read, **how), start=1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - (step - 1) / steps)
        gradients = _gradients(model, Lens(maps_LDD, biases_LD), looked)
        maps_LDD.grad, biases_LD.grad = gradients
        optimizer.step()
        far(int(looked.scored_BT.sum()))
        if step == steps or step % max(1, steps // CHECKS) == 0:
            kl = _divergences(model, Lens(maps_LDD, biases_LD), checked, tokenizer.boundary_id)
            for place in range(depth):
                if kl[place] < best_kl[place]:
                    best_kl[place] = kl[place]
                    best.maps_LDD[place] = maps_LDD[place].detach()
                    best.biases_LD[place] = biases_LD[place].detach()
    return best._replace(tokens=read.scored_tokens, logit_kl=tuple(logit_kl), tuned_kl=tuple(best_kl))


def lens_figures(
    model: WeftModel,
    lens: Lens,
    split: TokenizedSplit,
    *,
    boundary_id: int,
    watch: Callable[[Progress], None] = lambda _: None,
) -> LensFigures:
    """Return the bits per byte of ``split`` at every depth: every byte scored, state carried, as evaluation does."""
    depths = model.depth
    nats = torch.zeros(depths, 2, dtype=torch.float64)
    own = 0.0
    far = Progress(split.scored_tokens, watch)
    with torch.no_grad():
        for looked in _looks(model, split, lanes=LANES, length=SCORED_LENGTH, boundary_id=boundary_id):
            own += float(model.embedding.surprisal(looked.hidden_BTD, looked.targets_BT).double().sum())
            for depth, x_BTD in enumerate(looked.residuals):
                for column, read_BTD in enumerate((x_BTD, lens.at(depth, x_BTD))):
                    cost_BT = model.embedding.surprisal(model.normed(read_BTD), looked.targets_BT)
                    nats[depth, column] += cost_BT.double().sum()
            far(int(looked.scored_BT.sum()))
    bits = nats / math.log(2) / split.bytes
    made_by = ["embedding", *(model.config.stack.letters[block] for block in model.schedule)]
    found = [Depth(depth, made_by[depth], *map(float, bits[depth])) for depth in range(depths)]
    return LensFigures(tuple(found), own / math.log(2) / split.bytes)


class Guess(NamedTuple):
    """What stands to come at one place and depth: the likeliest token, and the bits of the true one."""

    likeliest: str
    bits: float


class Row(NamedTuple):
    """A token of a text, and the guesses before it, depth by depth; the last is the model's own."""

    token: str
    guesses: tuple[Guess, ...]


@torch.no_grad()
def lens_grid(model: WeftModel, lens: Lens, tokenizer: Tokenizer, text: str) -> list[Row]:
    """Return what every depth says of each token of ``text``."""
    ids = [tokenizer.boundary_id, *tokenizer.encode(text).tolist()]
    tokens_BT = torch.tensor([ids[:-1]], device=device_of(model))
    targets_BT = torch.tensor([ids[1:]], device=device_of(model))
    watch = Collected([site for site in model.sites() if site.name == RESIDUAL])
    hidden_BTD, _ = model.hidden(tokens_BT, watch=watch)
    columns = []
    for depth in range(model.depth + 1):
        if depth < model.depth:
            hidden_or_lens_BTD = model.normed(lens.at(depth, watch.values[f"{RESIDUAL}.{depth}"]))
        else:
            hidden_or_lens_BTD = hidden_BTD
        likeliest_T = model.embedding.logits(hidden_or_lens_BTD)[0].argmax(-1)
        bits_T = model.embedding.surprisal(hidden_or_lens_BTD, targets_BT)[0] / math.log(2)
        shown = [tokenizer.decode([token]) for token in likeliest_T.tolist()]
        columns.append([Guess(token, cost) for token, cost in zip(shown, bits_T.tolist(), strict=True)])
    rows = zip(*columns, strict=True)
    return [Row(tokenizer.decode([token]), guesses) for token, guesses in zip(ids[1:], rows, strict=True)]


class _Look(NamedTuple):
    """A segment of every lane: what stands at each depth below the last, what the softmax reads, and what it is for."""

    residuals: tuple[Tensor, ...]
    hidden_BTD: Tensor
    targets_BT: Tensor
    scored_BT: Tensor


def _looks(model: WeftModel, split: TokenizedSplit, *, lanes: int, length: int, boundary_id: int) -> Iterator[_Look]:
    """Read a text with carried state, and yield what stands at the depths, segment by segment; without a gradient."""
    state: ModelState | None = None
    wanted = [site for site in model.sites() if site.name == RESIDUAL and site.depth < model.depth]
    training = model.training
    device = device_of(model)
    for segment in segments(split, lanes=lanes, length=length, boundary_id=boundary_id, device=device):
        watch = Collected(wanted)
        model.eval()
        with torch.no_grad():
            hidden_BTD, state = model.hidden(segment.inputs_BT, state, segment.reset_BT, watch=watch)
        model.train(training)
        yield _Look(tuple(watch.values.values()), hidden_BTD, segment.targets_BT, segment.targets_BT >= 0)


def _chunks(model: WeftModel, looked: _Look) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield the model's log-probabilities (N, V) of some scored positions, and what stands at each depth (N, D)."""
    rows = max(FEWEST_ROWS, CHUNK_ELEMENTS // model.config.vocab_size)
    scored = looked.scored_BT
    hidden_ND = looked.hidden_BTD[scored]
    residuals = [x_BTD[scored] for x_BTD in looked.residuals]
    for start in range(0, len(hidden_ND), rows):
        part = slice(start, start + rows)
        with torch.no_grad():
            told_NV = model.embedding.logits(hidden_ND[None, part])[0].log_softmax(-1)
        yield told_NV, [x_ND[part] for x_ND in residuals]


def _divergence(model: WeftModel, lens: Lens, depth: int, x_ND: Tensor, told_NV: Tensor) -> Tensor:
    """Return the sum of KL(model || lens) in nats over some positions at one depth."""
    said_NV = model.unembed(lens.at(depth, x_ND[None]))[0].log_softmax(-1)
    return (told_NV.exp() * (told_NV - said_NV)).sum()


def _gradients(model: WeftModel, lens: Lens, looked: _Look) -> tuple[Tensor, Tensor]:
    """Return the gradients of the mean KL, of all depths together, by maps and biases; a chunk and depth at a time."""
    maps, biases = torch.zeros_like(lens.maps_LDD), torch.zeros_like(lens.biases_LD)
    count = int(looked.scored_BT.sum())
    for told_NV, residuals in _chunks(model, looked):
        for depth, x_ND in enumerate(residuals):
            with torch.enable_grad():
                loss = _divergence(model, lens, depth, x_ND, told_NV) / max(count, 1)
            of_maps, of_biases = torch.autograd.grad(loss, (lens.maps_LDD, lens.biases_LD))
            maps += of_maps
            biases += of_biases
    return maps, biases


@torch.no_grad()
def _divergences(model: WeftModel, lens: Lens, split: TokenizedSplit, boundary_id: int) -> list[float]:
    """Return the mean KL (L) in nats of every depth on a text."""
    sums = [0.0] * model.depth
    count = 0
    for looked in _looks(model, split, lanes=LANES, length=SCORED_LENGTH, boundary_id=boundary_id):
        count += int(looked.scored_BT.sum())
        for told_NV, residuals in _chunks(model, looked):
            for depth, x_ND in enumerate(residuals):
                sums[depth] += float(_divergence(model, lens, depth, x_ND, told_NV))
    return [total / max(count, 1) for total in sums]


def make_folder(run: Path) -> None:
    """Make the folder that a lens of ``run`` goes into; UserError where it cannot be made."""
    with disk_errors(run / LENS):
        (run / LENS).parent.mkdir(exist_ok=True)


def save_lens(lens: Lens, run: Path) -> None:
    """Write the lens of ``run``'s weights into its folder."""
    about = {
        "format": FORMAT,
        "weights": weights_identity(run),
        "tokens": lens.tokens,
        "logit_kl": lens.logit_kl,
        "tuned_kl": lens.tuned_kl,
    }
    tensors = {"maps": lens.maps_LDD.cpu().contiguous(), "biases": lens.biases_LD.cpu().contiguous()}
    make_folder(run)
    path = run / LENS
    with disk_errors(path):
        write_atomic(path, save(tensors, metadata={"weft": json.dumps(about)}))


def load_lens(run: Path, model: WeftModel, tell: Tell = lambda _: None) -> Lens | None:
    """Return the lens of ``run``; None where it has none, or one of other weights or damaged, which ``tell`` hears."""
    path = run / LENS
    if not path.exists():
        return None
    shape = (model.depth, model.config.hidden_size, model.config.hidden_size)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["weft"])
            maps_LDD, biases_LD = file.get_tensor("maps"), file.get_tensor("biases")
        if about["format"] != FORMAT or biases_LD.shape != shape[:2]:
            raise ValueError
        lens = Lens(maps_LDD, biases_LD, about["tokens"], tuple(about["logit_kl"]), tuple(about["tuned_kl"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        tell(f"The lens '{path}' is damaged: it is made anew.")
        return None
    if about["weights"] != weights_identity(run) or maps_LDD.shape != shape:
        tell(f"The lens '{path}' is of other weights: it is made anew.")
        return None
    return lens


def weights_identity(run: Path) -> str:
    """Return what tells the weights of a run from others."""
    with (run / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
