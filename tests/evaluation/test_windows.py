"""Windows over documents, by which models that carry no state are scored; the scores are in tests/test_baselines.py."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.test_scoring import split_of
from weft.evaluation.windows import windows

LENGTHS = (1, 30, 8, 7, 9, 3, 17, 8)


@pytest.mark.parametrize("context", [8, 7, 1])
def test_every_token_is_scored_once_with_half_the_context_before_it(context):
    split = split_of(LENGTHS)
    scored = np.zeros(len(split.tokens), dtype=int)
    for window in windows(split, context):
        begin = split.offsets[split.offsets <= window.start].max()
        scored[window.scored : window.stop + 1] += 1
        assert window.stop - window.start <= context
        assert window.start == begin or window.scored - window.start >= context / 2
        assert window.stop < split.offsets[split.offsets > window.start].min()  # within its document
    boundaries = np.isin(np.arange(len(scored)), split.offsets[:-1])
    assert (scored == ~boundaries).all()
