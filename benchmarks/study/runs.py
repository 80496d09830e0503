"""A command of weft in a process of its own, for the searches of the study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


def share_of_cores(jobs: int) -> int:
    """Return the threads of each of ``jobs`` processes that run at once."""
    return max(1, (os.cpu_count() or 1) // jobs)


def weft(words: Sequence[str], threads: int) -> dict[str, Any]:
    """Run ``weft WORDS`` with so many threads and return the JSON that it prints; where it fails, say why and end."""
    command = [sys.executable, "-m", "weft", *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
