"""The plots of a comparison can be read: by colour or without, with long names, with many."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reports.comparison.studies import ARCHITECTURES, results, row
from weft.reports.comparison.curves import rate_plot, styles
from weft.reports.comparison.plots import frontier
from weft.reports.comparison.records import study_records
from weft.reports.labels import Label, label_points, plain, spread
from weft.reports.svg import INK, new_axes, new_figure


def test_each_architecture_has_one_style_in_every_study():
    whole, part = styles(study_records("", results())), styles(study_records("", results(("qrnn", "llama"), (0,))))
    assert len({(style.color, style.marker) for style in whole.values()}) == len(ARCHITECTURES)
    assert part == {name: whole[name] for name in part}


def test_a_baseline_has_a_marker_that_no_other_has():
    names = [f"q{count}" for count in range(1, 30)]
    done = results(("llama",), (0,))
    done["rows"] += [row("qrnn", architecture=name) for name in names]
    drawn = styles(study_records("", done))
    assert drawn["llama"].color == INK
    assert drawn["llama"].marker not in {drawn[name].marker for name in names}
    assert len({(drawn[name].color, drawn[name].marker) for name in names}) == len(names)


def test_a_failed_rate_is_marked():
    done = results(("hybrid", "par"), (0,))
    assert "failed" not in rate_plot(study_records("", done), 700, 4)
    done["trials"][0] |= {"status": "failed", "validation_bits_per_byte": None}
    assert rate_plot(study_records("", done), 700, 4).count(">failed<") == 1


def test_one_rate_needs_no_picture_of_rates():
    assert rate_plot(study_records("", results(("hybrid", "par"), (0,), (4e-3,))), 700, 4) == ""


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=8, unique=True))
@settings(deadline=None, derandomize=True)
def test_the_frontier_is_what_no_other_beats(points):
    beaten = {
        place
        for place, (speed, bits) in enumerate(points)
        if any(other[0] >= speed and other[1] <= bits and other != (speed, bits) for other in points)
    }
    assert set(frontier(points)) == set(range(len(points))) - beaten


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10), st.floats(0.001, 0.3))
@settings(deadline=None, derandomize=True)
def test_labels_at_the_ends_keep_order_distance_and_frame(places, gap):
    places = np.sort(places)
    moved = spread(places, gap, 0.0, 1.0)
    room = min(gap, 1 / max(len(places) - 1, 1))
    assert (np.diff(moved) >= room - 1e-9).all()
    assert moved.min() >= -1e-9
    assert moved.max() <= 1 + 1e-9
    far = np.arange(4) / 3
    np.testing.assert_allclose(spread(far, 0.1, 0.0, 1.0), far)  # what is far apart already stays


def test_crowded_labels_do_not_touch():
    noise = np.random.default_rng(0)
    axes = new_axes(new_figure(345, 300), "crowd")
    labels = [Label(*(0.4 + 0.2 * noise.random(2)), name, INK) for name in ARCHITECTURES]
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    boxes = label_points(axes, labels)
    for one, other in combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart


def test_texts_in_plots_are_short_and_never_mathematics():
    assert plain("$a$") == r"\$a\$"
    assert plain("語") == "?"
    assert len(plain("x" * 100)) == 24


# What people with other eyes see of red, green and blue light: Machado et al. 2009, at full severity.
EYES = {
    "all": np.eye(3),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "no blue": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


def oklab(light):
    """Return linear sRGB in a space in which distances are as they are seen (Ottosson 2020)."""
    cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    seen = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.977998495, -2.42859221, 0.45059371],
        [0.0259040371, 0.78277177, -0.80867577],
    ]
    return np.array(seen) @ np.cbrt(np.clip(np.array(cones) @ light, 0, None))


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("scheme", [0, 1])
def test_all_can_tell_the_colours_apart(eyes, scheme):
    css = files("weft.reports").joinpath("report.css").read_text(encoding="utf-8")
    palette = re.findall(r"--s\d: #([0-9a-f]{6})", css)
    assert len(palette) == 18
    colors = []
    for code in palette[9 * scheme : 9 * scheme + 9]:
        srgb = np.array([int(code[place : place + 2], 16) for place in (0, 2, 4)]) / 255
        light = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        colors.append(oklab(np.clip(EYES[eyes] @ light, 0, None)))
    assert min(np.linalg.norm(one - other) for one, other in combinations(colors, 2)) > 0.09
