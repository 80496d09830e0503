"""What stands in a memory is found, all of it and nothing else, as counting by hand finds it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.recall.texts import BOUNDARY, CountsByHand, class_by_hand, memory_of, random_text, split_of
from weft.recall import kernels, look_back
from weft.recall.compiled import compiled
from weft.recall.constants import CLASSES, LONGEST

TEXTS = {
    "words": split_of(random_text(90), [1, 1, 1, 1, 1], random_text(1), random_text(60), [2, 3] * 40),
    "one token": split_of([3]),
    "one again and again": split_of([0] * 100, [0] * 50),
    "documents that begin alike": split_of([1, 2, 3], [1, 2, 4], [1, 2, 3, 3]),
}
ASKED = split_of(random_text(40), [1, 2, 3, 3, 4], [0] * 40, [2, 3] * 12, [4])


def found_by_hand(counts, split, follow=False):
    """Look every token up, reading each afterwards where the text itself counts."""
    found = []
    for token in split.tokens:
        found.append(counts.look(token))
        if follow:
            counts.read(token)
        else:
            counts.document = [int(token)] if token == BOUNDARY else [*counts.document, int(token)]
    return found


def as_lists(found):
    told = []
    for t in range(found.seen_KT.shape[1]):
        known = int((np.cumprod(found.seen_KT[:, t] > 0)).sum())
        columns = (found.seen_KT[:known, t], found.said_KT[:known, t], found.different_KT[:known, t])
        told.append([tuple(map(int, row)) for row in zip(*columns, strict=True)])
    return told


@pytest.mark.parametrize("name", TEXTS)
def test_contexts_are_found_as_by_hand(name):
    counts = CountsByHand(LONGEST)
    counts.read_all(TEXTS[name])
    counts.document = []
    assert as_lists(memory_of(TEXTS[name]).found(ASKED)) == found_by_hand(counts, ASKED)


def test_two_texts_are_one_memory_in_which_nothing_crosses_a_document():
    first, second = TEXTS["words"], TEXTS["documents that begin alike"]
    counts = CountsByHand(LONGEST)
    counts.read_all(first)
    counts.document = []
    counts.read_all(second)
    # The boundary between the two ends the one and begins the other: it is there once.
    counts.document = []
    assert as_lists(memory_of(first, second).found(ASKED)) == found_by_hand(counts, ASKED)


def test_a_document_that_was_cut_into_pieces_is_whole_in_the_memory():
    whole = split_of(random_text(50), random_text(20, seed=1))
    cut = split_of(random_text(50)[:17], random_text(50)[17:], random_text(20, seed=1), continues=[False, True, False])
    assert (memory_of(whole).index.tokens_N == memory_of(cut).index.tokens_N).all()


@pytest.mark.parametrize("beside", [None, "words"])
def test_what_a_text_said_so_far_adds_to_the_memory(beside):
    counts = CountsByHand(LONGEST)
    memory = None
    if beside:
        counts.read_all(TEXTS[beside])
        memory = memory_of(TEXTS[beside]).found(ASKED)
    counts.document = []
    found = look_back(ASKED.tokens, BOUNDARY, LONGEST, memory)
    by_hand = found_by_hand(counts, ASKED, follow=True)
    assert [[row[:2] for row in rows] for rows in as_lists(found)] == [[row[:2] for row in rows] for rows in by_hand]
    # Of the followers of the memory 32 are counted, of the text's own all.
    assert [[row[2] for row in rows] for rows in as_lists(found)] == [[row[2] for row in rows] for rows in by_hand]


def test_classes_are_those_of_the_definition():
    for seen in (1, 2, 3, 4, 7, 8, 500, 2047, 2048, 10**6):
        for different in (1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32):
            kind = kernels.class_of(seen, different)
            assert kind == class_by_hand(seen, different)
            assert 0 <= kind < CLASSES


def test_the_compiled_loops_say_what_python_says():
    memory = memory_of(TEXTS["words"])
    text_T = ASKED.tokens.astype(np.int32)
    begins_T = np.append(0, np.repeat(ASKED.offsets[:-1], np.diff(ASKED.offsets))[:-1])
    told = []
    for function in (compiled("look_up"), kernels.look_up):
        arrays = [np.zeros((LONGEST, len(text_T)), dtype=np.int32) for _ in range(3)]
        function(memory.index.tokens_N, memory.index.order_M, text_T, begins_T, 0, 32, *arrays)
        told.append(arrays)
    for fast, plain in zip(*told, strict=True):
        assert (fast == plain).all()
        assert fast.any()
