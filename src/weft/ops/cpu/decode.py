"""One token's step of a whole model as one kernel: a list of operations that a team of threads works through together.

Reading one token costs little arithmetic: each weight is read once. What is left is to read them as fast as
memory gives them, so nothing else may take time: one start of the threads a token, some hundred nanoseconds
between two operations, and no memory that is asked for. Whoever knows the model writes the list
(:mod:`weft.generation.program`); here are the operations and the fields of each, all int64: numbers,
addresses of float32, the bits of float64.

An operation is some tasks, as many for each thread. Who has done its own takes those of the others, and an
operation that reads what earlier ones wrote begins when all of their tasks are done, rather than when all
threads have come: a thread whose core is given to somebody else in between holds nobody up. Each thread norms
what it needs in memory of its own, once it has taken a task that reads it, so that what it reads cannot have
been overwritten. A map's task is some rows, for every text of the batch at once, as weights are read once for
all; a thread's rows lie together, and their beginning is asked for while the thread waits. What is written is
rounded up to whole registers, as all work is on these.

Shapes: B texts, D model width, C cell width, H heads, G key-value heads, K head width, S slots of a ring.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from weft.ops.cpu.constants import VECTOR
from weft.ops.cpu.decode_parts import (
    ADD,
    NONE,
    PLAIN,
    POOL_IFO,
    activated,
    asked_for,
    attended,
    block_gate,
    copied,
    multiplied,
    normed,
    pooled,
    shifted,
    turned,
)
from weft.ops.cpu.launch import Team
from weft.ops.cpu.packed import PANEL, multiplied_packed, wide
from weft.ops.cpu.simd import as_bfloat16, as_float32, as_int64, fetch_add, fused, load, number, splat, store
from weft.ops.cpu.team import look, wait

# The head of the list.
COUNT, THREADS, PRIVATE, PRIVATE_BYTES, SCRATCH_BYTES, LANES_AT, NUM_LANES, TOKENS, PLACE, DONE = range(10)
HEAD = 16  # fields, before those of the operations
FIELDS = 32  # of an operation

# The fields of every operation: which it is, its number of tasks for each thread, the counters of those taken
# (one for each thread, ``APART`` after one another), and how many tasks of operations before it must be done.
KIND, TASKS, TAKEN, AFTER = range(4)
APART = 16
EMBED, NORM, MAP, ATTEND = range(4)

# Look the tokens' vectors up and scale them.
EMBED_TABLE, EMBED_TO, EMBED_STRIDE, EMBED_WIDTH, EMBED_SCALE = range(4, 9)

# No task: how to norm a vector of each text into a thread's own memory, and after it the ones before it in a
# ring, newest first. With token shift (a share of 0 is none) what is normed lies ``raw`` behind; where it is
# mixed with the last one, which is in a ring of two, is where it would lie else.
NORM_SOURCE, NORM_SOURCE_STRIDE, NORM_STRIDE, NORM_WIDTH, NORM_HOW, NORM_WEIGHT, NORM_BIAS, NORM_EPS = range(4, 12)
NORM_RING, NORM_RING_STRIDE, NORM_WINDOW = range(12, 15)
NORM_SHARE, NORM_RAW, NORM_LAST, NORM_LAST_STRIDE = range(15, 19)
# A block's gate and gain (a gate of 0 is none), read from what is normed; by how much the block's output is
# multiplied then stands ``gate_at`` behind.
NORM_GATE, NORM_GAIN, NORM_GATE_AT = range(19, 22)

# Multiply with up to four matrices of one shape, in bfloat16 where they are ``packed``, and work on the results.
MAP_MATRICES, MAP_ROWS, MAP_COLUMNS, MAP_PACKED, MAP_SOURCE, MAP_SOURCE_STRIDE, MAP_TO, MAP_TO_STRIDE = range(4, 12)
MAP_WEIGHTS = 12  # four fields
MAP_BIASES = 16  # four fields; a bias of 0 is none
# What is done then, what is added (0: the thread's own memory), the result, a QRNN's cells and its zoneout.
MAP_THEN, MAP_ADD, MAP_ADD_STRIDE, MAP_RESULT, MAP_RESULT_STRIDE = range(20, 25)
MAP_CELL, MAP_CELL_STRIDE, MAP_ZONEOUT = range(25, 28)
# Where something is added: where each text begins in a thread's own memory, and how far behind that lie the
# block's gate and what is added to there.
MAP_OWN_STRIDE, MAP_GATE_AT, MAP_ADD_AT = range(28, 31)

# Write the new keys and values to their rings and attend; a task is the heads that share a key.
ATTEND_QUERY, ATTEND_KEY, ATTEND_VALUE, ATTEND_HEADS, ATTEND_GROUPS, ATTEND_WIDTH = range(4, 10)
ATTEND_KEYS, ATTEND_VALUES, ATTEND_SLOTS, ATTEND_SEEN = range(10, 14)
ATTEND_QUERY_NORM, ATTEND_KEY_NORM, ATTEND_EPS, ATTEND_ANGLES = range(14, 18)
ATTEND_TO, ATTEND_QUERY_STRIDE, ATTEND_KEY_STRIDE, ATTEND_TO_STRIDE, ATTEND_ROWS = range(18, 23)


@njit
def _embed(p, o, task, lanes, count, tokens):
    """Write the scaled vectors of all texts' tokens."""
    if task > 0:  # there is one for each thread, and too little to do to be parted
        return
    table = as_float32(p[o + EMBED_TABLE])
    x = as_float32(p[o + EMBED_TO])
    scale = np.float32(number(p[o + EMBED_SCALE]))
    for n in range(count):
        at = tokens[lanes[n]] * p[o + EMBED_WIDTH]
        to = lanes[n] * p[o + EMBED_STRIDE]
        for i in range(p[o + EMBED_WIDTH]):
            x[to + i] = table[at + i] * scale


@njit
def _norm(p, o, lanes, count, private, place):
    """Norm, and lay the window's earlier inputs behind."""
    x = as_float32(p[o + NORM_SOURCE])
    ring = as_float32(p[o + NORM_RING])
    width = p[o + NORM_WIDTH]
    how = p[o + NORM_HOW]
    weight = p[o + NORM_WEIGHT]
    bias = p[o + NORM_BIAS]
    eps = number(p[o + NORM_EPS])
    for n in range(count):
        at = lanes[n] * p[o + NORM_SOURCE_STRIDE]
        to = lanes[n] * p[o + NORM_STRIDE]
        raw = to + p[o + NORM_RAW]
        if how == NONE:
            copied(x, at, private, raw, width)
        else:
            normed(x, at, private, raw, width, how, weight, bias, eps)
        # Token shift: the last token's input is in the slot of the ring of two that
        # this token's does not go to.
        if p[o + NORM_SHARE] != 0:
            last = as_float32(p[o + NORM_LAST])
            last_at = lanes[n] * p[o + NORM_LAST_STRIDE] + (place - 1) % 2 * width
            shifted(private, raw, last, last_at, p[o + NORM_SHARE], private, to, width)
        gate = np.float32(1.0)
        if p[o + NORM_GATE] != 0:
            gate = block_gate(private, to, width, p[o + NORM_GATE], p[o + NORM_GAIN])
        private[to + p[o + NORM_GATE_AT]] = gate
        # A QRNN's convolution reads earlier inputs too: lay them behind, newest
        # first, as its matrix has them.
        here = lanes[n] * p[o + NORM_RING_STRIDE]
        window = p[o + NORM_WINDOW]
        for lag in range(1, window):
            copied(ring, here + (place - lag) % window * width, private, to + lag * width, width)


@njit
def _remember(p, o, lanes, count, private, place):
    """Write what was normed into the rings, for later tokens; nobody reads these slots for this one."""
    ring = as_float32(p[o + NORM_RING])
    width = p[o + NORM_WIDTH]
    window = p[o + NORM_WINDOW]
    for n in range(count):
        own = lanes[n] * p[o + NORM_STRIDE]
        if p[o + NORM_RING] != 0:
            copied(private, own, ring, lanes[n] * p[o + NORM_RING_STRIDE] + place % window * width, width)
        if p[o + NORM_SHARE] != 0:
            to = lanes[n] * p[o + NORM_LAST_STRIDE] + place % 2 * width
            copied(private, own + p[o + NORM_RAW], as_float32(p[o + NORM_LAST]), to, width)


@njit
def _first_row(p, o, task):
    """Return where the rows of a map's task begin: whole registers, as evenly as may be."""
    registers = (p[o + MAP_ROWS] + VECTOR - 1) // VECTOR
    return task * registers // (p[o + TASKS] * p[THREADS]) * VECTOR


@njit
def _map(p, o, task, lanes, count, private):
    """Multiply one task's rows of each matrix with the texts' vectors; then do what follows with these rows."""
    rows = p[o + MAP_ROWS]
    columns = p[o + MAP_COLUMNS]
    then = p[o + MAP_THEN]
    stride = p[o + MAP_TO_STRIDE]
    part = (rows + VECTOR - 1) // VECTOR * VECTOR  # where the next matrix's results begin
    first = _first_row(p, o, task)
    end = _first_row(p, o, task + 1)
    x = private if p[o + MAP_SOURCE] == 0 else as_float32(p[o + MAP_SOURCE])
    y = as_float32(p[o + MAP_TO])
    h = as_float32(p[o + MAP_RESULT])
    cell = as_float32(p[o + MAP_CELL])
    for m in range(p[o + MAP_MATRICES]):
        w = p[o + MAP_WEIGHTS + m]
        bias = p[o + MAP_BIASES + m]
        x_stride = p[o + MAP_SOURCE_STRIDE]
        to = m * part
        if p[o + MAP_PACKED] != 0:
            w = as_bfloat16(w)
            multiplied_packed(w, bias, rows, columns, x, x_stride, y, stride, to, lanes, count, first, end)
        else:
            last = min(rows, end)
            multiplied(as_float32(w), bias, columns, x, x_stride, y, stride, to, lanes, count, first, last)
    if then == PLAIN:
        return
    # Rows depend on each other only at the same place (a cell on its gates, a sum on what is added), so what
    # follows is done with this task's own rows, while they are in the cache.
    add = private if p[o + MAP_ADD] == 0 else as_float32(p[o + MAP_ADD])
    for n in range(count):
        at = lanes[n] * stride
        to = lanes[n] * p[o + MAP_RESULT_STRIDE]
        if then == ADD:
            add_at = lanes[n] * p[o + MAP_ADD_STRIDE] + p[o + MAP_ADD_AT]
            share = private[lanes[n] * p[o + MAP_OWN_STRIDE] + p[o + MAP_GATE_AT]]
            for i in range(first, end, VECTOR):
                store(h, to + i, fused(load(y, at + i), splat(share), load(add, add_at + i)))
        elif then <= POOL_IFO:
            zoneout = np.float32(number(p[o + MAP_ZONEOUT]))
            pooled(y, at, part, cell, lanes[n] * p[o + MAP_CELL_STRIDE], h, to, then, zoneout, first, end)
        else:
            activated(y, at, part, h, to, then, first, end)


@njit
def _attend(p, o, task, tokens, scratch, place):
    """Attend with one group of heads of one text."""
    heads = p[o + ATTEND_HEADS]
    groups = p[o + ATTEND_GROUPS]
    K = p[o + ATTEND_WIDTH]
    slots = p[o + ATTEND_SLOTS]
    # The threads' tasks are rounded up, so some are of no text; and of the texts some may be at rest (token
    # -1).
    lane = task // groups
    group = task % groups
    if lane >= p[o + ATTEND_ROWS] or tokens[lane] < 0:
        return
    query = as_float32(p[o + ATTEND_QUERY])
    key = as_float32(p[o + ATTEND_KEY])
    value = as_float32(p[o + ATTEND_VALUE])
    keys = as_float32(p[o + ATTEND_KEYS])
    values = as_float32(p[o + ATTEND_VALUES])
    y = as_float32(p[o + ATTEND_TO])
    seen = as_int64(p[o + ATTEND_SEEN])[lane]
    angles = p[o + ATTEND_ANGLES]
    eps = number(p[o + ATTEND_EPS])
    wide = (K + VECTOR - 1) // VECTOR * VECTOR
    each = heads // groups
    scale = np.float32(1.0 / math.sqrt(K))
    # The new key is normed and turned once, as it goes into the ring; the oldest one is in
    # the slot that it replaces.
    ring = (lane * groups + group) * slots * wide
    new = place % slots * wide
    at = lane * p[o + ATTEND_KEY_STRIDE] + group * K
    turned(key, at, K, p[o + ATTEND_KEY_NORM], eps, angles, np.float32(1.0), keys, ring + new)
    copied(value, at, values, ring + new, K)
    # Each head of the group attends to what is known of this text: the window's
    # positions, fewer near its start.
    known = min(seen, slots - 1) + 1
    oldest = (place - known + 1) % slots
    for head in range(group * each, (group + 1) * each):
        at = lane * p[o + ATTEND_QUERY_STRIDE] + head * K
        turned(query, at, K, p[o + ATTEND_QUERY_NORM], eps, angles, scale, scratch, 0)
        for i in range(K, wide):
            scratch[i] = 0.0
        attended(keys, values, ring, wide, slots, oldest, known, scratch)
        copied(scratch, wide, y, lane * p[o + ATTEND_TO_STRIDE] + head * K, K)


@njit
def _ask_for_next(p, n, thread):
    """Ask for the beginning of this thread's rows of the next map."""
    for later in range(n + 1, p[COUNT]):
        o = HEAD + later * FIELDS
        if p[o + KIND] == MAP:
            row = _first_row(p, o, thread * p[o + TASKS])
            for m in range(p[o + MAP_MATRICES]):
                if p[o + MAP_PACKED] != 0:
                    panel = row // PANEL * PANEL
                    asked_for(as_bfloat16(p[o + MAP_WEIGHTS + m]), panel * wide(p[o + MAP_COLUMNS]))
                else:
                    asked_for(as_float32(p[o + MAP_WEIGHTS + m]), row * p[o + MAP_COLUMNS])
            return


def _decode(a):
    """Work through the list at ``a[1]``; ``a[0]`` counts the threads that have come."""
    thread = fetch_add(a, 1)
    p = as_int64(a[1])
    lanes = as_int64(p[LANES_AT])
    count = p[NUM_LANES]
    tokens = as_int64(p[TOKENS])
    place = p[PLACE]
    mine = p[PRIVATE] + thread * p[PRIVATE_BYTES]
    done = as_int64(p[DONE])
    threads = p[THREADS]
    private = as_float32(mine)
    scratch = as_float32(mine + p[SCRATCH_BYTES])
    norm = 0  # the norm that the next maps read, which is done when the first task of one is taken
    last = 0  # the norm whose result is in this thread's memory
    for n in range(p[COUNT]):
        o = HEAD + n * FIELDS
        if p[o + KIND] == NORM:
            norm = o
            continue
        wait(done, p[o + AFTER])
        # First this thread's own tasks, whose weights it has asked for, then what is left of each other's.
        for turn in range(threads):
            owner = (thread + turn) % threads
            worked = 0
            taken = as_int64(p[o + TAKEN] + owner * APART * 8)
            while look(taken) < p[o + TASKS]:  # looking is cheap, and adding takes the counter from other cores
                number_of = fetch_add(taken, 1)
                if number_of >= p[o + TASKS]:
                    break
                task = owner * p[o + TASKS] + number_of
                worked = worked + 1
                if p[o + KIND] == MAP:
                    if last != norm:
                        _norm(p, norm, lanes, count, private, place)
                        last = norm
                    if task == 0 and p[o + MAP_SOURCE] == 0:  # of a pair of maps both: they write the same
                        _remember(p, norm, lanes, count, private, place)
                    _map(p, o, task, lanes, count, private)
                elif p[o + KIND] == ATTEND:
                    _attend(p, o, task, tokens, scratch, place)
                else:
                    _embed(p, o, task, lanes, count, tokens)
            if worked > 0:  # told at once: each time, the counter goes from core to core
                fetch_add(done, worked)
        _ask_for_next(p, n, thread)


decode = Team(_decode)
