"""One pass over /proc: a tree of files from which one thing is taken away, and this machine's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import INITIAL_PID, INITIAL_USER, MadeHost

from fork_trace.headroom import scan
from fork_trace.headroom.limits import Process, Tally

ADMIN, RESOURCE, CHOWN = 1 << 21, 1 << 24, 1 << 0


def take(host: MadeHost, **more: Any) -> scan.Survey:
    return scan.take(str(host.proc), **more)


def test_all_tasks_are_counted_with_their_user(made_host: MadeHost) -> None:
    found = take(made_host)

    assert (7, 2) == (found.tasks, found.processes)
    assert {
        (INITIAL_USER, 0): Tally(1, None, None, True),
        (INITIAL_USER, 1000): Tally(6, 100, Process(1000, "java"), False),
    } == found.tallies
    assert found.unseen is None


def test_the_lowest_limit_of_a_user_is_the_one_with_its_process(made_host: MadeHost) -> None:
    made_host.add(1001, "sh", uid=1000, nproc="20")
    made_host.add(1002, "sh", uid=1000, nproc="unlimited")

    tally = take(made_host).tallies[(INITIAL_USER, 1000)]

    assert Tally(8, 20, Process(1001, "sh"), False) == tally


def test_a_limit_of_0_is_a_vow_and_no_shortage(made_host: MadeHost) -> None:
    made_host.add(1001, "sandbox", uid=1000, nproc="0")

    assert 100 == take(made_host).tallies[(INITIAL_USER, 1000)].lowest


@pytest.mark.parametrize(
    ("capabilities", "is_exempt"), [(ADMIN, True), (RESOURCE, True), (CHOWN, False), (0, False)]
)
def test_a_process_with_one_of_two_capabilities_is_exempt(
    made_host: MadeHost, capabilities: int, is_exempt: bool
) -> None:
    made_host.add(1500, "daemon", uid=77, capabilities=capabilities)

    assert is_exempt == take(made_host).tallies[(INITIAL_USER, 77)].is_exempt


def test_capabilities_of_a_user_namespace_exempt_from_nothing(made_host: MadeHost) -> None:
    made_host.add(1500, "root-inside", uid=0, capabilities=ADMIN, namespaces=(INITIAL_PID, 42))

    assert not take(made_host).tallies[(42, 0)].is_exempt


def test_a_limit_that_cannot_be_read_is_counted_as_such(made_host: MadeHost) -> None:
    (made_host.proc / "1000" / "limits").unlink()

    assert Tally(6, None, None, False, 1) == take(made_host).tallies[(INITIAL_USER, 1000)]


def test_a_zombie_is_a_task_of_its_user_and_put_down_to_its_parent(made_host: MadeHost) -> None:
    made_host.add(1001, "sh", uid=1000, state="Z", parent=1000, threads=0, nproc="1")

    found = take(made_host)

    assert Tally(7, 100, Process(1000, "java"), False) == found.tallies[(INITIAL_USER, 1000)]
    assert {1000: 1} == found.zombies


def test_numbers_below_the_reserved_ones_do_not_compete(made_host: MadeHost) -> None:
    assert 7 == take(made_host, first_number=1).numbers
    assert 6 == take(made_host, first_number=300).numbers


def test_threads_of_a_low_leader_are_looked_at_one_by_one(made_host: MadeHost) -> None:
    place = made_host.add(40, "before_fork", threads=3)
    for tid in (40, 41, 5000):
        (place / "task" / str(tid)).mkdir(parents=True)

    assert 7 == take(made_host, first_number=300).numbers


def test_numbers_above_a_lowered_pid_max_do_not_compete(made_host: MadeHost) -> None:
    made_host.add(300, "sleeper")

    assert 1 == take(made_host, first_number=300, pid_max=301).numbers


def test_a_group_keeps_the_number_of_its_leader_that_has_ended(made_host: MadeHost) -> None:
    made_host.add(1001, "sh", group=900)

    assert 9 == take(made_host).numbers


def test_tasks_of_a_pid_namespace_are_counted_apart(made_host: MadeHost) -> None:
    made_host.add(1001, "inside", threads=4, pids="\t1", namespaces=(42, INITIAL_USER))

    found = take(made_host)

    assert {42: 4} == found.pid_tasks
    assert 11 == found.tasks


@pytest.mark.parametrize(
    ("ruin", "tasks"),
    [
        (lambda place: (place / "status").unlink(), 1),
        (lambda place: (place / "status").write_text(""), 1),
        (lambda place: (place / "status").write_text("Name:\tjava\nState:\tS\nPPid:\t1\n"), 1),
        (lambda place: (place / "status").write_text("no process"), 1),
        (lambda place: (place / "ns" / "user").unlink(), 7),
    ],
)
def test_a_process_that_ends_meanwhile_ruins_nothing(
    made_host: MadeHost, ruin: Callable[[Path], Any], tasks: int
) -> None:
    ruin(made_host.proc / "1000")

    assert tasks == take(made_host).tasks


def test_a_pass_that_takes_too_long_says_what_it_left_out(made_host: MadeHost) -> None:
    clock = iter([0.0, 0.0, 11.0])

    found = take(made_host, clock=lambda: next(clock))

    assert 1 == found.processes
    assert "1 processes had not been read after 10 s" == found.unseen


def test_a_proc_that_hides_others_is_told(made_host: MadeHost) -> None:
    (made_host.proc / "1").rename(made_host.root / "hidden")

    assert "/proc hides other users' processes (hidepid)" == take(made_host).unseen


def test_inside_a_container_not_all_tasks_are_seen(made_host: MadeHost) -> None:
    link = made_host.proc / "self" / "ns" / "pid"
    link.unlink()
    link.symlink_to("pid:[42]")

    assert "this is not the host's own pid namespace" == take(made_host).unseen


def test_the_largest_of_each_kind_are_kept(made_host: MadeHost) -> None:
    for number in range(30):
        made_host.add(
            2000 + number, "p", kib=(number * 1000 + 9001, 40_000 - number), slots=64 + number
        )

    found = take(made_host)

    assert scan.LARGEST == len(found.by_total)
    assert (2029, 2000, 2029) == tuple(
        kept[0].process.pid for kept in (found.by_total, found.by_private, found.by_slots)
    )
    assert (40_000 + 132, 38_001) == (found.by_private[0].private_kib, found.by_total[0].total_kib)


def test_a_hostile_name_is_read_as_one(made_host: MadeHost) -> None:
    made_host.add(1001, "x\\nUid:\\t5\\n", uid=1000, nproc="3")

    process = take(made_host).tallies[(INITIAL_USER, 1000)].process

    assert process is not None
    assert process.comm.startswith("x\nUid:")


def test_our_own_machine_is_counted_whole() -> None:
    found = scan.take()

    assert found.tasks >= found.processes > 0
    assert os.getuid() in {uid for _, uid in found.tallies}
