"""What a launcher (``torchrun``, ``accelerate launch``) has told this process of those that it started together."""

from __future__ import annotations

import os


def launched() -> int:
    """Return how many processes were started together (1: no launcher)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this is the one process that writes and speaks."""
    return int(os.environ.get("RANK", "0")) == 0
