"""What blocks are worth, how far back they look, what the past is worth: all against what is made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import weft
from tests.command import assert_mistake, run_weft
from tests.conftest import small_model
from weft.data import TokenizedSplit
from weft.evaluation.evaluate import bits_per_byte
from weft.evaluation.scoring import score
from weft.inside import inspect as inspecting
from weft.inside.inspect import inspect, recurrence_weights

BOUNDARY = 10


def split_of(*lengths) -> TokenizedSplit:
    draw = np.random.default_rng(0)
    documents = [np.concatenate([[BOUNDARY], draw.integers(0, BOUNDARY, length)]) for length in lengths]
    offsets = np.cumsum([0, *map(len, documents)])
    return TokenizedSplit(np.concatenate(documents), offsets, sum(lengths), None, None)


SPLIT = split_of(40, 3, 25, 70)


@pytest.mark.parametrize("pooling", ["f", "fo"])
def test_weights_of_a_recurrence_come_to_one_with_what_was_carried(pooling):
    extra = {"output_projection": False, "cell_size": 16} if pooling == "f" else {}
    model = small_model("q", {"qrnn": {"pooling": pooling, **extra}}).eval()
    tokens = torch.arange(30)[None] % 9
    reset = torch.zeros(1, 30, dtype=torch.bool)
    reset[:, [0, 17]] = True
    _, state = model.hidden(tokens)  # something to carry
    (piece,) = model.trace(tokens, state, reset, sites=("forget", "update", "value", "cell"), piece=100)
    forget, update, value, cell = (piece.values[f"{name}.0"][0] for name in ("forget", "update", "value", "cell"))
    weights_TZ = recurrence_weights(forget[None], update[None], reset)[0]
    for t in range(30):
        start = 17 if t >= 17 else 0
        by_hand, made = torch.zeros(weights_TZ.shape[1], dtype=torch.float64), 0
        for s in range(start, t + 1):
            weight_C = forget[s + 1 : t + 1].prod(0) * update[s]
            by_hand[t - s] = weight_C.double().mean()
            made = made + weight_C * value[s]
        torch.testing.assert_close(weights_TZ[t], by_hand, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(made, cell[t], rtol=1e-4, atol=1e-5)  # nothing was carried across a reset
        carried = float(forget[start : t + 1].prod(0).mean())
        assert float(weights_TZ[t].sum()) + carried == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("pattern", ["qfa", "x[qf]2"])
def test_an_inspection_is_what_edits_and_resets_give(pattern):
    model = small_model(pattern).eval()
    found = inspect(model, SPLIT, boundary_id=BOUNDARY)
    plain = bits_per_byte(score(model, SPLIT, boundary_id=BOUNDARY), SPLIT)
    assert found.bits_per_byte == pytest.approx(plain)
    assert [worth.depth for worth in found.worth] == list(range(model.depth))
    # A document at a time, with what a block adds left out, or its mean in its place.
    with torch.no_grad():
        tokens, pieces = [], []
        for start, stop in zip(SPLIT.offsets[:-1], SPLIT.offsets[1:], strict=True):
            ids = torch.from_numpy(SPLIT.tokens[start:stop].astype(np.int64))[None]
            tokens.append(ids)
            pieces.append(next(model.trace(ids, sites=("added",), piece=1000)).values)
        for worth in found.worth:
            inputs = [values[f"added.{worth.depth}"][0, 1:-1] for values in pieces]
            mean = torch.cat(inputs).mean(0)
            for instead, lost in ((0.0, worth.zero), (mean, worth.mean)):
                edits = weft.inside.Edits(added={worth.depth: instead})
                nats = 0.0
                for ids in tokens:
                    nats += float(model.surprisal(ids[:, :-1], ids[:, 1:], edits=edits)[0].double().sum())
                expected = nats / math.log(2) / SPLIT.bytes - plain
                assert lost == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_the_past_ends_where_the_state_is_emptied():
    model = small_model("qfa").eval()
    found = {past.tokens: past.bits_per_byte for past in inspect(model, SPLIT, boundary_id=BOUNDARY).past}
    assert found[256] == found[1024] == pytest.approx(found[None])  # longer than any document
    for period in (1, 4, 16):
        nats = 0.0
        for start, stop in zip(SPLIT.offsets[:-1], SPLIT.offsets[1:], strict=True):
            ids = torch.from_numpy(SPLIT.tokens[start:stop].astype(np.int64))[None]
            for begin in range(0, ids.shape[1] - 1, period):
                end = min(begin + period, ids.shape[1] - 1)
                nats += float(model.surprisal(ids[:, begin:end], ids[:, begin + 1 : end + 1])[0].double().sum())
        assert found[period] == pytest.approx(nats / math.log(2) / SPLIT.bytes, rel=1e-5)


def test_reach_has_attention_and_recurrence_in_one_measure():
    model = small_model("qfax", {"attn_qrnn": {"window": 6}}).eval()
    found = inspect(model, SPLIT, boundary_id=BOUNDARY).reach
    assert [(reach.depth, reach.time_constants is None) for reach in found] == [
        (0, False),
        (2, True),
        (3, True),
        (3, False),
    ]
    for reach in found:
        assert sum(reach.by_distance) + reach.before == pytest.approx(1.0, abs=1e-5)
        assert reach.half is None or sum(reach.by_distance[: reach.half + 1]) >= 0.5
    assert len(found[2].by_distance) == 7
    ifo = small_model("q", {"qrnn": {"pooling": "ifo"}}).eval()
    (reach,) = inspect(ifo, SPLIT, boundary_id=BOUNDARY).reach
    assert reach.before is None
    assert reach.half is not None


def test_the_command_tells_it_in_tables_and_as_data(run, tmp_path, monkeypatch):
    monkeypatch.setattr(inspecting, "PERIODS", (1, 8))
    told = run_weft("inspect", run, "--json").json()
    assert set(told) == {"bits_per_byte", "worth", "reach", "past"}
    assert told["bits_per_byte"] == pytest.approx(weft.Run(run).evaluate(memory=False).bits_per_byte, abs=1e-6)
    assert [past["tokens"] for past in told["past"]] == [1, 8, None]
    shown = " ".join(run_weft("inspect", run).out.split())
    assert "How far back a block looks" in shown
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert_mistake(run_weft("inspect", run, empty), "empty.txt")
    assert_mistake(run_weft("inspect", run, "--split", "tests"), "no split 'tests'")
