"""Fails to fork in many cgroups, each of a unit: many_cgroups.py SLICE NUMBER BUSY COUNT.

SLICE is a cgroup whose children have the pids controller. In each of NUMBER units one fork fails, in each
of BUSY others COUNT. One task moves from one to the next; nothing else is in them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def fail_in(place: Path, count: int) -> None:
    """Fail to fork so often in a new cgroup, and leave it empty."""
    place.mkdir()
    (place / "pids.max").write_text("1")
    (place / "cgroup.procs").write_text("0")
    for _ in range(count):
        try:
            if os.fork() == 0:
                os._exit(0)
        except BlockingIOError:
            continue
        raise SystemExit(f"a fork went through in {place}")


def main(slice_: Path, number: int, busy: int, count: int) -> None:
    """Fail everywhere, and remove every cgroup."""
    Path("/proc/self/comm").write_text("ft-fleet")
    home = slice_ / "home"
    home.mkdir()
    try:
        names = [(f"busy-{each}.service", count) for each in range(busy)]
        names += [(f"unit-{each}.service", 1) for each in range(number)]
        for name, times in names:
            fail_in(slice_ / name, times)
            (home / "cgroup.procs").write_text("0")
            (slice_ / name).rmdir()
    finally:
        (slice_.parent / "cgroup.procs").write_text("0")
        home.rmdir()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
