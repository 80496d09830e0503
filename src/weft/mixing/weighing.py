"""Weigh what is said of a bit by how right each voice was, and learn from the bit that came: plain loops.

    p = squash(sum_w v_w stretch(p_w)),   p_w = squash(sum_i w_i stretch(p_i)),   stretch(p) = ln(p / (1 - p))

The weights go by the gradient of the bit's cost: logistic mixing, as in the PAQ compressors (Mahoney 2005; Knoll and
de Freitas 2012, arXiv 1108.3298). Two corrections follow, tables from what was said to what came (secondary estimation,
ibid.). Shapes: as in :mod:`weft.mixing.state`.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, operator, assignment"

from __future__ import annotations

import numpy as np

from weft.mixing.constants import (
    CELL_RATE,
    CONTEXTS,
    CORRECTION_RATE,
    FINAL_RATE,
    FIRST_RATE,
    FROM_CONTEXTS,
    FROM_TEXT,
    HISTORIES,
    HISTORY_LIMIT,
    LAST_RATE,
    MATCH_CLASSES,
    MATCH_RATE,
    MATCHES,
    MOST_SEEN,
    RATE_STEPS,
    SETS,
)
from weft.mixing.voices import LEAST, clip, hashed, squash, stretch
from weft.recall.loops import helper


@helper
def choose_weights(known, work, bit, depth, present):
    """Write which row of each weight set counts here; return that of the mixer over them."""
    sources = len(work.told_S) - 1
    sure = int(min(abs(work.inputs_I[FROM_TEXT + sources - 1]), 7.9))
    longest = 0
    for m in range(MATCHES):
        longest = max(longest, known.lengths_M[m])
    if longest > 15:
        longest = 15 + min((longest - 15) // 4, 16)
    told = 0
    if work.inputs_I[FROM_CONTEXTS] != 0.0:
        told = 1
    work.rows_W[0] = bit * 4 + min(depth, 3)
    work.rows_W[1] = longest * 2 + told
    work.rows_W[2] = min(present, 15) * 4 + min(sure // 2, 3)
    work.rows_W[3] = known.text_N[known.length[0] - 1]
    work.rows_W[4] = sure * 16 + min(present, 15)
    return bit * 4 + min(sure // 2, 3)


@helper
def mix(trust, work, final):
    """Return the chance of a 1 by all voices: weight sets, and the mixer over them."""
    total = 0.0
    for w in range(SETS):
        weights_I = trust.weights_WKI[w, work.rows_W[w]]
        logit = 0.0
        for i in range(len(weights_I)):
            logit += weights_I[i] * work.inputs_I[i]
        work.chances_W[w] = clip(squash(logit), 1e-5)
        work.told_W[w] = stretch(work.chances_W[w])
        total += trust.finals_KW[final, w] * work.told_W[w]
    return clip(squash(total), LEAST)


@helper
def correct(known, trust, work, node, chance):
    """Return the chance as it proved to be, after the last byte and the last two, with what was said."""
    place = min(max(stretch(chance), -7.999), 7.999) * 2.0 + 16.0
    step = int(place)
    share = place - step
    last = np.int64(known.text_N[known.length[0] - 1])
    both = hashed(hashed(np.uint64(last), known.text_N[known.length[0] - 2]), node)
    one = last * 256 + node
    two = np.int64(both & np.uint64(65535))
    work.at[0] = one
    work.at[1] = two
    work.at[2] = step
    work.share[0] = share
    first = trust.one_RK[one, step] * (1.0 - share) + trust.one_RK[one, step + 1] * share
    second = trust.two_RK[two, step] * (1.0 - share) + trust.two_RK[two, step + 1] * share
    return clip(0.6 * chance + 0.2 * first + 0.2 * second, LEAST)


@helper
def learning_rate(trust):
    """Return the step of the mixers, which goes down with the steps that were taken."""
    return max(LAST_RATE, FIRST_RATE / (1.0 + trust.steps[0] / RATE_STEPS))


@helper
def learn_mixing(trust, work, final, mixed, came):
    """Let weights and corrections follow the bit that came."""
    trust.steps[0] += 1
    rate = learning_rate(trust)
    step = work.at[2]
    for above in range(2):
        share = CORRECTION_RATE * work.share[0]
        if above == 0:
            share = CORRECTION_RATE - share
        one = trust.one_RK[work.at[0], step + above]
        two = trust.two_RK[work.at[1], step + above]
        trust.one_RK[work.at[0], step + above] = one + (came - one) * share
        trust.two_RK[work.at[1], step + above] = two + (came - two) * share
    for w in range(SETS):
        weights_I = trust.weights_WKI[w, work.rows_W[w]]
        error = (came - work.chances_W[w]) * rate
        for i in range(len(weights_I)):
            weights_I[i] += error * work.inputs_I[i]
        trust.finals_KW[final, w] += (came - mixed) * FINAL_RATE * work.told_W[w]


@helper
def learn_bit(known, trust, work, came):
    """Let counters, and the trust in them and in matches, follow the bit that came."""
    for c in range(CONTEXTS):
        slot = work.slots_C[c]
        cell = work.cells_C[c]
        trust.cells_CK[c, cell] += (came - trust.cells_CK[c, cell]) * CELL_RATE
        chance = float(known.slots_CZF[c, slot, 0])
        about = np.int64(known.slots_CZF[c, slot, 1])
        history = np.int64(known.slots_CZF[c, slot, 2])
        seen = about & 255
        if seen > 0:
            asked = min(trust.asked_CK[c, history] + 1.0, HISTORY_LIMIT)
            trust.asked_CK[c, history] = asked
            trust.histories_CK[c, history] += (came - trust.histories_CK[c, history]) / (asked + 0.5)
        step = max(1.0 / (seen + 1.6), 1.0 / MOST_SEEN)
        chance += (came * 65535.0 - chance) * step
        known.slots_CZF[c, slot, 0] = int(min(max(chance, 16.0), 65519.0))
        if seen < MOST_SEEN:
            known.slots_CZF[c, slot, 1] = about + 1
        history = (history << 1) | came
        if history >= HISTORIES:
            history = (history & 63) | 64
        known.slots_CZF[c, slot, 2] = history
    for m in range(MATCHES):
        told = work.inputs_I[FROM_CONTEXTS + m]
        if told != 0.0:
            row = min(known.lengths_M[m], MATCH_CLASSES - 1)
            right = 0.0
            if (told > 0.0) == (came == 1):
                right = 1.0
            trust.matches_MK[m, row] = min(
                max(trust.matches_MK[m, row] + (right - trust.matches_MK[m, row]) * MATCH_RATE, 0.5001), 0.9998
            )
