"""Copy-on-write before anything is killed: families of files, and one real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import MadeHost

from fork_trace.budget import Budget
from fork_trace.headroom import check, exposure, limits, scan
from fork_trace.headroom.limits import Family, Process, Room

MIB = 1 << 10  # in KiB
PARENT, CHILD = Process(100, "redis-server"), Process(123, "redis-server")


def family(**changes: Any) -> Family:
    values: dict[str, Any] = {
        "parent": PARENT,
        "child": CHILD,
        "children": 1,
        "shared": 80 * MIB,
        "at_most": 100 * MIB,
        "age_s": 41.0,
    }
    return Family(**{**values, **changes})


@pytest.mark.parametrize(
    ("held", "limit", "expected"),
    [(100, 1000, "fine"), (720, 1000, "near"), (920, 1000, "full"), (0, 80, "full")],
)
def test_a_copy_that_does_not_fit_is_told_before_it_is_made(
    held: int, limit: int, expected: str
) -> None:
    found = limits.exposure(family(), [Room("/cg", held * MIB, limit * MIB)])

    assert ((held + 80) * MIB, limit * MIB, expected) == (
        found.used,
        found.limit,
        found.level(80, 100),
    )
    assert (PARENT, "copy-on-write", "/cg") == (found.process, found.cause, found.where)
    assert "redis-server[123] was forked 41 s ago" in (found.note or "")


def test_the_tightest_room_is_the_one_that_is_told() -> None:
    rooms = [Room(limits.HOST, 0, 10_000 * MIB), Room("/cg", 50 * MIB, 100 * MIB)]

    assert "/cg" == limits.exposure(family(), rooms).where


@pytest.mark.parametrize(
    ("age_s", "expected"), [(3599.0, "full"), (3600.0, "fine"), (None, "full")]
)
def test_workers_of_long_ago_do_not_write_what_they_share(
    age_s: float | None, expected: str
) -> None:
    found = limits.exposure(family(age_s=age_s), [Room("/cg", 90 * MIB, 100 * MIB)])

    assert expected == found.level(80, 100)
    assert ("unwritten for 60 min" in (found.free or "")) == (expected == "fine")


def test_what_is_not_known_is_counted_whole_and_only_if_that_is_far_enough() -> None:
    unread = family(shared=None, why="hidden")

    far = limits.exposure(unread, [Room("/cg", 0, 1000 * MIB)])
    close = limits.exposure(unread, [Room("/cg", 50 * MIB, 160 * MIB)])

    assert (100 * MIB, "fine") == (far.used, far.level(80, 100))
    assert (None, "unknown") == (close.used, close.level(80, 100))
    assert "hidden" in (close.why or "")


def test_without_any_room_that_can_be_read_nothing_is_known() -> None:
    found = limits.exposure(family(), [])

    assert "unknown" == found.level(80, 100)
    assert found.why


def redis(host: MadeHost, child: int = 100 * MIB, shared: int = 80 * MIB, **more: Any) -> Path:
    host.meminfo(MemTotal=1_000_000, MemAvailable=900_000, SwapTotal=0, SwapFree=0)
    host.write("uptime", "1000.00 900.00\n")
    host.add(100, "redis", anonymous=100 * MIB)
    ticks = os.sysconf("SC_CLK_TCK")
    place = host.add(
        123, "redis", anonymous=child, parent=100, start=900 * ticks, **{"is_forked": True, **more}
    )
    (place / "smaps_rollup").write_text(
        f"0-1 ---p 0 00:00 0 [rollup]\nAnonymous: {child} kB\nPrivate_Dirty: {child - shared} kB\n"
    )
    return place


def exposures(host: MadeHost, budget: Budget | None = None) -> list[limits.Headroom]:
    return exposure.exposures(scan.take(str(host.proc)), str(host.proc), budget)


def test_a_child_that_was_forked_and_never_executed_is_found(made_host: MadeHost) -> None:
    redis(made_host)

    (found,) = exposures(made_host)

    assert (80 * MIB, 900_000, limits.HOST) == (found.used, found.limit, found.where)
    assert Process(100, "redis") == found.process
    assert "forked 100 s ago" in (found.note or "")


@pytest.mark.parametrize(
    "changes",
    [{"is_forked": False}, {"parent": 1}, {"anonymous": 7 * MIB}, {"state": "Z"}],
    ids=["executed", "another-parent", "small", "zombie"],
)
def test_who_shares_nothing_that_matters_is_none(
    made_host: MadeHost, changes: dict[str, Any]
) -> None:
    made_host.add(100, "redis", anonymous=100 * MIB)
    values = {"anonymous": 100 * MIB, "parent": 100, "is_forked": True, **changes}
    made_host.add(123, "redis", **values)

    assert [] == exposures(made_host)


def test_the_limit_of_its_memory_cgroup_counts(made_host: MadeHost) -> None:
    redis(made_host)
    for name, text in (("max", 150 * MIB * 1024), ("current", 100 * MIB * 1024)):
        (made_host.cgroups / "app" / f"memory.{name}").write_text(f"{text}\n")

    found = check.examine(80, 100, str(made_host.root))

    (pool,) = [each for each in found["limits"] if each["level"] == "full"]
    assert ("copy-on-write", 180 * MIB, 150 * MIB) == tuple(
        pool[name] for name in ("cause", "used", "limit")
    )
    assert pool["where"] == str(made_host.cgroups / "app")
    assert pool["advice"]


def test_a_crowd_of_workers_is_one_row_with_one_copy(made_host: MadeHost) -> None:
    redis(made_host)
    for pid in range(200, 240):
        made_host.add(pid, "worker", anonymous=90 * MIB, parent=100, is_forked=True)

    (found,) = exposures(made_host)

    assert 80 * MIB == found.used
    assert "as have 40 other children" in (found.note or "")


def test_a_small_family_is_found_behind_many_larger_ones(made_host: MadeHost) -> None:
    redis(made_host)
    for pid in range(1100, 1118):
        made_host.add(pid, "master", anonymous=900 * MIB)
        made_host.add(pid + 100, "worker", anonymous=900 * MIB, parent=pid, is_forked=True)

    found = exposures(made_host)

    assert 19 == len(found)
    assert Process(100, "redis") in [each.process for each in found]


def test_what_is_too_large_to_walk_is_counted_whole(made_host: MadeHost) -> None:
    redis(made_host)

    (found,) = exposures(made_host, Budget(10))

    assert 100 * MIB == found.used
    assert "cannot be read" in (found.note or "")


SIZE = 100 << 20
PROGRAM = f"""
import mmap, os, signal, sys
memory = mmap.mmap(-1, {SIZE}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, {SIZE}, mmap.PAGESIZE):
    memory[at] = 1
child = os.fork()
if child == 0:
    for at in range(0, int(sys.argv[1]), mmap.PAGESIZE):
        memory[at] = 2
    print(os.getpid(), flush=True)
    signal.pause()
sys.stdin.read()
os.kill(child, signal.SIGKILL)
os.wait()
"""


@contextmanager
def forked(writes: int = 0) -> Iterator[tuple[int, int]]:
    """A process of 100 MB and its fork, which wrote to some of it; both sleep."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(writes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        yield parent.pid, int(parent.stdout.readline())
        parent.stdin.close()


@pytest.mark.parametrize("writes", [0, SIZE // 2])
def test_a_real_fork_shares_what_it_has_not_written(writes: int) -> None:
    with forked(writes) as (parent, child):
        rows = exposure.exposures(scan.take())

    (found,) = [each for each in rows if each.process and each.process.pid == parent]
    assert f"[{child}] was forked" in (found.note or "")
    # No memory cgroup of ours has a limit, so that what is used is what would be copied.
    shared = found.used or 0
    # The interpreter's own memory is on top of it.
    assert SIZE - writes - (4 << 20) <= shared << 10 <= SIZE - writes + (12 << 20)


def test_a_program_that_was_executed_shares_nothing() -> None:
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    try:
        assert not [
            each
            for each in exposure.exposures(scan.take())
            if each.process and each.process.pid == os.getpid()
        ]
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
