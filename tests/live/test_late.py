"""Processes that the OOM killer ends, on the running kernel: which of them a fork is behind, and which not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import own_cgroups
import pytest
from building import PROGRAMS

from fork_trace.rehearse.restore import places

from .conftest import FORK_TRACE, IS_GUEST, TIMEOUT_S, Captured, capture

pytestmark = pytest.mark.live

COUNT = 23
MOST_OTHERS = 2
FEW = 5
MIB = 1 << 20
SITUATIONS = ("prefork", "reader", "filer", "executed", "crossed", "grouped")


@contextmanager
def memory_cgroup() -> Iterator[Path]:
    """An empty cgroup with the memory controller."""
    version, base = places(Path("/proc/self/mountinfo").read_text(), "memory")[0]
    with own_cgroups.made(Path(base), "ft-late", "+memory" if version == 2 else "") as place:
        yield place


@pytest.fixture(scope="module")
def captured(
    takes_each: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Captured]:
    """All of it, once for each way of attaching."""
    place = tmp_path_factory.mktemp("late")
    rehearse = [*FORK_TRACE, "rehearse", "cow-oom", "cow-oom-parent", "--count", str(COUNT)]
    with memory_cgroup() as cgroup:
        program = [sys.executable, str(PROGRAMS / "late.py"), str(cgroup)]
        lines = [rehearse]
        lines += [[*program, name, str(FEW)] for name in SITUATIONS]
        if IS_GUEST:  # what takes all of a host
            lines += [[*program, "huge", str(COUNT)], [*program, "taken", str(COUNT)]]
            lines += [[*program, "crowded", "1"]]
        script = place / "all.sh"
        text = "\n".join(" ".join(line) for line in lines)
        script.write_text(f"cd {place} || exit\n{text}\n")
        made = capture(
            place / "late.jsonl", "sh", str(script), options=takes_each, timeout_s=5 * TIMEOUT_S
        )
    yield made


def deaths(captured: Captured, *comms: str) -> list[dict[str, Any]]:
    """Those of these commands; natively others are killed as well."""
    found = [record for record in captured.records if record["type"] == "death"]
    return [each for each in found if each["comm"] in comms] if comms else found


def causes(found: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((each["cause"], each["certainty"]) for each in found)


@pytest.mark.parametrize("comm", ["ft-cow-oom", "ft-cow-oom-par"])
def test_each_death_of_a_rehearsal_is_told_with_its_fork(captured: Captured, comm: str) -> None:
    told = deaths(captured, comm)
    # While one of the two is still leaving, the other one may be killed as well.
    others = [each for each in told if each["fork"] is None and each["allocator"] is not None]
    found = [each for each in told if each not in others[:MOST_OTHERS]]

    assert COUNT == len(found), captured.done.stdout
    assert len(told) == len({each["pid"] for each in told})
    assert {("copy-on-write", "observed"): COUNT} == causes(found)
    for death in found:
        fork, first = death["fork"], death["levels"][0]
        side = "parent_pid" if comm == "ft-cow-oom-par" else "child_pid"
        assert death["pid"] == fork[side] == death["allocator"]["pid"]
        assert fork["parent_pid"] != fork["child_pid"]
        assert comm == fork["parent_comm"]
        assert 0 <= fork["age_s"] < 100
        assert fork["unshared_bytes_max"] <= first["limit"]
        assert "fork-trace-rehearse-" in first["where"]
        assert first["used"] >= first["limit"] - MIB
        for name in ("parent_anon_bytes", "child_anon_bytes"):
            assert 24 * MIB <= fork[name] <= 64 * MIB
        assert death["uid"] == 0


def test_nothing_is_lost_and_no_fork_failed(captured: Captured) -> None:
    summary = captured.summary

    assert 0 == captured.count("ft-cow-oom") == summary["lost"]
    assert "unknown" not in summary["deaths"]
    assert Counter(each["cause"] for each in deaths(captured)) == summary["deaths"]
    assert 1 == captured.done.returncode


def test_a_worker_that_takes_memory_of_its_own_is_not_killed_by_its_fork(
    captured: Captured,
) -> None:
    found = deaths(captured, "lt-prefork-work")

    assert FEW == len(found)
    assert {"memory-cgroup-oom"} == {cause for cause, _ in causes(found)}
    assert {None} == {each["fork"] and "fork" for each in found}


@pytest.mark.parametrize("comm", ["lt-reader-work", "lt-filer-work"])
def test_pages_that_no_fork_shared_are_no_copies_of_it(captured: Captured, comm: str) -> None:
    found = deaths(captured, comm)

    assert FEW == len(found)
    assert {("memory-cgroup-oom", "observed"): FEW} == causes(found)


def test_of_a_group_that_is_killed_as_a_whole_each_one_is_told(captured: Captured) -> None:
    found = deaths(captured, "lt-grouped", "lt-grouped-copy")
    if places(Path("/proc/self/mountinfo").read_text(), "memory")[0][0] == 1:
        assert FEW <= len(found)  # v1 kills no cgroup as a whole, and takes either
        return

    assert {"lt-grouped": FEW, "lt-grouped-copy": FEW} == Counter(each["comm"] for each in found)
    assert {("copy-on-write", "observed"): 2 * FEW} == causes(found)
    assert 2 * FEW == len({each["pid"] for each in found})
    assert {"lt-grouped"} == {each["fork"]["parent_comm"] for each in found}


def test_what_executed_a_program_has_no_fork_behind_it(captured: Captured) -> None:
    found = deaths(captured, "lt-executed-gro", "lt-executed-grow")

    assert FEW == len(found)
    assert {"memory-cgroup-oom"} == {cause for cause, _ in causes(found)}


def test_copies_that_leave_no_room_are_inferred_where_the_kill_comes_by_something_else(
    captured: Captured,
) -> None:
    found = deaths(captured, "lt-crossed-copy", "lt-crossed")

    assert FEW == len(found)
    assert {("copy-on-write", "inferred"): FEW} == causes(found)
    assert {"lt-crossed"} == {each["fork"]["parent_comm"] for each in found}


@pytest.mark.parametrize(
    ("comm", "parent"), [("lt-huge-copy", "lt-huge"), ("lt-taken-read", "lt-taken")]
)
def test_a_child_without_a_huge_page_is_told_with_its_fork(
    captured: Captured, comm: str, parent: str
) -> None:
    found = deaths(captured, comm)

    if not IS_GUEST or captured.header["attach"] == "tracepoint":
        assert [] == found
        return
    assert COUNT == len(found)
    assert {("huge-page-copy", "observed"): COUNT} == causes(found)
    for death in found:
        assert (parent, death["pid"]) == (death["fork"]["parent_comm"], death["fork"]["child_pid"])
        pool = {"where": "/sys/kernel/mm/hugepages/hugepages-2048kB", "used": 8 * MIB}
        assert [{**pool, "limit": 8 * MIB}] == death["levels"]


def test_where_the_host_is_full_it_is_the_hosts(captured: Captured) -> None:
    found = deaths(captured, "lt-crowded-grow")

    assert IS_GUEST * 1 == len(found)
    for death in found:
        assert ("host-oom", "observed", None) == (
            death["cause"],
            death["certainty"],
            death["fork"],
        )
        assert "host" == death["levels"][0]["where"]


def test_the_report_tells_all_of_it(captured: Captured) -> None:
    told = captured.done.stdout

    assert "copy-on-write: fork went through" in told
    assert "memory-cgroup-oom: " in told
    assert f"{COUNT} x killed (observed): ft-cow-oom" in told


@pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx")
def test_a_worker_of_nginx_that_grows_is_not_killed_by_its_fork(tmp_path: Path) -> None:
    case = PROGRAMS / "nginx_worker.sh"
    with memory_cgroup() as cgroup:
        command = ("sh", str(case), str(cgroup), str(tmp_path), str(FEW))
        made = capture(tmp_path / "nginx.jsonl", *command, timeout_s=5 * TIMEOUT_S)
    found = deaths(made, "nginx")

    assert FEW == len(found), made.done.stdout + made.done.stderr
    assert {("memory-cgroup-oom", "observed")} == set(causes(found))
    for death in found:
        assert death["fork"] is None
        # That it shares memory with its master is known, and taken for no proof.
        parent = death["relatives"][0]
        assert ("nginx", "parent") == (parent["comm"], parent["kind"])
        assert 20 * MIB <= parent["anon_bytes"]


@pytest.mark.skipif(not shutil.which("redis-server"), reason="needs redis-server and redis-cli")
def test_redis_is_told_what_killed_its_snapshot(tmp_path: Path) -> None:
    case = PROGRAMS / "redis_snapshot.sh"
    with memory_cgroup() as cgroup:
        command = ("sh", str(case), str(cgroup), str(tmp_path))
        options = ("--large-forks",)
        made = capture(tmp_path / "redis.jsonl", *command, options=options, timeout_s=5 * TIMEOUT_S)
    found = deaths(made, "redis-server")

    assert found, made.done.stdout + made.done.stderr
    for death in found:
        assert "copy-on-write" == death["cause"]
        assert "redis-server" == death["fork"]["parent_comm"]
        assert str(cgroup) == death["levels"][0]["where"]
        # Above 64 MiB: where a fork's own memory is read by plain loads, it is remembered.
        assert (made.header["attach"] == "fexit") == (death["fork"]["caller"] is not None)
    assert "maxmemory well below the limit" in " ".join(made.done.stdout.split())


def test_the_experiment_shows_what_is_copied_when(usable: dict[str, Any]) -> None:
    del usable
    done = subprocess.run(
        [*FORK_TRACE, "rehearse", "cow", "--json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    after_fork, reading, writing = (
        int(line.partition(": ")[2].partition(" ")[0])
        for line in done.stdout.partition('"notes"')[2].split("Child ")[1:]
    )

    assert after_fork < 1000
    assert reading < 1000
    pages = 100 * MIB // os.sysconf("SC_PAGE_SIZE")
    assert pages <= writing < pages + 1000
