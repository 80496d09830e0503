"""Read a text byte by byte, and score its tokens as paths through the tree of their bytes: plain loops.

:func:`weft.recall.compiled.compiled` compiles them; without Numba they are ordinary Python, slower and the same.
Shapes: as in :mod:`weft.mixing.state`, and U tokens in the order of their bytes, L bytes of the longest, T tokens of a
text, V vocabulary.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, operator, assignment"

from __future__ import annotations

import math

import numpy as np

from weft.mixing.constants import BIAS, FROM_TEXT, MATCH_LENGTHS, MATCH_TABLE, MATCHES
from weft.mixing.voices import (
    LEAST,
    clip,
    find_slots,
    hashed,
    hear_contexts,
    hear_matches,
    hear_sources,
    kind_of,
    make_contexts,
    squash,
)
from weft.mixing.weighing import choose_weights, correct, learn_bit, learn_mixing, learning_rate, mix
from weft.recall.loops import helper


@helper
def follow_matches(known, byte, learn):
    """Let each match go on with the byte that was just read, or look for another where it failed."""
    text_N = known.text_N
    length = known.length[0]
    for m in range(MATCHES):
        if known.lengths_M[m] > 0 and text_N[known.at_M[m]] == byte:
            known.lengths_M[m] += 1
            known.at_M[m] += 1
        else:
            known.lengths_M[m] = 0
        context = np.uint64(0)
        for back in range(1, MATCH_LENGTHS[m] + 1):
            context = hashed(context, text_N[length - back])
        place = np.int64((context >> np.uint64(20)) & np.uint64((1 << MATCH_TABLE) - 1))
        at = np.int64(known.last_MZ[m, place])
        if known.lengths_M[m] == 0 and at > 0:
            same = 0
            while same < 60 and at - 1 - same > 0 and text_N[at - 1 - same] == text_N[length - 1 - same]:
                same += 1
            if same >= MATCH_LENGTHS[m]:
                known.at_M[m] = at
                known.lengths_M[m] = same
        if learn:
            known.last_MZ[m, place] = length


@helper
def end_byte(known, byte, learn):
    """Take the byte into the text, the words and the matches."""
    known.text_N[known.length[0]] = byte
    known.length[0] += 1
    words = known.words
    kind = kind_of(byte)
    if 4 <= kind <= 6:
        if kind == 4:
            words[0] = hashed(words[0], byte + 32)  # as a small letter
        else:
            words[0] = hashed(words[0], byte)
    elif words[0] != np.uint64(0):
        words[2] = words[1]
        words[1] = words[0]
        words[0] = np.uint64(0)
    follow_matches(known, byte, learn)


@helper
def read_byte(known, trust, work, byte, learn):
    """Read a byte that nobody has to tell."""
    if learn:
        make_contexts(known, work.hashes_C)
        node = 1
        for bit in range(8):
            find_slots(known, work, bit, node, True)
            hear_contexts(known, trust, work)
            hear_matches(known, trust, work, bit, node)
            came = (byte >> (7 - bit)) & 1
            learn_bit(known, trust, work, came)
            node = (node << 1) | came
    end_byte(known, byte, learn)


@helper
def first_with(bytes_UL, depth, least, low, high):
    """Return the first of the tokens [low, high) whose byte at ``depth`` is at least ``least``."""
    while low < high:
        middle = (low + high) >> 1
        if bytes_UL[middle, depth] >= least:
            high = middle
        else:
            low = middle + 1
    return low


@helper
def score_byte(known, trust, work, bytes_UL, cumulated_SU, rank, depth, low, high, learn):
    """Return the nats of the byte at ``depth`` of a token among those in [low, high), and the range that it leaves."""
    byte = np.int64(bytes_UL[rank, depth])
    make_contexts(known, work.hashes_C)
    cost = 0.0
    node = 1
    for bit in range(8):
        came = (byte >> (7 - bit)) & 1
        present = find_slots(known, work, bit, node, learn)
        # The tokens below are in two parts, those with a 0 first. Where one is empty, the bit is known.
        middle = first_with(bytes_UL, depth, (((node << 1) | 1) << (7 - bit)) & 255, low, high)
        hear_contexts(known, trust, work)
        hear_matches(known, trust, work, bit, node)
        if low < middle < high:
            hear_sources(cumulated_SU, low, middle, high, work.told_S)
            for s in range(len(cumulated_SU)):
                work.inputs_I[FROM_TEXT + s] = work.told_S[s]
            work.inputs_I[len(work.inputs_I) - 1] = BIAS
            final = choose_weights(known, work, bit, depth, present)
            mixed = mix(trust, work, final)
            chance = correct(known, trust, work, node, mixed)
            if came == 1:
                cost -= math.log(chance)
            else:
                cost -= math.log(1.0 - chance)
            if learn:
                learn_mixing(trust, work, final, mixed, came)
        if learn:
            learn_bit(known, trust, work, came)
        if came == 1:
            low = middle
        else:
            high = middle
        node = (node << 1) | came
    end_byte(known, byte, learn)
    return cost, low, high


@helper
def score_end(trust, work, cumulated_SU, depth, low, high, ends, learn):
    """Return the nats of whether a token ends after ``depth`` bytes: the first in [low, high) is the one that does."""
    told_S = work.told_S
    hear_sources(cumulated_SU, low, low + 1, high, told_S)  # of all others
    told_S[len(told_S) - 1] = -1.0
    weights_S = trust.ends_KS[min(depth, 15)]
    logit = 0.0
    for s in range(len(told_S)):
        logit -= weights_S[s] * told_S[s]
    chance = clip(squash(logit), LEAST)
    if learn:
        rate = 2.0 * learning_rate(trust)
        for s in range(len(told_S)):
            weights_S[s] -= (ends - chance) * rate * told_S[s]
    if ends == 1:
        return -math.log(chance)
    return -math.log(1.0 - chance)


def prime(known, trust, work, bytes_N):
    """Read a text: counters, matches and the trust in them learn it, the mixers do not."""
    for n in range(len(bytes_N)):
        read_byte(known, trust, work, np.int64(bytes_N[n]), True)


def score(known, trust, work, bytes_UL, lengths_U, rank_V, boundary, separator, tokens_T, cumulated_TSU, learn, nats_T):
    """Write the nats of each token, by sources' running sums over the tokens in order; 0 for a boundary.

    Tokens without bytes get what the sources give to all of them, on average, each the same.
    """
    U = len(lengths_U)
    for t in range(len(tokens_T)):
        nats_T[t] = 0.0
        if tokens_T[t] == boundary:
            for n in range(len(separator)):
                read_byte(known, trust, work, np.int64(separator[n]), learn)
            continue
        cumulated_SU = cumulated_TSU[t]
        text = 0.0
        for s in range(len(cumulated_SU)):
            text += cumulated_SU[s, U] / len(cumulated_SU)
        text = clip(text, LEAST)
        rank = rank_V[tokens_T[t]]
        if rank < 0:
            nats_T[t] = -math.log((1.0 - text) / (len(rank_V) - U))
            continue
        cost = -math.log(text)
        low = 0
        high = U
        for depth in range(lengths_U[rank]):
            if depth > 0 and lengths_U[low] == depth:
                if high - low > 1:
                    cost += score_end(trust, work, cumulated_SU, depth, low, high, 0, learn)
                low += 1
            more, low, high = score_byte(known, trust, work, bytes_UL, cumulated_SU, rank, depth, low, high, learn)
            cost += more
        if high - low > 1:
            cost += score_end(trust, work, cumulated_SU, lengths_U[rank], low, high, 1, learn)
        nats_T[t] = cost


@helper
def add_up(chances_V, ids_U, sums_U):
    """Write the running sums of the tokens' chances in order, 0 first."""
    total = 0.0
    sums_U[0] = 0.0
    for u in range(len(ids_U)):
        total += chances_V[ids_U[u]]
        sums_U[u + 1] = total


def cumulate(logits_TV, other_TV, ids_U, chances_TV, cumulated_TU):
    """Write the chances of logits, those of ``other_TV`` where there is no number, and their sums in order.

    ``cumulated_TU`` (T, U + 1) begins with 0.
    """
    T, V = logits_TV.shape
    for t in range(T):
        most = -math.inf
        for v in range(V):
            most = max(most, logits_TV[t, v])
        total = 0.0
        for v in range(V):
            chances_TV[t, v] = math.exp(logits_TV[t, v] - most)
            total += chances_TV[t, v]
        if not (math.isfinite(most) and math.isfinite(total)):
            chances_TV[t] = other_TV[t]
            total = 1.0
        for v in range(V):
            chances_TV[t, v] /= total
        add_up(chances_TV[t], ids_U, cumulated_TU[t])


def add_up_all(chances_TV, ids_U, cumulated_TU):
    """Write the running sums of each row."""
    for t in range(len(chances_TV)):
        add_up(chances_TV[t], ids_U, cumulated_TU[t])
