"""What `explain` reads of the host it runs on: only what is near or full, quickly, and without ever failing."""

from __future__ import annotations

from pathlib import Path

from conftest import MadeHost

from fork_trace.headroom import here


def test_only_what_is_near_or_full_is_read_the_fullest_first(made_host: MadeHost) -> None:
    assert here.Reading(()) == here.read(str(made_host.root))

    made_host.cgroup("app", 70, "70")
    made_host.cgroup("db", 90, "100")

    assert [("pids-cgroup", "full", 70, 70), ("pids-cgroup", "near", 90, 100)] == [
        (each.cause, each.level, each.used, each.limit)
        for each in here.read(str(made_host.root)).limits
    ]


def test_a_host_with_too_many_processes_is_not_waited_for(made_host: MadeHost) -> None:
    made_host.cgroup("app", 70, "70")

    assert here.Reading((), "this host has 2 processes") == here.read(str(made_host.root), 1)


def test_a_proc_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    reading = here.read(str(tmp_path))

    assert () == reading.limits
    assert reading.why
