"""Why a fork took long: no reason without at least half of the time, and none that its size denies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fork_trace.diagnosis.slow import BY_SLUG, REASONS, judge
from fork_trace.model import events
from fork_trace.model.latency import WAITS, SlowFork

PAGE = 4096
MS = 1_000_000
GIB = (1 << 30) // PAGE
KEY = events.Key("redis-server", 1, 0, 0, 0, "", "clone", False, False)


def slow(
    total_ms: float = 100,
    anon: int = 8 * GIB,
    swap: int = 0,
    flags: int = 0,
    phases: dict[str, float] | None = None,
    waits: dict[str, float] | None = None,
    cpu_ms: float | None = None,
) -> SlowFork:
    """One of a process of 8 GiB, most of whose time went to its memory."""
    parts = (
        {"task": 1, "memory": total_ms - 3, "cgroup": 1, "rest": 1} if phases is None else phases
    )
    event = events.Event(time_ns=1, key=KEY, flags=flags, pid=7, tid=7, ppid=1, parent_comm="x")
    return SlowFork(
        event=event,
        total_ns=round(total_ms * MS),
        phases={name: round(ms * MS) for name, ms in parts.items()},
        sizes={"anon": anon, "swap": swap, "pgtables": anon * 8},
        waits={name: round(ms * MS) for name, ms in (waits or {}).items()},
        waits_are_all=waits is not None,
        cpu_ns=None if cpu_ms is None else round(cpu_ms * MS),
        other_flags=0,
    )


def named(fork: SlowFork) -> tuple[str, str | None]:
    """Return the reason and how sure it is."""
    judged = judge(fork, PAGE)
    return judged.reason.slug, judged.certainty


NO_WAIT = dict.fromkeys(WAITS, 0.0)
UNKNOWN = ("unknown", None)


def test_a_large_process_copies_page_tables() -> None:
    assert ("page-tables", "inferred") == named(slow())
    assert ("page-tables", "inferred") == named(slow(waits=NO_WAIT, cpu_ms=97))


def test_one_that_is_swapped_out_copies_swap_entries() -> None:
    assert ("swap", "inferred") == named(slow(anon=GIB, swap=7 * GIB))


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_of_half_the_time_is_observed(wait: str) -> None:
    assert (wait, "observed") == named(slow(waits={**NO_WAIT, wait: 50}))
    assert UNKNOWN == named(slow(anon=0, waits={**NO_WAIT, wait: 49.9}))


@pytest.mark.parametrize(
    "fork",
    [
        slow(anon=GIB // 100),  # 10 MiB do not take 100 ms
        slow(flags=0x100),  # CLONE_VM: nothing is copied
        slow(flags=0x40000000),  # CLONE_NEWNET: made in that phase too
        slow(flags=1 << 63),  # not known
        slow(waits=NO_WAIT, cpu_ms=20),  # it did not run
        slow(phases={"task": 90, "memory": 8, "cgroup": 1, "rest": 1}),
        slow(phases={"task": 1, "memory": 8, "cgroup": 90, "rest": 1}),
        slow(phases={"task": 1, "memory": 8, "cgroup": 1, "rest": 90}),
        slow(phases={"task": 33, "memory": 33, "cgroup": 33, "rest": 1}),
        slow(phases={"task+memory": 98, "cgroup": 1, "rest": 1}),
        slow(phases={"task": 1, "memory+cgroup": 98, "rest": 1}),
        slow(phases={}, anon=GIB // 10),
        replace(slow(), sizes={"anon": 8 * GIB}),
        replace(slow(), sizes={}),
    ],
)
def test_what_does_not_explain_the_time_is_no_reason(fork: SlowFork) -> None:
    assert UNKNOWN == named(fork)


def test_without_phases_only_what_is_certain_by_size_is_told() -> None:
    assert ("page-tables", "inferred") == named(slow(phases={}))
    assert UNKNOWN == named(slow(phases={}, flags=0x100))


def test_of_each_reason_it_is_told_what_it_is_and_what_to_do() -> None:
    assert set(WAITS) | {"page-tables", "swap", "unknown"} == set(BY_SLUG)
    for reason in REASONS[:-1]:
        assert ["verify", "mitigate", "fix"] == [each.kind for each in reason.advice]
        assert all(each.text.endswith(".") for each in reason.advice)
        assert not reason.means.endswith(".")
