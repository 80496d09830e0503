"""What each block is worth, how far back it looks, and how much of the past a model uses.

- Worth: the bits per byte that are lost when an application adds nothing, or at every position its mean. The second is
  the honest one: what is lost then is what it tells of the text.
- Reach: of attention the weights by distance; of a recurrence c_t = f_t c_{t-1} + u_t z_t the weights of the values
  before, w(t, s) = f_{s+1} ... f_t u_s, by the distance t - s, the mean over channels. What is left is of farther back:
  for f and fo pooling, where u = 1 - f, they come to 1 with it.
- Past: the bits per byte when the state is emptied every k tokens.
Shapes: L depths of a stack, B lanes, T positions, C cell width, D model width, Z distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from weft.blocks.recurrent import RecurrentConfig
from weft.data import TokenizedSplit
from weft.evaluation.evaluate import bits_per_byte
from weft.evaluation.progress import Progress
from weft.evaluation.scoring import LANES, device_of, score, segments
from weft.evaluation.steered import Steered
from weft.layers.sites import ADDED, FORGET, PATTERN, UPDATE, Edits
from weft.model import WeftModel
from weft.tracing import Collected, Site

LENGTH = 512
FARTHEST = 256  # distances of a recurrence that are told one by one
LOOKED_AT = 8192  # tokens of which weights by distance are made
PERIODS = (1, 4, 16, 64, 256, 1024, 4096)  # tokens after which the state is emptied

Watcher = Callable[[Progress], None]


class Worth(NamedTuple):
    """The bits per byte that are lost without what an application adds: 0 in its place, and its mean."""

    depth: int
    block: str
    zero: float
    mean: float


class Reach(NamedTuple):
    """How far back an application looks.

    ``by_distance`` are the mean weights of distances 0, 1, ...; ``before`` is what is left for farther back, None with
    ifo pooling, whose weights come to nothing certain. ``half`` and ``most`` are the distances within which a half and
    nine tenths of the weight lie (None: farther back); with ifo pooling, of what is told.
    ``time_constants`` are those of a recurrence's channels in tokens, -1 / log of the mean forget gate: the tenth, the
    fiftieth and the ninetieth of a hundred.
    """

    depth: int
    block: str
    by_distance: tuple[float, ...]
    before: float | None
    half: int | None
    most: int | None
    time_constants: tuple[float, float, float] | None


class Past(NamedTuple):
    """The bits per byte when the state is emptied every ``tokens``; None: never within a document."""

    tokens: int | None
    bits_per_byte: float


@dataclass(frozen=True)
class Inspection:
    """What was found in a model by reading a text."""

    bits_per_byte: float
    worth: tuple[Worth, ...]
    reach: tuple[Reach, ...]
    past: tuple[Past, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        told = asdict(self)
        for name in ("worth", "reach", "past"):
            told[name] = [part._asdict() for part in getattr(self, name)]
        return told


def inspect(
    model: WeftModel, split: TokenizedSplit, *, boundary_id: int, watch: Watcher = lambda _: None
) -> Inspection:
    """Return what each application of ``model`` is worth on ``split``, how far back it looks, and what the past is."""
    passes = 2 * model.depth + len(PERIODS) + 1
    far = Progress(passes * split.scored_tokens, watch)

    def bits(edits: Edits) -> float:
        nats = score(Steered(model, edits), split, boundary_id=boundary_id, progress=far)
        return bits_per_byte(nats, split)

    whole = bits_per_byte(score(model, split, boundary_id=boundary_id, progress=far), split)
    letters = [model.config.stack.letters[block] for block in model.schedule]
    worth = []
    for depth, mean_D in enumerate(_means(model, split, boundary_id)):
        lost = [bits(Edits(added={depth: instead})) - whole for instead in (0.0, mean_D)]
        worth.append(Worth(depth, letters[depth], *lost))
    past = []
    for period in PERIODS:
        past.append(Past(period, _emptied(model, split, period, boundary_id)))
        far(split.scored_tokens)
    past.append(Past(None, whole))
    return Inspection(whole, tuple(worth), tuple(_reaches(model, split, boundary_id, letters)), tuple(past))


@torch.no_grad()
def _read(
    model: WeftModel, split: TokenizedSplit, boundary_id: int, names: Sequence[str], most: int | None = None
) -> Iterator[tuple[dict[Site, Tensor], Tensor, Tensor]]:
    """Yield what stands at the sites of these names, which positions count, and the resets; segment by segment.

    Those count that are a token of text, with another behind it.

    ``most`` is the number of tokens after which it ends.
    """
    wanted = [site for site in model.sites() if site.name in names]
    state = None
    count = 0
    how: dict[str, Any] = {"lanes": LANES, "length": LENGTH, "boundary_id": boundary_id, "device": device_of(model)}
    for segment in segments(split, **how):
        watch = Collected(wanted)
        _, state = model.hidden(segment.inputs_BT, state, segment.reset_BT, watch=watch)
        is_text = (segment.inputs_BT != boundary_id) & (segment.targets_BT >= 0)
        yield {site: watch.values[str(site)] for site in wanted}, is_text, segment.reset_BT
        count += int(is_text.sum())
        if most is not None and count >= most:
            return


def _means(model: WeftModel, split: TokenizedSplit, boundary_id: int) -> list[Tensor]:
    """Return the mean of what each application adds (D), over the positions of the text."""
    sums: dict[int, Tensor] = {}
    count = 0
    for values, is_text, _ in _read(model, split, boundary_id, (ADDED,)):
        count += int(is_text.sum())
        for site, added_BTD in values.items():
            total = added_BTD[is_text].double().sum(0)
            sums[site.depth] = sums[site.depth] + total if site.depth in sums else total
    return [(sums[depth] / max(count, 1)).float() for depth in range(model.depth)]


def _reaches(model: WeftModel, split: TokenizedSplit, boundary_id: int, letters: Sequence[str]) -> Iterator[Reach]:
    """Yield how far back each application looks that does, by depth: a fused block twice, attention first."""
    weights: dict[tuple[int, str], Tensor] = {}  # summed over positions, by depth and what looks
    forgets: dict[int, Tensor] = {}
    count = 0
    for values, is_text, reset_BT in _read(model, split, boundary_id, (PATTERN, FORGET, UPDATE), LOOKED_AT):
        count += int(is_text.sum())
        by_site = {(site.name, site.depth): value for site, value in values.items()}
        for (name, depth), value in by_site.items():
            if name == PATTERN:
                found_Z = value.mean(1)[is_text].double().sum(0)
            elif name == FORGET:
                found_Z = recurrence_weights(value, by_site[UPDATE, depth], reset_BT)[is_text].sum(0)
                total_C = value[is_text].double().sum(0)
                forgets[depth] = forgets[depth] + total_C if depth in forgets else total_C
            else:
                continue
            key = depth, name
            weights[key] = weights[key] + found_Z if key in weights else found_Z
    for (depth, name), total_Z in sorted(weights.items(), key=lambda item: (item[0][0], item[0][1] == FORGET)):
        share_Z = total_Z / max(count, 1)
        constants = None
        if name == FORGET:
            constants = _time_constants(forgets[depth] / max(count, 1))
        told = tuple(map(float, share_Z))
        whole = 1.0
        before: float | None = max(0.0, 1.0 - sum(told))
        if name == FORGET and not _comes_to_one(model, depth):
            whole = sum(told)
            before = None
        yield Reach(
            depth, letters[depth], told, before, _within(told, 0.5 * whole), _within(told, 0.9 * whole), constants
        )


def _comes_to_one(model: WeftModel, depth: int) -> bool:
    """Tell whether what a recurrence takes in is what it forgets."""
    config = model.own_blocks[model.schedule[depth]].config
    return not (isinstance(config, RecurrentConfig) and config.pooling == "ifo")


def recurrence_weights(forget_BTC: Tensor, update_BTC: Tensor, reset_BT: Tensor) -> Tensor:
    """Return the weights (B, T, Z) of the values 0 to FARTHEST positions back, the mean over cells, in float64.

    Those from before the piece are not known, and are left to what is farther back; nothing crosses a reset.
    """
    time = forget_BTC.shape[1]
    forget_BTC = forget_BTC.double().masked_fill(reset_BT[..., None], 0.0)
    update_BTC = update_BTC.double()
    weights = [update_BTC.mean(-1)]
    carried_BTC = forget_BTC  # f_{s+1} ... f_t for each t
    for distance in range(1, min(FARTHEST + 1, time)):
        weight_BT = torch.zeros_like(weights[0])
        weight_BT[:, distance:] = (carried_BTC[:, distance:] * update_BTC[:, : time - distance]).mean(-1)
        weights.append(weight_BT)
        following = torch.zeros_like(carried_BTC)
        following[:, distance:] = carried_BTC[:, distance:] * forget_BTC[:, : time - distance]
        carried_BTC = following
    weights += [torch.zeros_like(weights[0])] * (FARTHEST + 1 - len(weights))
    return torch.stack(weights, dim=-1)


def _time_constants(forget_C: Tensor) -> tuple[float, float, float]:
    constants_C = -1 / forget_C.clamp(1e-6, 1 - 1e-6).log()
    low, middle, high = torch.quantile(constants_C, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return low, middle, high


def _within(weights: Sequence[float], share: float) -> int | None:
    total = 0.0
    for distance, weight in enumerate(weights):
        total += weight
        if total >= share:
            return distance
    return None


@torch.no_grad()
def _emptied(model: WeftModel, split: TokenizedSplit, period: int, boundary_id: int) -> float:
    """Return the bits per byte when the state is emptied after every ``period`` tokens of a document."""
    nats = 0.0
    state = None
    how: dict[str, Any] = {"lanes": LANES, "length": LENGTH, "boundary_id": boundary_id, "device": device_of(model)}
    for segment in segments(split, **how):
        # A target's place in its document is one behind that of the token which is read for it.
        places_BT = np.maximum(segment.places_BT - 1, 0)
        document_BT = np.searchsorted(split.offsets, places_BT, side="right") - 1
        read_BT = places_BT - split.offsets[document_BT]
        empty_BT = torch.from_numpy((read_BT % period == 0) & (segment.places_BT >= 0)).to(device_of(model))
        reset_BT = segment.reset_BT | empty_BT
        cost_BT, state = model.surprisal(segment.inputs_BT, segment.targets_BT, state, reset_BT)
        nats += float(cost_BT.double().sum())
    return nats / math.log(2) / split.bytes
