"""A slow fork off the wire: every value under its own name, and no phase of another fork."""

from __future__ import annotations

import struct

import pytest

from fork_trace.model import events, latency
from fork_trace.model.latency import phases


def raw(
    stamps: tuple[int, int, int] = (1, 96, 98),
    stamped: int = 7,
    waits_known: int = 1,
    delay_known: int = 1,
    pid: int = 17,
    processor: int = 3,
) -> bytes:
    """One of 100 ns."""
    numbers = struct.pack(
        "=Q3QQ7QQ6Q5Q",
        *(100, *stamps, stamped),
        *(*range(11, 18), 0b1111101, *(0, 60, 0, 0, 0, processor), waits_known, delay_known),
        *(40, 1, 18),
    )
    held = struct.pack("=IIQ16s", pid, 18, 1, b"evil\x1b[2J\0rest")
    return bytes(events.EVENT_BYTES) + numbers + held


def test_each_value_arrives_under_its_own_name() -> None:
    fork = latency.decode(raw())

    assert {"task": 1, "memory": 95, "cgroup": 2, "rest": 2} == fork.phases
    assert (100, 40, 18, True) == (fork.total_ns, fork.cpu_ns, fork.other_flags, fork.waits_are_all)
    sizes = dict(zip(latency.SIZES, range(11, 18)))
    del sizes["file"]  # not read
    assert sizes == fork.sizes
    assert (60, 3) == (fork.waits["cgroup-threadgroup-lock"], fork.waits["processor"])
    assert fork.holder == ("evil\x1b[2J", 17, 18)
    assert fork.held == "cgroup-threadgroup-lock"


def test_a_wait_that_was_not_watched_is_absent_and_not_0() -> None:
    assert {"cgroup-threadgroup-lock": 60, "processor": 3} == latency.decode(
        raw(waits_known=0)
    ).waits
    assert 0 == latency.decode(raw()).waits["mmap-lock"]


def test_how_long_it_waited_for_a_processor_is_known_apart_from_other_waits() -> None:
    watched, unwatched = raw(waits_known=0, processor=0), raw(delay_known=0, processor=0)

    assert 0 == latency.decode(watched).waits["processor"]
    assert "processor" not in latency.decode(unwatched).waits
    assert 0 == latency.decode(unwatched).waits["mmap-lock"]


def test_without_a_holder_nothing_is_said_to_be_held() -> None:
    fork = latency.decode(raw(pid=0))

    assert (None, None) == (fork.holder, fork.held)


def test_one_that_is_too_short_is_refused() -> None:
    with pytest.raises(events.BadEventError):
        latency.decode(raw()[:-1])


def test_a_phase_whose_end_was_not_seen_is_told_with_the_next_one() -> None:
    assert {"task+memory": 96, "cgroup": 2, "rest": 2} == phases(100, {1: 96, 2: 98})
    assert {"task": 1, "memory+cgroup": 97, "rest": 2} == phases(100, {0: 1, 2: 98})
    assert {"task": 1, "memory": 95, "cgroup+rest": 4} == phases(100, {0: 1, 1: 96})
    assert {} == phases(100, {})


@pytest.mark.parametrize("stamps", [{0: 50, 1: 20, 2: 98}, {0: 99, 1: 98, 2: 97}, {1: 0}])
def test_whatever_was_seen_the_phases_are_all_of_the_time(stamps: dict[int, int]) -> None:
    assert 100 == sum(phases(100, stamps).values())
    assert all(ns >= 0 for ns in phases(100, stamps).values())
