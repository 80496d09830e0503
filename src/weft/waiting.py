"""How long a thread of a CPU waits awake for the others, which decides how fast a busy machine trains.

Between two parallel pieces of work torch's threads (of GNU's OpenMP, on Linux) spin for about a millisecond
before they sleep. Where something else wants the same cores, a spinning thread keeps them from the one that
it waits for, which makes training many times slower. Waits between our pieces are far shorter than that: so
they spin only as long.
"""

from __future__ import annotations

import os

TURNS = "3000"  # measured: as fast as ever on a quiet machine (docs/performance.md)
POLICY = "OMP_WAIT_POLICY"
SPINS = "GOMP_SPINCOUNT"


def wait_briefly() -> None:
    """Let torch's threads spin briefly, unless the environment says how they wait; no use once torch is imported."""
    if POLICY not in os.environ:
        os.environ.setdefault(SPINS, TURNS)
