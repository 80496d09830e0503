"""Sizes of the mixing below the token, and the rates at which it learns."""

CONTEXTS = 15
KNOWN_FROM = 12  # of the contexts, those of which it counts how many were seen before
LONGEST_CONTEXT = 8  # bytes that any context reaches back
MATCH_LENGTHS = (5, 9, 16)  # bytes that must be the same before a match is followed
MATCHES = len(MATCH_LENGTHS)
MATCH_TABLE = 20  # bits: where each context of a match stood last
MATCH_CLASSES = 64  # lengths of a match that are told apart
FROM_CONTEXTS = 2 * CONTEXTS  # inputs: each context's chance by its counter, and by its history
FROM_TEXT = FROM_CONTEXTS + MATCHES  # inputs that the text gives; the sources' and a constant follow
BIAS = 0.3

FIELDS = 3  # of a slot: the chance of a 1, the check and how often it was seen, the last bits
MOST_SEEN = 250  # by which the step of a counter goes down to 1/250
CELLS_SEEN = 16
CELLS_CHANCE = 34
HISTORIES = 128  # the last six bits, behind a 1
HISTORY_LIMIT = 255.0

SETS = 5  # weight sets, each chosen by another thing
SET_ROWS = 256
FINAL_ROWS = 32
END_ROWS = 16
CORRECTION_ROWS = 1 << 16
CORRECTION_STEPS = 33

FIRST_RATE = 0.01  # of the mixers; falls with the steps
LAST_RATE = 0.002
RATE_STEPS = 50_000.0
FINAL_RATE = 0.002
CORRECTION_RATE = 0.02
CELL_RATE = 0.01
MATCH_RATE = 0.005

SMALLEST_TABLE = 18  # bits
LARGEST_TABLE = 24
SEPARATOR = b"\n\n\n"  # what is read where a document begins
