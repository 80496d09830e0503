"""Compiled loops and plain Python say the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.mixing.test_mixer import cumulated, mixer_of, some_chances, text_of

PLAIN = """
import sys
import numpy as np
sys.modules["numba"] = None  # as if it were not there
from tests.mixing.test_mixer import cumulated, mixer_of, some_chances, text_of
from weft.recall.loops import has_numba
assert not has_numba()
mixer = mixer_of()
mixer.prime(b"ab abc ba ab " * 3)
np.save(sys.argv[1], mixer.score(text_of(60), cumulated(some_chances(60))))
"""


def test_plain_python_says_what_compiled_loops_say(tmp_path):
    mixer = mixer_of()
    mixer.prime(b"ab abc ba ab " * 3)
    nats = mixer.score(text_of(60), cumulated(some_chances(60)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path.cwd())])}
    subprocess.run([sys.executable, "-c", PLAIN, str(tmp_path / "nats.npy")], check=True, env=environment)
    np.testing.assert_allclose(np.load(tmp_path / "nats.npy"), nats, rtol=1e-6, atol=1e-9)
