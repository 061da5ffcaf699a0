"""What a process holds after large blocks between others were freed."""

import platform
import subprocess
import sys

import pytest

HOLES = """
import sys
import numpy as np
import psutil
from orpo_pipeline.heap import give_back_large_blocks

MIB = 2**20
if "give back" in sys.argv:
    give_back_large_blocks()
first = np.ones(31 * MIB, np.uint8)
del first  # from which glibc learns
before = psutil.Process().memory_info().rss
blocks = [np.ones((20 if number % 2 else 5) * MIB, np.uint8) for number in range(60)]
kept = blocks[::2]
del blocks
print((psutil.Process().memory_info().rss - before) // MIB)
"""


def held_after_holes(*arguments: str) -> int:
    """MiB of 150 that are in use and 600 that are not."""
    command = [sys.executable, "-c", HOLES, *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_blocks_between_others_go_back() -> None:
    assert held_after_holes() > 600
    assert held_after_holes("give back") < 200
