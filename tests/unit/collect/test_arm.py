"""What is armed for whom: filters as the kernel compares them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from samples import PLAN

from fork_trace.collect.arm import (
    Armed,
    check_filter,
    demand_another_user,
    find_filter,
    with_variables,
)
from fork_trace.errors import ForkTraceError
from fork_trace.probes import settings
from fork_trace.probes.backend import Filter
from fork_trace.probes.config import Config
from fork_trace.probes.plan import YES, Fact, Probe, Stage


@pytest.mark.parametrize(
    "comm",
    [b"sh", b"x" * 15, b"x" * 16, b"x" * 40, b"caf\xe9", "é".encode() * 8, b"\xff" * 20],
)
def test_a_command_is_compared_as_the_kernel_keeps_it(comm: bytes) -> None:
    filled = Config()
    settings.fill(filled, PLAN, find_filter(os.fsdecode(comm), None, None, None), 50)

    assert comm[:15] == filled.filter_comm


def test_symbols_without_variables_say_so() -> None:
    told = with_variables(YES, {"copy_process": 0x1000})

    assert told.value and "CONFIG_KALLSYMS_ALL" in told.why
    assert YES == with_variables(YES, {"copy_process": 0x1000, "nr_threads": 0x2000})
    unread = Fact(False, "cannot read /proc/kallsyms")
    assert unread == with_variables(unread, {})


def test_without_wishes_nothing_is_filtered() -> None:
    assert Filter() == find_filter(None, None, None, None)


def test_a_cgroup_that_is_not_there_is_told_with_what_to_give() -> None:
    with pytest.raises(ForkTraceError, match="no cgroup /no/such/one") as refusal:
        find_filter(None, None, None, "/no/such/one")

    assert "/proc/PID/cgroup" in refusal.value.hint


def test_a_pid_that_the_kernel_numbers_otherwise_is_no_filter() -> None:
    check_filter(Filter(pid=os.getpid()), sees_all_pids=True)
    check_filter(Filter(uid=7, comm="sh", cgroup_id=7), sees_all_pids=False)
    with pytest.raises(ForkTraceError, match="cannot filter by --pid inside a pid namespace") as no:
        check_filter(Filter(pid=7), sees_all_pids=False)

    assert "run fork-trace in the host's pid namespace" in no.value.hint


def test_privileges_that_cannot_be_given_up_are_told_with_what_it_takes() -> None:
    demand_another_user(None)
    with pytest.raises(ForkTraceError, match="cannot give up privileges: why not") as refusal:
        demand_another_user("why not")

    assert "--keep-privileges" in refusal.value.hint


class Waiting:
    """A backend with so many probes that wait for each stage."""

    def __init__(self, **waiting: int) -> None:
        self.plan = PLAN
        self.waiting = [(Stage[name], number) for name, number in waiting.items()]
        self.asked: list[Stage] = []

    def attach_more(self, stage: Stage) -> bool:
        self.asked.append(stage)
        return len(self.asked) < sum(number for each, number in self.waiting if each <= stage)


def test_what_waits_is_attached_one_at_a_time_and_only_once_it_is_wanted() -> None:
    backend: Any = Waiting(FAILED=2, UNEXPLAINED=1)
    facts: Any = SimpleNamespace()
    armed = Armed(facts, backend, keeps_privileges=True)

    armed.attach_more()
    assert ([], False) == (backend.asked, armed.is_attaching)
    armed.want(Stage.FAILED)
    armed.attach_more()
    assert ([Stage.FAILED], True) == (backend.asked, armed.is_attaching)
    armed.attach_more()
    assert not armed.is_attaching
    armed.want(Stage.UNEXPLAINED)
    armed.want(Stage.FAILED)
    armed.attach_more()
    assert [Stage.FAILED, Stage.FAILED, Stage.UNEXPLAINED] == backend.asked, "never less"


@pytest.mark.parametrize(
    ("program", "expected"),
    [("kretprobe_vmalloc_area", ["lent", Stage.UNEXPLAINED]), (None, [Stage.UNEXPLAINED])],
)
def test_only_who_attaches_a_kprobe_later_is_lent_privileges_for_it(
    monkeypatch: pytest.MonkeyPatch, program: str | None, expected: list[object]
) -> None:
    backend: Any = Waiting(UNEXPLAINED=2)
    more = (Probe(None, "f", program, Stage.UNEXPLAINED),) if program else ()
    backend.plan = replace(PLAN, probes=PLAN.probes + more)

    @contextmanager
    def lent() -> Iterator[None]:
        backend.asked.append("lent")
        yield

    monkeypatch.setattr("fork_trace.collect.arm.privileges.lent", lent)
    monkeypatch.setattr("fork_trace.collect.arm.kernel.perf_paranoia", lambda: 3)
    facts: Any = SimpleNamespace()
    armed = Armed(facts, backend)
    armed.want(Stage.UNEXPLAINED)
    armed.attach_more()

    assert expected == backend.asked


def test_a_filter_by_a_pid_of_nobody_is_refused() -> None:
    with pytest.raises(ForkTraceError, match="no process has pid 4194304"):
        check_filter(Filter(pid=4194304), sees_all_pids=True)


def test_a_filter_by_a_thread_is_refused_with_its_process() -> None:
    tids: list[int] = []
    done = threading.Event()

    def wait() -> None:
        tids.append(threading.get_native_id())
        done.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        while not tids:
            pass
        with pytest.raises(ForkTraceError, match=f"is a thread of process {os.getpid()}"):
            check_filter(Filter(pid=tids[0]), sees_all_pids=True)
    finally:
        done.set()
        thread.join()


def test_a_filter_by_a_running_process_is_taken() -> None:
    check_filter(Filter(pid=os.getpid()), sees_all_pids=True)
