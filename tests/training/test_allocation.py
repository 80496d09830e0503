"""A process that keeps its memory does not ask the kernel for it again in every step."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from weft.training import allocation

SCRIPT = """
import resource, sys
from weft.training.allocation import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
import torch
def touch():
    for _ in range(4):
        torch.empty(16 << 20).fill_(1.0)  # 64 MB
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    # A training run of another test, in this process, leaves its setting for large pages: "as it is" has none.
    plain = {name: value for name, value in os.environ.items() if name != allocation.LARGE_PAGES}
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True, env=plain)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_kept_memory_is_not_filled_with_zeros_again():
    assert faults("keep") * 20 < faults("as it is")


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.delenv(allocation.LARGE_PAGES, raising=False)
    assert not allocation.keep_memory()
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not allocation.keep_memory()
