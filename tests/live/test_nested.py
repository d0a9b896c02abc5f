"""Limits further up, and two causes at once: the right level is named, and what the kernel met first."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from accuracy.judging import COUNT

from fork_trace.plan import RUNGS
from fork_trace.rehearse import find

from .conftest import (
    FORK_TRACE,
    IS_GUEST,
    TAKES,
    TIMEOUT_S,
    Rehearsed,
    host_by,
    read_capture,
    rehearse,
    start,
)

THREE_UP, FULL_ABOVE = find("pids-cgroup-three-up"), find("pid-namespace-full")
USER_ABOVE = find("rlimit-nproc-user-namespace")
MEMORY_FIRST, USER_FIRST = find("two-causes"), find("rlimit-and-pids")
MADE = tuple(
    each
    for each in (THREE_UP, FULL_ABOVE, USER_ABOVE, MEMORY_FIRST, USER_FIRST)
    if IS_GUEST or not each.host_wide
)

pytestmark = pytest.mark.live


@pytest.fixture(scope="module", params=RUNGS)
def nested(
    request: pytest.FixtureRequest,
    any_host: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Rehearsed:
    """One capture around all of them, on each rung."""
    if request.param in TAKES:
        host_by(request.param)
    return rehearse(tmp_path_factory.mktemp("nested"), MADE, "--attach", request.param)


@pytest.mark.parametrize("rung", RUNGS)
def test_cgroups_that_are_gone_before_the_reader_looks_are_named_by_their_paths(
    rung: str, any_host: dict[str, Any], tmp_path: Path
) -> None:
    if rung in TAKES:
        host_by(rung)
    file = tmp_path / "c.jsonl"
    process = start("capture", "--output", str(file), "--attach", rung)
    process.send_signal(signal.SIGSTOP)
    subprocess.run(
        [*FORK_TRACE, "rehearse", "--count", str(COUNT), THREE_UP.name],
        check=True,
        timeout=TIMEOUT_S,
    )
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    captured = read_capture(file, subprocess.CompletedProcess([], process.returncode, out, err))
    failures = captured.of(THREE_UP.comm)
    (leaf,) = {failure["cgroup"] for failure in failures}
    (total,) = captured.totals(THREE_UP.comm)

    assert captured.by(THREE_UP.comm, "cause") == {("pids-cgroup",): COUNT}
    assert leaf.endswith("/upper/middle/leaf")
    assert total["cgroup"] == leaf
    for failure in failures:
        evidence = failure["evidence"][0]

        assert (evidence["name"], evidence["value"], evidence["limit"]) == ("pids.max", 1, 1)
        assert evidence["where"].endswith(leaf.removesuffix("/upper/middle/leaf"))
        # The levels below it have a counter each, and no limit.
        assert [each["limit"] for each in failure["evidence"][1:4]] == [None] * 3


def test_a_full_pid_namespace_two_levels_up_is_named_by_its_level(nested: Rehearsed) -> None:
    for failure in nested.of(FULL_ABOVE):
        evidence = failure["evidence"][0]
        levels = [each["where"] for each in failure["evidence"]]

        assert evidence["name"] == "kernel.pid_max"
        assert "(level 1)" in evidence["where"]
        assert sorted(where.partition("level ")[2][0] for where in levels) == ["0", "1", "2", "3"]
        limits = {
            each["where"].partition("level ")[2][0]: each["limit"] for each in failure["evidence"]
        }

        assert limits["1"] == min(limits.values())


def test_the_user_namespaces_maker_and_not_the_process_is_at_its_limit(nested: Rehearsed) -> None:
    for failure in nested.of(USER_ABOVE):
        evidence = failure["evidence"][0]

        assert (evidence["name"], evidence["value"], evidence["limit"]) == ("RLIMIT_NPROC", 1, 1)
        assert "the whole host" in evidence["where"]
        # The process's own namespace has a level of its own, with room.
        assert len(failure["evidence"]) > 1


@pytest.mark.skipif(not IS_GUEST, reason="takes the host's commit limit away: run it by scripts/vm")
def test_of_a_full_cgroup_and_no_memory_to_commit_the_memory_is_asked_for_first(
    nested: Rehearsed,
) -> None:
    failures = nested.of(MEMORY_FIRST)

    assert sum(failure["count"] for failure in failures) == COUNT
    assert {(each["cause"], each["step"]) for each in failures} == {
        ("overcommit-never", "__vm_enough_memory")
    }


def test_of_a_full_cgroup_and_a_full_user_the_user_is_asked_for_first(nested: Rehearsed) -> None:
    failures = nested.of(USER_FIRST)

    assert sum(failure["count"] for failure in failures) == COUNT
    assert {(each["cause"], each["step"]) for each in failures} == {
        ("rlimit-nproc", "rlimit_nproc")
    }
