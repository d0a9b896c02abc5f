"""Cgroups of a test's own, which are gone when it is over."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fork_trace.rehearse.restore import places


def pids_hierarchies() -> list[tuple[int, str]]:
    """The cgroup version and directory of each mount where the pids controller may live."""
    return places(Path("/proc/self/mountinfo").read_text(), "pids")


@contextmanager
def made(base: Path, name: str, controllers: str = "") -> Iterator[Path]:
    """A cgroup there, with these controllers handed down ("+pids") where that must be asked for."""
    if controllers:
        (base / "cgroup.subtree_control").write_text(controllers)
    place = base / f"{name}-{os.getpid()}"
    place.mkdir()
    try:
        yield place
    finally:
        remove(place)


@contextmanager
def with_pids(name: str) -> Iterator[Path | None]:
    """An empty cgroup with a pids counter; None: no mounted hierarchy has the controller."""
    for version, base in pids_hierarchies()[:1]:
        with made(Path(base), name, "+pids" if version == 2 else "") as place:
            yield place
        assert not place.exists(), f"{place} stays busy"
        return
    yield None


def remove(place: Path) -> bool:
    """Remove a cgroup once the last of its processes has left; False: they stay."""
    for _ in range(400):
        try:
            place.rmdir()
        except OSError:
            time.sleep(0.01)  # the killed ones leave a moment after
        else:
            return True
    return False
