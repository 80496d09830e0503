"""What the mixing below the token knows, as arrays.

Shapes: N bytes of text, C contexts, Z slots of a table, F fields of a slot, M matches, S sources, I inputs, W weight
sets, K classes, R rows.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from weft.mixing import constants as sizes

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


class Known(NamedTuple):
    """What was read: the text (N, of which ``length`` bytes are there, 16 zeros first), its words, counters, matches.

    ``words`` are hashes of the word so far, the one before, and the one before that. A slot has the chance of a 1 in
    65536ths, 256 times its check and how often it was seen, and its last bits. ``last_MZ`` is where a context of each
    match's length stood last; a match is at ``at_M`` and was right for ``lengths_M`` bytes.
    """

    text_N: NDArray[np.uint8]
    length: Places
    words: NDArray[np.uint64]
    slots_CZF: NDArray[np.uint16]
    last_MZ: NDArray[np.int32]
    at_M: Places
    lengths_M: Places

    def copied(self) -> Known:
        """Return a copy."""
        return copy.deepcopy(self)


class Trust(NamedTuple):
    """How far each voice was right: what stays when another text is read.

    ``cells_CK`` corrects a counter by how often it was seen, ``histories_CK`` is the chance after the last bits (over
    ``asked_CK``), ``matches_MK`` that of a match to be right. ``weights_WKI`` are the mixers', ``finals_KW`` those of
    the mixer over them, ``ends_KS`` that of "the token ends here" and a constant; ``one_RK`` and ``two_RK`` correct the
    result by the last byte, and by the last two. ``steps`` counts.
    """

    cells_CK: Floats
    histories_CK: Floats
    asked_CK: Floats
    matches_MK: Floats
    weights_WKI: Floats
    finals_KW: Floats
    ends_KS: Floats
    one_RK: NDArray[np.float32]
    two_RK: NDArray[np.float32]
    steps: Places


class Work(NamedTuple):
    """Room for what belongs to one byte or bit."""

    hashes_C: NDArray[np.uint64]
    groups_C: NDArray[np.uint64]
    slots_C: Places
    cells_C: Places
    inputs_I: Floats
    rows_W: Places
    chances_W: Floats
    told_W: Floats
    told_S: Floats
    at: Places  # of a correction: row of the first, row of the second, step
    share: Floats  # of the step above


def slots_for(text_bytes: int) -> int:
    """Return the slots of each context's table: four for a byte, a power of two from 2^18 to 2^24."""
    bits = math.ceil(math.log2(max(1, 4 * text_bytes)))
    return 1 << min(max(bits, sizes.SMALLEST_TABLE), sizes.LARGEST_TABLE)


def nothing_known(text_bytes: int) -> Known:
    """Return what is known before anything is read, with room for a text of ``text_bytes``.

    Takes 90 bytes for each slot of a context: 24 MB for a short text, 1.5 GB for one of four million bytes and more.
    """
    return Known(
        text_N=np.zeros(text_bytes + 16, dtype=np.uint8),
        length=np.full(1, 16),
        words=np.zeros(3, dtype=np.uint64),
        slots_CZF=np.zeros((sizes.CONTEXTS, slots_for(text_bytes), sizes.FIELDS), dtype=np.uint16),
        last_MZ=np.zeros((sizes.MATCHES, 1 << sizes.MATCH_TABLE), dtype=np.int32),
        at_M=np.zeros(sizes.MATCHES, dtype=np.int64),
        lengths_M=np.zeros(sizes.MATCHES, dtype=np.int64),
    )


def first_trust(weights_S: Floats) -> Trust:
    """Return what each voice is trusted before anything is read; ``weights_S`` are those of the sources."""
    S = len(weights_S)
    logits = np.arange(sizes.CELLS_CHANCE) / 2 - 8
    cells_K = np.tile(1 / (1 + np.exp(-logits)), (sizes.CELLS_SEEN, 1))
    cells_K[0] = 0.5
    weights_I = np.zeros(sizes.FROM_TEXT + S + 1)
    weights_I[: sizes.FROM_CONTEXTS] = 0.02
    weights_I[sizes.FROM_CONTEXTS : sizes.FROM_TEXT] = 0.05
    weights_I[sizes.FROM_TEXT : -1] = 0.8 * weights_S
    steps_K = (np.arange(sizes.CORRECTION_STEPS) - 16) / 2
    correction_K = (1 / (1 + np.exp(-steps_K))).astype(np.float32)
    return Trust(
        cells_CK=np.tile(cells_K.reshape(-1), (sizes.CONTEXTS, 1)),
        histories_CK=np.full((sizes.CONTEXTS, sizes.HISTORIES), 0.5),
        asked_CK=np.zeros((sizes.CONTEXTS, sizes.HISTORIES)),
        matches_MK=np.full((sizes.MATCHES, sizes.MATCH_CLASSES), 0.8),
        weights_WKI=np.tile(weights_I, (sizes.SETS, sizes.SET_ROWS, 1)),
        finals_KW=np.full((sizes.FINAL_ROWS, sizes.SETS), 1 / sizes.SETS),
        ends_KS=np.tile(np.append(weights_S, 0.0), (sizes.END_ROWS, 1)),
        one_RK=np.tile(correction_K, (sizes.CORRECTION_ROWS, 1)),
        two_RK=np.tile(correction_K, (sizes.CORRECTION_ROWS, 1)),
        steps=np.zeros(1, dtype=np.int64),
    )


def room(sources: int) -> Work:
    """Return room to work in."""
    return Work(
        hashes_C=np.zeros(sizes.CONTEXTS, dtype=np.uint64),
        groups_C=np.zeros(sizes.CONTEXTS, dtype=np.uint64),
        slots_C=np.zeros(sizes.CONTEXTS, dtype=np.int64),
        cells_C=np.zeros(sizes.CONTEXTS, dtype=np.int64),
        inputs_I=np.zeros(sizes.FROM_TEXT + sources + 1),
        rows_W=np.zeros(sizes.SETS, dtype=np.int64),
        chances_W=np.zeros(sizes.SETS),
        told_W=np.zeros(sizes.SETS),
        told_S=np.zeros(sources + 1),
        at=np.zeros(3, dtype=np.int64),
        share=np.zeros(1),
    )
