"""What is seen of a caller and its cgroups right after, and what is remembered of those that are gone."""

from __future__ import annotations

import errno
import mmap
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from samples import a_host_with_v2, failed, observer, sample

from fork_trace.collect.observe import Cgroups, LargeMappings, ProcessSnapshot
from fork_trace.diagnosis.verdict import INFERRED, Verdict
from fork_trace.host import procfs
from fork_trace.model import events

KEY = replace(failed(errno.EAGAIN), cgroup_id=2**62)
ENOMEM = failed(errno.ENOMEM, "overcommit")
LEVELS = (
    events.Level("pids-cgroup", 0, 2**62, 1, 5),
    events.Level("pids-cgroup", 1, 2**62 + 1, 1, 1),
    events.Level("memory-cgroup", 0, 2**62 + 2, 1, 1),
)
NOT_THERE = 1 << 30  # no pid is so large


def test_the_cgroups_of_a_sample_are_known_when_they_are_gone(tmp_path: Path) -> None:
    cgroups = Cgroups(a_host_with_v2(tmp_path))
    event = replace(sample(KEY), levels=LEVELS, cgroup_path="/top/leaf")

    cgroups.note(event)

    assert ("/sys/fs/cgroup/top/leaf", "/top/leaf") == (cgroups.directory(KEY), cgroups.own(KEY))
    assert ["/sys/fs/cgroup/top/leaf", "/sys/fs/cgroup/top", None] == [
        cgroups.level(level, {}) for level in LEVELS
    ], "the last one's levels begin elsewhere"


def test_without_a_path_nothing_is_known_of_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    cgroups = Cgroups(a_host_with_v2(tmp_path))

    cgroups.note(replace(sample(KEY), levels=LEVELS))

    assert cgroups.directory(KEY) is None
    assert cgroups.own(KEY) is None


def test_a_cgroup_whose_id_is_not_known_is_named_by_what_proc_showed(tmp_path: Path) -> None:
    cgroups = Cgroups(a_host_with_v2(tmp_path))
    lines = [procfs.CgroupLine(4, "pids", "/v1/leaf"), procfs.CgroupLine(0, "", "/v2/leaf")]

    assert "/v2/leaf" == cgroups.own(KEY, lines)
    assert "/v1" == cgroups.level(LEVELS[1], {"pids_hierarchy": 4}, lines)
    assert cgroups.level(LEVELS[1], {}, lines) is None, "in v2 it can begin above the task's own"


def test_of_several_users_and_cgroups_none_is_named(tmp_path: Path) -> None:
    cgroups = Cgroups(a_host_with_v2(tmp_path))
    cgroups.note(replace(sample(KEY), cgroup_path="/leaf"))

    assert cgroups.own(replace(KEY, is_of_all=True)) is None


def test_the_cgroup_that_limits_is_the_level_whose_number_refused(tmp_path: Path) -> None:
    cgroups = Cgroups(a_host_with_v2(tmp_path))
    event = replace(sample(KEY), levels=LEVELS, cgroup_path="/top/leaf")
    cgroups.note(event)

    assert cgroups.limiting(event, ()) is None
    assert "/top" == cgroups.limiting(replace(event, numbers={"pids_cgroup": 2**62 + 1}), ())


def test_a_caller_is_looked_at_while_it_is_there_and_remembered_afterwards(tmp_path: Path) -> None:
    looking = observer(tmp_path)
    pid = os.getpid()
    seen = looking.look(sample(KEY))

    assert (os.path.realpath(sys.executable), procfs.cgroups(pid)) == (seen.exe, seen.cgroups)
    assert ProcessSnapshot(None, [], is_in_proc=True) == looking.look(sample(KEY, NOT_THERE)), (
        "of another one"
    )


def test_who_has_exited_is_who_was_seen_before_by_that_number_name_and_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = observer(tmp_path)
    before = looking.look(sample(KEY))
    monkeypatch.setattr(procfs, "exe", lambda pid: None)
    monkeypatch.setattr(procfs, "cgroups", lambda pid: [])

    assert before == looking.look(sample(KEY))
    other = sample(replace(KEY, comm="another"))
    assert ProcessSnapshot(None, [], is_in_proc=True) == looking.look(other)


def test_where_pids_are_others_nobody_is_looked_at(tmp_path: Path) -> None:
    looking = observer(tmp_path, sees_all_pids=False)
    stack = events.Stack(time_ns=0, tid=os.getpid(), registers=(), start=0)
    looking.keep_stacks([stack])

    assert ProcessSnapshot(None, (), stack) == looking.look(sample(KEY))
    assert looking.caller(sample(KEY)).pid is None
    assert (
        looking.held(sample(KEY), ProcessSnapshot(None), Verdict("threads-max", INFERRED)) is None
    )


def test_a_stack_goes_with_the_sample_of_its_time_and_thread_once(tmp_path: Path) -> None:
    looking = observer(tmp_path)
    stacks = [
        events.Stack(time_ns=time_ns, tid=tid, registers=(), start=0)
        for time_ns, tid in ((5, os.getpid()), (6, os.getpid()), (5, NOT_THERE))
    ]
    looking.keep_stacks(stacks)
    event = replace(sample(KEY), time_ns=5)

    assert stacks[0] == looking.look(event).stack
    assert looking.look(event).stack is None
    assert looking.look(replace(event, time_ns=7)).stack is None
    assert stacks[1] == looking.look(replace(event, time_ns=6)).stack


def test_stacks_whose_samples_were_lost_are_given_up(tmp_path: Path) -> None:
    looking = observer(tmp_path, sees_all_pids=False)
    lost = [events.Stack(time_ns=number, tid=1, registers=(), start=0) for number in range(513)]
    looking.keep_stacks(lost)
    looking.keep_stacks([])

    assert looking.look(replace(sample(KEY, 1), time_ns=7)).stack is None


# Larger than anything that other tests, or the arenas of their threads, map in this process.
LARGE = 1 << 30


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_a_burst_of_one_process_reads_its_mappings_once_in_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(procfs, "ram_and_swap", lambda: LARGE)
    clock = Clock()
    large = LargeMappings(clock)

    with mmap.mmap(-1, LARGE + 4096, flags=mmap.MAP_PRIVATE):
        assert large.has_one(sample(ENOMEM)) is True
    clock.now_s += 1
    assert large.has_one(sample(ENOMEM)) is True, "kept"
    clock.now_s += 0.001
    assert large.has_one(sample(ENOMEM)) is False, "read again"
    clock.now_s += 0.999
    with mmap.mmap(-1, LARGE + 4096, flags=mmap.MAP_PRIVATE):
        assert large.has_one(sample(ENOMEM)) is False, "that was kept, too"


def test_a_caller_that_has_less_memory_by_now_may_have_given_up_what_was_refused() -> None:
    event = replace(sample(ENOMEM), numbers={"data_pages": 1 << 40})

    assert LargeMappings().has_one(event) is None


def test_the_processes_that_are_remembered_are_bounded() -> None:
    large = LargeMappings()
    for pid in range(NOT_THERE, NOT_THERE + 1024):
        assert large.has_one(sample(ENOMEM, pid)) is None
    assert 1024 == len(large)

    large.has_one(sample(ENOMEM))

    assert 1 == len(large)


def test_without_meminfo_no_mapping_is_called_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "ram_and_swap", lambda: None)

    assert LargeMappings().has_one(sample(ENOMEM)) is None


@pytest.mark.parametrize(
    ("cause", "numbers", "expected"),
    [
        ("threads-max", {}, {"threads", "threads_max"}),
        ("threads-max", {"nr_threads": 1, "max_threads": 2}, set()),
        ("overcommit-never", {}, {"overcommit_memory", "ram_and_swap"}),
        ("overcommit-never", {"overcommit_memory": 2}, {"ram_and_swap"}),
        ("overcommit-never", {"overcommit_memory": 2, "pages_ram": 9}, set()),
        ("rlimit-nproc", {}, set()),
    ],
)
def test_only_what_the_kernel_side_could_not_read_is_read_from_proc(
    tmp_path: Path, cause: str, numbers: dict[str, int], expected: set[str]
) -> None:
    event = replace(sample(KEY), numbers=numbers)
    host = observer(tmp_path).host(event, Verdict(cause, INFERRED))
    always = {"page_bytes", "hugetlb_pages"}
    read = {name for name, value in host._asdict().items() if value is not None}

    assert expected == read - always


def test_a_reading_of_the_host_is_the_one_nearest_to_each_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter([(100, 20), (400, 8320), (1000, 9)])

    def number(path: str) -> int | None:
        return limits.pop() if path.endswith("threads-max") else None

    def clock() -> int:
        now_ns, limit = next(readings)
        limits.append(limit)
        return now_ns

    limits: list[int] = []
    monkeypatch.setattr(procfs, "number", number)
    monkeypatch.setattr("fork_trace.collect.observe.time.monotonic_ns", clock)
    looking = observer(tmp_path)

    def limit(time_ns: int) -> int | None:
        event = replace(sample(KEY), time_ns=time_ns)
        return looking.host(event, Verdict("threads-max", INFERRED)).threads_max

    # The first one is all there is; of two, what was read just before can be nearer.
    assert [20, 20] == [limit(time_ns) for time_ns in (90, 100)]
    assert [20, 20, 8320, 8320] == [limit(time_ns) for time_ns in (120, 249, 251, 400)]
    assert [8320, 9] == [limit(time_ns) for time_ns in (500, 900)]
