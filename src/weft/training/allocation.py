"""Keep the memory of one training step for the next: on Linux with glibc, which gives large blocks back otherwise.

glibc asks the kernel for a large block and hands it back when it is freed. The kernel fills each new page
with zeros when it is first touched, which takes several times longer than to write to memory that is there
already; and the tensors of a training step are such blocks, the same ones in every step.
"""

from __future__ import annotations

import ctypes
import os
import platform

# Parameters of mallopt(3), as <malloc.h> has them.
M_TRIM_THRESHOLD = -1  # bytes that lie free at the heap's end before they are given back
M_TOP_PAD = -2  # bytes by which the heap grows at least
M_MMAP_MAX = -4  # blocks that are asked for one by one, beside the heap
NEVER = 2**31 - 1
GROWTH = 64 << 20
LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch looks for it when it first makes a tensor


def keep_memory() -> bool:
    """Let this process keep what it frees, and torch ask for large pages; return whether that could be done.

    It holds for as long as the process lives, which then stays as large as it ever was. Without glibc,
    nothing happens. A value that the environment has for torch's large pages is left alone.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    os.environ.setdefault(LARGE_PAGES, "1")  # fewer pages to fill, where the kernel gives them to those who ask
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, GROWTH)):
        if mallopt(name, value) != 1:
            return False
    return True
