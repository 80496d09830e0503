"""The gates of a QRNN's cell in each kind of pooling."""

from __future__ import annotations

from typing import Literal

Pooling = Literal["f", "fo", "ifo"]
GATES: dict[str, int] = {"f": 2, "fo": 3, "ifo": 4}  # in the order z, f, o, i
