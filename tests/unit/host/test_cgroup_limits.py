"""Limits and counts of cgroups: trees of files in both versions, and this machine's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fork_trace.budget import Budget
from fork_trace.host import cgroup_limits
from fork_trace.host.cgroup_limits import Event, MemoryLevel, PidsLimit


def limited(place: Path, limit: str, current: str = "7", events: str = "max 23") -> Path:
    place.mkdir(parents=True)
    for name, text in (("max", limit), ("current", current), ("events", events)):
        (place / f"pids.{name}").write_text(text + "\n")
    return place


def tree(tmp_path: Path) -> Path:
    top = tmp_path / "cg"
    limited(top / "app", "70")
    limited(top / "app" / "leaf", "max", events="max 0")
    limited(top / "app" / "leaf" / "below", "9", "9", events="max 5")
    (top / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "self").mkdir()
    mountinfo = f"25 24 0:23 / {top} rw - cgroup2 cgroup2 rw\n"
    (tmp_path / "self/mountinfo").write_text(mountinfo * 2)
    return top


def walk(tmp_path: Path) -> cgroup_limits.Walked:
    return cgroup_limits.walk(str(tmp_path))


def test_each_cgroup_with_a_limit_of_pids_is_listed_once(tmp_path: Path) -> None:
    top = tree(tmp_path)

    assert [
        PidsLimit(f"{top}/app", 7, 70, 23),
        PidsLimit(f"{top}/app/leaf/below", 9, 9, 5),
    ] == walk(tmp_path).pids


def test_the_most_so_far_is_read_where_the_kernel_keeps_it(tmp_path: Path) -> None:
    (tree(tmp_path) / "app" / "pids.peak").write_text("69\n")

    assert [69, None] == [each.peak for each in walk(tmp_path).pids or []]


def test_the_limit_of_a_container_s_own_cgroup_is_listed_too(tmp_path: Path) -> None:
    top = tree(tmp_path)
    (top / "pids.max").write_text("5\n")

    assert PidsLimit(str(top), None, 5, None) in (walk(tmp_path).pids or [])


def test_a_tree_without_the_controller_is_not_searched(tmp_path: Path) -> None:
    (tree(tmp_path) / "app" / "pids.max").unlink()

    found = walk(tmp_path)

    assert ([], []) == (found.pids, found.events)


def test_without_the_controller_nothing_is_known(tmp_path: Path) -> None:
    (tree(tmp_path) / "cgroup.controllers").write_text("cpu\n")

    assert walk(tmp_path).pids is None


@pytest.mark.parametrize("name", ["pids.current", "pids.events"])
def test_a_file_that_is_gone_meanwhile_is_unknown(tmp_path: Path, name: str) -> None:
    (tree(tmp_path) / "app" / name).unlink()

    first = (walk(tmp_path).pids or [])[0]

    assert (first.current if name == "pids.current" else first.hits) is None
    assert 70 == first.limit


def test_refusals_are_told_of_cgroups_without_a_limit_too(tmp_path: Path) -> None:
    top = tree(tmp_path)
    (top / "app" / "leaf" / "pids.events").write_text("max 181\n")

    assert [
        Event(f"{top}/app", "pids.events max", 23),
        Event(f"{top}/app/leaf", "pids.events max", 181),
        Event(f"{top}/app/leaf/below", "pids.events max", 5),
    ] == walk(tmp_path).events


def test_where_the_kernel_counts_for_all_above_too_each_refusal_is_told_once(
    tmp_path: Path,
) -> None:
    top = tree(tmp_path)
    (top / "app" / "pids.events.local").write_text("max 0\n")
    (top / "app" / "leaf" / "pids.events.local").write_text("max 0\n")
    (top / "app" / "leaf" / "below" / "pids.events.local").write_text("max 5\n")

    found = walk(tmp_path)

    assert [Event(f"{top}/app/leaf/below", "pids.events max", 5)] == found.events
    assert [23, 5] == [each.hits for each in found.pids or []]


def memory_events(place: Path, local: str, every: str) -> None:
    (place / "memory.events.local").write_text(local)
    (place / "memory.events").write_text(every)


def test_a_kill_is_told_where_its_victim_was(tmp_path: Path) -> None:
    top = tree(tmp_path)
    limited(top / "db", "max", events="max 0")
    limited(top / "db" / "worker", "max", events="max 0")
    memory_events(top / "db", "oom 3\noom_kill 0\n", "oom 3\noom_kill 3\n")
    memory_events(top / "db" / "worker", "oom 0\noom_kill 3\n", "oom 0\noom_kill 3\n")

    assert [Event(f"{top}/db/worker", "memory.events oom_kill", 3)] == [
        each for each in walk(tmp_path).events if each.name.startswith("memory")
    ]


def test_memory_that_ran_out_with_nothing_to_kill_is_told(tmp_path: Path) -> None:
    top = tree(tmp_path)
    memory_events(top / "app", "oom 7\noom_kill 0\n", "oom 7\noom_kill 2\n")

    assert Event(f"{top}/app", "memory.events oom", 5) in walk(tmp_path).events


def test_in_v1_the_memory_hierarchy_has_the_kills(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    job = tmp_path / "memory" / "job"
    job.mkdir(parents=True)
    for place in (job.parent, job):
        (place / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    (job / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    limited(tmp_path / "pids" / "job", "9")
    (tmp_path / "self/mountinfo").write_text(
        f"39 31 0:36 / {tmp_path}/pids rw - cgroup cgroup rw,pids\n"
        f"40 31 0:37 / {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
    )

    found = walk(tmp_path)

    assert [PidsLimit(f"{tmp_path}/pids/job", 7, 9, 23)] == found.pids
    assert Event(str(job), "memory.oom_control oom_kill", 4) in found.events


def test_a_host_with_too_many_cgroups_says_so(tmp_path: Path) -> None:
    tree(tmp_path)

    found = cgroup_limits.walk(str(tmp_path), Budget(120))

    assert found.unseen
    assert 1 == len(found.pids or [])


def test_a_thousand_cgroups_are_read_in_a_tenth_of_a_second_or_so(tmp_path: Path) -> None:
    top = tree(tmp_path)
    for number in range(1000):
        limited(top / f"job{number}", "70")

    found = walk(tmp_path)

    assert (1002, None) == (len(found.pids or []), found.unseen)


def test_our_own_machine_has_its_cgroups_read() -> None:
    found = cgroup_limits.walk()

    assert found.pids is None or all(os.path.isabs(each.directory) for each in found.pids)
    assert found.unseen is None


def in_cgroup(tmp_path: Path, line: str) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "cgroup").write_text(line)


MIB = 1 << 20


def bounded(
    place: Path, limit: str, current: int, cache: int = 0, swap: tuple[str, int] | None = None
) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "memory.max").write_text(limit + "\n")
    (place / "memory.current").write_text(f"{current}\n")
    (place / "memory.stat").write_text(
        f"anon 1\ninactive_file {cache}\nactive_file 0\nslab_reclaimable 0\nslab 9\n"
    )
    if swap:
        (place / "memory.swap.max").write_text(f"{swap[0]}\n")
        (place / "memory.swap.current").write_text(f"{swap[1]}\n")


def test_each_level_with_a_limit_of_memory_is_told_without_what_can_be_dropped(
    tmp_path: Path,
) -> None:
    top = tree(tmp_path)
    bounded(top / "app", str(100 * MIB), 90 * MIB, cache=40 * MIB)
    bounded(top / "app" / "leaf", "max", 80 * MIB)
    bounded(top / "app" / "leaf" / "below", str(64 * MIB), 8 * MIB, swap=(str(3 * MIB), MIB))
    in_cgroup(tmp_path, "0::/app/leaf/below\n")

    assert [
        MemoryLevel(f"{top}/app/leaf/below", 64 << 10, 8 << 10, 2 << 10),
        MemoryLevel(f"{top}/app", 100 << 10, 50 << 10, 5 << 10),
    ] == cgroup_limits.memory_levels(42, 5 << 10, str(tmp_path))


def test_a_v1_limit_is_told_too_and_unlimited_is_none(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    job = tmp_path / "memory" / "job"
    job.mkdir(parents=True)
    (tmp_path / "self/mountinfo").write_text(
        f"40 31 0:37 / {tmp_path}/memory rw - cgroup cgroup rw,memory\n"
    )
    for place, limit in ((job.parent, "9223372036854771712"), (job, str(100 * MIB))):
        (place / "memory.limit_in_bytes").write_text(limit)
        (place / "memory.usage_in_bytes").write_text(str(60 * MIB))
        (place / "memory.stat").write_text(f"total_inactive_file {10 * MIB}\ninactive_file 0\n")
    in_cgroup(tmp_path, "7:memory:/job\n0::/\n")

    assert [MemoryLevel(str(job), 100 << 10, 50 << 10, 0)] == cgroup_limits.memory_levels(
        42, 0, str(tmp_path)
    )


@pytest.mark.parametrize("line", ["", "0::/../elsewhere\n", "1:cpu:/app\n"])
def test_a_cgroup_that_is_not_mounted_here_is_not_known(tmp_path: Path, line: str) -> None:
    tree(tmp_path)
    in_cgroup(tmp_path, line)

    assert cgroup_limits.memory_levels(42, 0, str(tmp_path)) is None
