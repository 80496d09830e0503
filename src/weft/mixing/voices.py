"""What is asked for the chance of a bit: counters in contexts of bytes, matches, models of tokens. Plain loops.

Shapes: as in :mod:`weft.mixing.state`, and U tokens in the order of their bytes.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, operator, assignment"

from __future__ import annotations

import math

import numpy as np

from weft.mixing.constants import CELLS_CHANCE, CONTEXTS, FROM_CONTEXTS, KNOWN_FROM, MATCH_CLASSES, MATCHES
from weft.recall.loops import helper

ODD = np.uint64(0x9E3779B97F4A7C15)
OTHER = np.uint64(0xBF58476D1CE4E5B9)
LEAST = 1e-6  # of a chance: no voice can rule out a bit


@helper
def stretch(chance):
    """Return the logit."""
    return math.log(chance / (1.0 - chance))


@helper
def squash(logit):
    """Return the chance of a logit, of which no more than 15 counts."""
    return 1.0 / (1.0 + math.exp(-min(max(logit, -15.0), 15.0)))


@helper
def clip(chance, least):
    """Return the chance, ``least`` away from 0 and 1."""
    return min(max(chance, least), 1.0 - least)


@helper
def hashed(before, value):
    """Return a hash of a hash and a number."""
    mixed = (before + np.uint64(value) + np.uint64(1)) * ODD
    return mixed ^ (mixed >> np.uint64(29))


@helper
def kind_of(byte):
    """Return what kind of byte it is: space, line end, digit, capital, small letter, beyond ASCII, other."""
    kind = 7
    if byte == 32:
        kind = 1
    elif byte == 10:
        kind = 2
    elif 48 <= byte <= 57:
        kind = 3
    elif 65 <= byte <= 90:
        kind = 4
    elif 97 <= byte <= 122:
        kind = 5
    elif byte >= 128:
        kind = 6
    return kind


@helper
def make_contexts(known, hashes_C):
    """Write a hash of each context of the next byte: orders 0 to 6 and 8, words, sparse ones, the shape of the text."""
    text_N = known.text_N
    length = known.length[0]
    so_far = known.words[0]
    before = known.words[1]
    zero = np.uint64(0)
    hashes_C[0] = zero
    order = zero
    for back in range(1, 7):
        order = hashed(order, text_N[length - back])
        hashes_C[back] = order + np.uint64(back)
    hashes_C[7] = hashed(so_far, 7000)
    hashes_C[8] = hashed(hashed(so_far, before), 8000)
    hashes_C[9] = hashed(hashed(hashed(so_far, before), known.words[2]), 9000)
    hashes_C[10] = hashed(hashed(hashed(zero, text_N[length - 1]), before), 10000)
    hashes_C[11] = hashed(hashed(order, text_N[length - 7]), text_N[length - 8])
    hashes_C[12] = hashed(hashed(hashed(zero, text_N[length - 2]), text_N[length - 3]), 12000)
    hashes_C[13] = hashed(hashed(so_far, known.words[2]), 13000)
    shape = zero
    for back in range(1, 7):
        shape = shape * np.uint64(8) + np.uint64(kind_of(text_N[length - back]))
    hashes_C[14] = hashed(hashed(shape, text_N[length - 1]), 14000)


@helper
def find_slots(known, work, bit, node, learn):
    """Find each context's slot of this node in the tree of a byte; return how many of the first were seen before.

    The fifteen nodes of half a byte stand close together, so that a processor reads them at once. A slot that another
    context uses (its check says so) is taken over, if two are: the one that was seen less often. -1 where there is
    none and nothing may be learned.
    """
    slots_CZF = known.slots_CZF
    mask = np.uint64(slots_CZF.shape[1] - 1)
    local = node
    if bit >= 4:
        local = (1 << (bit - 4)) | (node & ((1 << (bit - 4)) - 1))
    present = 0
    for c in range(CONTEXTS):
        if bit == 0 or bit == 4:
            work.groups_C[c] = hashed(work.hashes_C[c] * OTHER, node * 131 + c) * OTHER
        group = work.groups_C[c]
        check = (np.int64((group >> np.uint64(44)) & np.uint64(255)) + 37 * local) & 255
        one = np.int64((group >> np.uint64(12)) & mask) ^ local
        slot = one
        about = np.int64(slots_CZF[c, one, 1])
        if (about & 255) != 0 and (about >> 8) != check:
            slot = one ^ 1
            other = np.int64(slots_CZF[c, slot, 1])
            if (other & 255) != 0 and (other >> 8) != check:
                if (about & 255) <= (other & 255):
                    slot = one
                if learn:
                    slots_CZF[c, slot, 1] = 0
                else:
                    slot = -1
        if slot >= 0:
            seen = np.int64(slots_CZF[c, slot, 1]) & 255
            if seen == 0 and learn:
                slots_CZF[c, slot, 0] = 32768
                slots_CZF[c, slot, 1] = check << 8
                slots_CZF[c, slot, 2] = 1
            elif seen == 0:
                slot = -1
            elif c < KNOWN_FROM:
                present += 1
        work.slots_C[c] = slot
    return present


@helper
def hear_contexts(known, trust, work):
    """Write what the counters say: their chances as they proved to be, and those of their last bits."""
    for c in range(CONTEXTS):
        slot = work.slots_C[c]
        work.inputs_I[c] = 0.0
        work.inputs_I[CONTEXTS + c] = 0.0
        if slot < 0:
            continue
        seen = np.int64(known.slots_CZF[c, slot, 1]) & 255
        chance = clip(np.int64(known.slots_CZF[c, slot, 0]) / 65536.0, 0.0003)
        cell = min(seen, 15) * CELLS_CHANCE + int((stretch(chance) + 8.0) * 2.0 + 0.5)
        work.cells_C[c] = cell
        if seen > 0:
            history = np.int64(known.slots_CZF[c, slot, 2])
            work.inputs_I[c] = stretch(clip(trust.cells_CK[c, cell], 0.0005))
            work.inputs_I[CONTEXTS + c] = stretch(clip(trust.histories_CK[c, history], 0.0005))


@helper
def hear_matches(known, trust, work, bit, node):
    """Write what the matches say of this bit, as sure as matches of their lengths were; nothing where one failed."""
    for m in range(MATCHES):
        told = 0.0
        if known.lengths_M[m] > 0:
            byte = np.int64(known.text_N[known.at_M[m]])
            if ((byte | 256) >> (8 - bit)) == node:
                told = stretch(trust.matches_MK[m, min(known.lengths_M[m], MATCH_CLASSES - 1)])
                if ((byte >> (7 - bit)) & 1) == 0:
                    told = -told
        work.inputs_I[FROM_CONTEXTS + m] = told


@helper
def hear_sources(cumulated_SU, low, middle, high, told_S):
    """Write the logits of the tokens [middle, high) among [low, high), by each source."""
    for s in range(len(cumulated_SU)):
        part = cumulated_SU[s, high] - cumulated_SU[s, middle]
        whole = cumulated_SU[s, high] - cumulated_SU[s, low]
        told_S[s] = stretch(clip(part / (whole + 1e-30), LEAST))
