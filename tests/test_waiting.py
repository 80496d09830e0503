"""Importing weft says how threads wait, before torch is there, and leaves alone what the environment says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from weft.waiting import POLICY, SPINS, TURNS

ASK = f"import weft, os, sys; assert 'torch' not in sys.modules; print(os.environ.get('{SPINS}'))"


@pytest.mark.parametrize(
    ("given", "expected"), [({}, TURNS), ({SPINS: "7"}, "7"), ({POLICY: "active"}, "None")], ids=str
)
def test_how_threads_wait_is_said_unless_it_was(given, expected):
    clean = {key: value for key, value in os.environ.items() if key not in (SPINS, POLICY)}
    found = subprocess.run([sys.executable, "-c", ASK], env=clean | given, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == expected
