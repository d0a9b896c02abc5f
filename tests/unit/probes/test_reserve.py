"""What is kept for later is there when there is no more to be had."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# As much as is left once the process may not have another page.
ALLOCATED = """
import resource, sys
from fork_trace.probes import reserve
if sys.argv[1] == "kept":
    reserve.memory()
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
found = []
try:
    while True:
        found.append(bytearray(int(sys.argv[2])))
except MemoryError:
    count = len(found)
    del found
print(count * int(sys.argv[2]))
"""


def allocated(how: str, size: int) -> int:
    done = subprocess.run(
        [sys.executable, "-c", ALLOCATED, how, str(size)],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
                    reason="only glibc keeps a heap; run it on a host with glibc")  # fmt: skip
@pytest.mark.parametrize("size", [100, 100_000, 2_000_000])
def test_pieces_of_any_size_are_to_be_had_from_what_was_kept(size: int) -> None:
    assert allocated("not kept", size) < 4 << 20 <= allocated("kept", size)


LIMITS = """
import resource
from fork_trace.probes.reserve import Descriptors
held = Descriptors()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
held.restore()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
held.raise_()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def limits(soft: int, hard: int, *before: str) -> list[list[int]]:
    done = subprocess.run(
        [*before, "prlimit", f"--nofile={soft}:{hard}", sys.executable, "-c", LIMITS],
        capture_output=True,
        text=True,
        check=True,
    )
    return [[int(word) for word in line.split()] for line in done.stdout.splitlines()]


def test_a_limit_that_is_high_enough_stays() -> None:
    assert [[1000, 1000]] * 3 == limits(1000, 1000)


def test_a_soft_limit_is_raised_and_put_back() -> None:
    assert [[256, 1000], [64, 1000], [256, 1000]] == limits(64, 1000)


def may_raise() -> bool:
    effective = Path("/proc/self/status").read_text().partition("CapEff:\t")[2][:16]
    return bool(int(effective, 16) >> 24 & 1)  # CAP_SYS_RESOURCE


@pytest.mark.skipif(not may_raise(), reason="needs CAP_SYS_RESOURCE: run as root, or by scripts/vm")
def test_root_has_its_hard_limit_raised_too_and_its_command_has_not() -> None:
    assert [[256, 256], [64, 64], [256, 256]] == limits(64, 64)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user; run as root")
def test_who_may_not_raise_the_hard_limit_has_all_that_it_allows() -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

    assert [[100, 100], [64, 100], [100, 100]] == limits(64, 100, *nobody)
