"""What of a session needs no kernel: times, filters as the kernel compares them, verdicts."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import make_failure
from hypothesis import given
from hypothesis import strategies as some

from fork_trace import cgroup, events, ledger, procfs, session, steps
from fork_trace.backends import Filter, settings
from fork_trace.backends.libbpf.backend import LibbpfBackend
from fork_trace.backends.libbpf.bindings import Library
from fork_trace.backends.libbpf.counters import left_out, missed
from fork_trace.backends.libbpf.loading import Programs
from fork_trace.backends.settings import (
    PHASE_ALONE,
    PHASE_COUNTING,
    PHASE_DETAILED,
    Config,
    Later,
    fill,
    is_vital,
)
from fork_trace.errors import ForkTraceError
from fork_trace.plan import VARIABLES, Plan, Probe, Stage
from fork_trace.ration import Ration
from fork_trace.records import Frame

PLAN = Plan(
    rung="fexit",
    backend="libbpf",
    probes=(
        Probe("copy_process", "copy_process", "fexit_copy_process"),
        Probe("rlimit_nproc", "is_rlimit_overlimit", "fexit_is_rlimit_overlimit"),
        Probe("dup_fd", "dup_fd", "fexit_dup_fd"),
        Probe("sched_fork", "sched_fork", "fexit_sched_fork", Stage.UNEXPLAINED),
        Probe(None, "mem_cgroup_out_of_memory", "fexit_mem_cgroup_out_of_memory"),
    ),
    missing=(),
    addresses={"nr_threads": 7, "_totalram_pages": 8},
    copy_process_range=(0x1000, 0x3000),
)


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1772600767000008000, "2026-03-04T05:06:07.000008Z"),
        (1772600767999999999, "2026-03-04T05:06:07.999999Z"),
        (1_000_000_000, "1970-01-01T00:00:01.000000Z"),
    ],
)
def test_a_time_is_utc_to_the_microsecond(time_ns: int, text: str) -> None:
    assert text == session.iso(time_ns)


@given(some.integers(0, 4_000_000_000), some.integers(0, 999_999))
def test_no_microsecond_is_rounded_to_another(seconds: int, micros: int) -> None:
    text = session.iso(seconds * 10**9 + micros * 1000 + 999)

    assert text.endswith(f".{micros:06d}Z")


def config(plan: Plan = PLAN, **wanted: object) -> Config:
    filled = Config()
    fill(filled, plan, Filter(**wanted), 50)  # type: ignore[arg-type]
    return filled


def test_a_plan_is_written_into_the_settings() -> None:
    filled = config()

    assert (0x1000, 0x3000) == (filled.copy_process_start, filled.copy_process_end)
    assert (7, 8, 0) == (filled.nr_threads, filled.totalram_pages, filled.pid_max)
    assert (50, 0) == (filled.samples_per_second, filled.filter)
    assert (0, 0) == (filled.is_by_syscall, filled.watches_early)


def mask(*names: str) -> int:
    return sum(1 << steps.BY_NAME[name].number for name in names)


def test_the_watched_steps_are_written_for_both_phases() -> None:
    filled = config()

    assert mask("copy_process", "rlimit_nproc", "dup_fd") == filled.watched
    assert filled.watched | mask("sched_fork") == filled.watched_in_detail


def test_where_a_program_can_be_left_out_its_silence_tells_nothing() -> None:
    again = Probe(None, "copy_process", steps.COPIED_AGAIN)

    filled = config(replace(PLAN, probes=(*PLAN.probes, again)))

    assert (0, 0) == (filled.watched, filled.watched_in_detail)


def test_a_step_that_was_given_up_is_not_waited_for() -> None:
    filled = config(PLAN.without_probe("fexit_is_rlimit_overlimit", "refused"))

    assert mask("copy_process", "dup_fd") == filled.watched


def test_every_variable_of_a_plan_has_its_place_in_the_settings() -> None:
    addresses = {name: 0x1000 + index for index, name in enumerate(VARIABLES)}

    filled = config(replace(PLAN, addresses=addresses))

    assert addresses == {name: getattr(filled, name.lstrip("_")) for name in VARIABLES}


@pytest.mark.parametrize(
    ("rung", "has_syscalls", "expected"),
    [
        ("fexit", False, (0, 0, 0)),
        ("fexit", True, (0, 1, 0)),  # --refused
        ("kprobe", False, (0, 0, 1)),
        ("kprobe", True, (0, 1, 1)),
        ("tracepoint", True, (1, 0, 0)),
    ],
)
def test_each_rung_counts_at_its_own_place(
    rung: str, has_syscalls: bool, expected: tuple[int, int, int]
) -> None:
    calls = tuple(Probe(None, name[len("raw_") :], name) for name in steps.SYSCALL_PROGRAMS)
    plan = replace(PLAN, rung=rung, probes=PLAN.probes + calls * has_syscalls)

    filled = config(plan)

    assert expected == (filled.is_by_syscall, filled.watches_early, filled.notes_attempts)


@pytest.mark.parametrize("names", [(), steps.SECOND_PROGRAMS])
def test_the_first_programs_know_whether_second_ones_follow(names: tuple[str, ...]) -> None:
    calls = tuple(Probe(None, "", name) for name in (*steps.SYSCALL_PROGRAMS, *names))

    assert bool(names) == config(replace(PLAN, rung="tracepoint", probes=calls)).watches_twice


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("fexit_copy_process", True),
        ("kretprobe_copy_process", True),
        ("raw_sys_enter", True),
        ("raw_sys_exit", True),
        ("raw_sys_exit_again", False),
        ("fexit_dup_fd", False),
        ("fexit_mem_cgroup_out_of_memory", False),  # tells of no step, and is not missed
    ],
)
def test_a_refused_program_takes_the_rung_with_it_only_if_it_counts(
    program: str, expected: bool
) -> None:
    names = (*steps.SYSCALL_PROGRAMS, *steps.SECOND_PROGRAMS)
    calls = [Probe(None, name[len("raw_") :], name) for name in names]
    kprobe = Probe("copy_process", "copy_process", "kretprobe_copy_process", entry="kprobe_c")
    (probe,) = (each for each in (*PLAN.probes, *calls, kprobe) if each.program == program)

    assert expected == is_vital(probe)


def following(unfollowed: int | None) -> Any:
    """Kprobe events by which the kernel did not follow so many returns, or does not say."""
    return SimpleNamespace(missed=lambda function=None: unfollowed)


def twice(program: str) -> Plan:
    mmap_probe = Probe("mmap", "vm_mmap_pgoff", "fexit_vm_mmap_pgoff")
    again = Probe(None, "copy_process", program)
    return replace(PLAN, probes=(*PLAN.probes, mmap_probe, again))


@pytest.mark.parametrize(
    ("again", "unfollowed", "misses", "expected"),
    [
        (steps.COPIED_AGAIN, 0, (5, 0), 0),
        (steps.COPIED_AGAIN, 0, (0, 5), 0),
        (steps.COPIED_AGAIN, 3, (5, 0), 3),
        (steps.COPIED_AGAIN, 3, (5, 1), 4),
        (steps.COPIED_AGAIN, 0, (1, 5), 1),
        (steps.COPIED_AGAIN, None, (5, 0), 5),  # nobody knows what it was left out of
        (steps.COPIED_AGAIN_ON_EXIT, None, (5, 2), 2),
    ],
)
def test_of_copy_process_is_missed_what_both_programs_can_have_been_left_out_of(
    again: str, unfollowed: int | None, misses: tuple[int, int], expected: int
) -> None:
    told = {"fexit_copy_process": misses[0], again: misses[1], "fexit_dup_fd": 7}

    assert expected == missed(twice(again), told, following(unfollowed), 0)


def test_what_a_steps_program_was_left_out_of_is_counted_apart() -> None:
    told = {
        **{"fexit_copy_process": 0, steps.COPIED_AGAIN: 0, "fexit_vm_mmap_pgoff": 1},
        **{"fexit_dup_fd": 2, "fexit_sched_fork": 0, "fexit_mem_cgroup_out_of_memory": 3},
    }
    plan = twice(steps.COPIED_AGAIN)

    assert 1 == missed(plan, told, following(0), 0)
    assert {"dup_fd": 2, "mem_cgroup_out_of_memory": 3} == left_out(plan, told)


def test_where_the_kernel_does_not_count_what_was_left_out_nothing_is_said_of_it() -> None:
    assert (None, {}) == (missed(PLAN, None, None, 0), left_out(PLAN, None))


@pytest.mark.parametrize(
    ("misses", "kprobe_events", "expected"),
    [
        (None, None, 3),
        (None, following(2), 5),
        (None, following(None), 3),
        ({"kretprobe_copy_process": 1, "kretprobe_dup_fd": 4}, following(2), 10),
    ],
)
def test_kprobes_miss_what_found_no_room_and_what_did_not_return(
    misses: dict[str, int] | None, kprobe_events: Any, expected: int
) -> None:
    plan = replace(PLAN, rung="kprobe", probes=())

    assert expected == missed(plan, misses, kprobe_events, 3)


@pytest.mark.parametrize(
    ("again", "expected"),
    [(steps.COPIED_AGAIN, (1, 1)), (steps.COPIED_AGAIN_ON_EXIT, (1, 0)), (None, (0, 0))],
)
def test_the_first_program_on_copy_process_knows_which_second_one_there_is(
    again: str | None, expected: tuple[int, int]
) -> None:
    filled = config(plan=twice(again) if again else PLAN)

    assert expected == (filled.copies_twice, filled.copies_again_at_return)


@pytest.mark.parametrize(
    ("left_out", "again", "expected"),
    [
        ({}, steps.COPIED_AGAIN, "unknown"),
        ({"sched_fork": 1}, steps.COPIED_AGAIN, "unknown"),
        ({"rlimit_nproc": 1}, steps.COPIED_AGAIN, "rlimit-nproc"),
        ({"rlimit_nproc": 1}, None, "unknown"),
    ],
)
def test_a_step_is_blamed_by_the_state_only_if_its_program_was_left_out(
    left_out: dict[str, int], again: str | None, expected: str
) -> None:
    watching = session.Session.__new__(session.Session)
    plan = twice(again) if again else PLAN
    watching._backend = SimpleNamespace(plan=plan, left_out=lambda: left_out)  # type: ignore[assignment]
    watching._limits = {}
    key = events.Key(
        *("sh", 1, 0, errno.EAGAIN, 0, "", "clone"),
        is_thread=False,
        is_observed=False,
        fits=frozenset({"nproc", "copies-mm"}),
    )
    verdict = watching._diagnose(key)

    assert (expected, "inferred") == (verdict.cause, verdict.certainty)


class Attached:
    """What was attached, given up and written."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused
        self.said: list[str | int] = []
        self.given_up: list[str] = []

    def more(self, later: Later, stage: Stage) -> list[str | int]:
        """Attach until there is no more to do; what was done since the last time."""
        self.said = []
        while later.attach(stage, self._attach, self._give_up, self.said.append):
            pass
        return self.said

    def _attach(self, probe: Probe) -> str | None:
        self.said.append(probe.function)
        return "no" if probe.function in self.refused else None

    def _give_up(self, probe: Probe, reason: str) -> None:
        self.given_up.append(f"{probe.function}: {reason}")


ON_DEMAND = replace(
    PLAN,
    probes=(
        PLAN.probes[0],
        *(replace(probe, stage=max(probe.stage, Stage.FAILED)) for probe in PLAN.probes[1:]),
    ),
)


def test_inner_functions_are_attached_first_and_silence_tells_once_all_are() -> None:
    attached, later = Attached(), Later(ON_DEMAND)

    assert PHASE_ALONE == later.phase
    assert [] == attached.more(later, Stage.START)
    assert ["mem_cgroup_out_of_memory", "dup_fd", "is_rlimit_overlimit", PHASE_COUNTING] == (
        attached.more(later, Stage.FAILED)
    )
    assert [] == attached.more(later, Stage.FAILED)
    assert ["sched_fork", PHASE_DETAILED] == attached.more(later, Stage.UNEXPLAINED)
    assert [] == attached.more(later, Stage.UNEXPLAINED)


def test_both_stages_can_be_asked_for_at_once() -> None:
    attached, later = Attached(), Later(ON_DEMAND)

    said = attached.more(later, Stage.UNEXPLAINED)

    assert [PHASE_COUNTING, "sched_fork", PHASE_DETAILED] == said[-3:]


def test_what_is_attached_from_the_start_has_no_phase_of_its_own() -> None:
    attached, later = Attached(), Later(PLAN)

    assert PHASE_COUNTING == later.phase
    assert [] == attached.more(later, Stage.FAILED)
    assert ["sched_fork", PHASE_DETAILED] == attached.more(later, Stage.UNEXPLAINED)


def test_without_one_of_them_silence_never_tells() -> None:
    attached, later = Attached("dup_fd"), Later(ON_DEMAND)

    assert ["mem_cgroup_out_of_memory", "dup_fd", "is_rlimit_overlimit", "sched_fork"] == (
        attached.more(later, Stage.UNEXPLAINED)
    )
    assert ["dup_fd: no"] == attached.given_up
    assert PHASE_ALONE == later.phase


def test_once_detached_no_waiting_program_is_attached() -> None:
    backend = LibbpfBackend.__new__(LibbpfBackend)  # as it is after its load
    backend._programs, backend._later = Programs(Library()), Later(PLAN)

    backend.detach()

    assert not backend.attach_more(Stage.UNEXPLAINED)


@pytest.mark.parametrize(
    ("wanted", "bits", "field", "value"),
    [
        ({"pid": 42}, 1, "filter_pid", 42),
        ({"uid": 0}, 2, "filter_uid", 0),
        ({"comm": "sh"}, 4, "filter_comm", b"sh"),
        ({"cgroup_id": 9}, 8, "filter_cgroup", 9),
    ],
)
def test_a_filter_is_written_into_the_settings(
    wanted: dict[str, object], bits: int, field: str, value: object
) -> None:
    filled = config(**wanted)

    assert (bits, value) == (filled.filter, getattr(filled, field))


@pytest.mark.parametrize(
    "comm",
    [b"sh", b"x" * 15, b"x" * 16, b"x" * 40, b"caf\xe9", "é".encode() * 8, b"\xff" * 20],
)
def test_a_command_is_compared_as_the_kernel_keeps_it(comm: bytes) -> None:
    wanted = session.find_filter(os.fsdecode(comm), None, None, None)

    assert comm[:15] == config(comm=wanted.comm).filter_comm


def test_without_wishes_nothing_is_filtered() -> None:
    assert Filter() == session.find_filter(None, None, None, None)


def test_a_cgroup_that_is_not_there_is_told_with_what_to_give() -> None:
    with pytest.raises(ForkTraceError, match="no cgroup /no/such/one") as refusal:
        session.find_filter(None, None, None, "/no/such/one")

    assert "/proc/PID/cgroup" in refusal.value.hint


# What /proc adds to a verdict. A session without its kernel side has all that this needs.


def judging(sees_all_pids: bool = True, mode: int | None = 2) -> session.Session:
    made = session.Session.__new__(session.Session)
    made._backend = LibbpfBackend.__new__(LibbpfBackend)
    made._backend.plan = PLAN
    made._limits = {"vm.overcommit_memory": mode}
    made._sees_all_pids = sees_all_pids
    made._huge = {}
    return made


def failed(error: int, *fits: str, detail: str = "") -> events.Key:
    return events.Key(
        *("sh", 1, 0, error, steps.BY_NAME["copy_process"].number, detail, "clone", False, False),
        fits=frozenset(fits),
    )


@pytest.mark.parametrize(
    ("threads", "limit", "also"),
    [
        (79, 100, ()),
        (80, 100, ("threads-max",)),
        (100, 100, ("threads-max",)),
        (None, 100, ("threads-max",)),
        (1, None, ("threads-max",)),
    ],
)
def test_few_threads_in_proc_rule_threads_max_out_and_unread_ones_do_not(
    monkeypatch: pytest.MonkeyPatch, threads: int | None, limit: int | None, also: tuple[str, ...]
) -> None:
    monkeypatch.setattr(procfs, "threads", lambda: threads)
    monkeypatch.setattr(procfs, "number", lambda path: limit)
    key = failed(errno.EAGAIN, "pids-cgroup", "threads-unknown")

    sampled = judging()._diagnose(key, sample(key))
    counted = judging()._diagnose(key)

    assert ("pids-cgroup", also) == (sampled.cause, sampled.also)
    assert ("threads-max",) == counted.also, "without a sample nobody was looked at"


def sample(key: events.Key | None = None, pid: int = os.getpid()) -> events.Event:
    """A sample of this process, which had less memory at its refusal than now."""
    return events.Event(
        time_ns=0,
        key=key or failed(errno.ENOMEM, "overcommit"),
        flags=0,
        pid=pid,
        tid=pid,
        ppid=1,
        parent_comm="init",
        numbers={"data_pages": 1},
    )


LEVELS = (
    events.Level("pids-cgroup", 0, 2**62, 1, 5),
    events.Level("pids-cgroup", 1, 2**62 + 1, 1, 1),
    events.Level("memory-cgroup", 0, 2**62 + 2, 1, 1),
)


def test_the_cgroups_of_a_sample_are_known_when_they_are_gone(tmp_path: Path) -> None:
    watching = judging()
    watching._is_pids_v2 = True
    watching._paths = a_host_with_v2(tmp_path)
    key = replace(failed(errno.EAGAIN), cgroup_id=2**62)

    watching._note_cgroups(replace(sample(key), levels=LEVELS, cgroup_path="/top/leaf"))

    assert "/sys/fs/cgroup/top/leaf" == watching._paths.directory(2**62)
    assert "/sys/fs/cgroup/top" == watching._paths.directory(2**62 + 1)
    assert watching._paths.directory(2**62 + 2) is None, "its levels begin elsewhere"


def a_host_with_v2(tmp_path: Path) -> cgroup.Paths:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(
        "25 24 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    )
    return cgroup.Paths(str(tmp_path))


def test_without_a_path_nothing_is_known_of_a_cgroup_that_is_gone(tmp_path: Path) -> None:
    watching = judging()
    watching._is_pids_v2 = True
    watching._paths = a_host_with_v2(tmp_path)
    key = replace(failed(errno.EAGAIN), cgroup_id=2**62)

    watching._note_cgroups(replace(sample(key), levels=LEVELS))

    assert watching._paths.directory(2**62) is None


def test_a_huge_mapping_of_the_caller_is_looked_for_while_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(procfs, "ram_and_swap", lambda: 1 << 26)
    key = failed(errno.ENOMEM, "overcommit", "memcg-limited", detail="overcommit-guess")

    with mmap.mmap(-1, (1 << 26) + 4096, flags=mmap.MAP_PRIVATE):
        verdict = judging()._diagnose(key, sample(key))

    assert ("overcommit-heuristic", ()) == (verdict.cause, verdict.also)


def test_a_caller_without_a_huge_mapping_was_not_refused_for_one() -> None:
    key = failed(errno.ENOMEM, "overcommit", "memcg-limited", detail="overcommit-guess")

    verdict = judging()._diagnose(key, sample(key))

    assert ("memory-cgroup", ("kernel-memory",)) == (verdict.cause, verdict.also)


@pytest.mark.parametrize(
    ("sees_all_pids", "pid"),
    [
        (False, os.getpid()),  # the kernel's pids are strangers in our /proc
        (True, None),  # no sample
        (True, 1 << 30),  # gone; no pid is so large
    ],
)
def test_where_nobody_could_look_a_huge_mapping_stays_possible(
    sees_all_pids: bool, pid: int | None
) -> None:
    key = failed(errno.ENOMEM, "overcommit", "memcg-limited", detail="overcommit-guess")

    verdict = judging(sees_all_pids)._diagnose(key, None if pid is None else sample(key, pid))

    assert "memory-cgroup" == verdict.cause
    assert ("overcommit-heuristic", "kernel-memory") == verdict.also


@pytest.mark.parametrize(("at_start", "now"), [(0, 2), (2, 0), (None, 2), (1, 0)])
def test_the_overcommit_mode_of_a_sample_is_the_one_of_its_time(
    monkeypatch: pytest.MonkeyPatch, at_start: int | None, now: int
) -> None:
    monkeypatch.setattr(procfs, "number", {"sys/vm/overcommit_memory": now}.get)
    monkeypatch.setattr(procfs, "ram_and_swap", lambda: None)
    key = failed(errno.ENOMEM, "overcommit-unknown", "copies-mm")

    verdict = judging(mode=at_start)._diagnose(key, sample(key))

    assert {0: "overcommit-heuristic", 2: "overcommit-never"}[now] == verdict.cause


def test_a_burst_of_one_process_reads_its_mappings_once_in_a_second() -> None:
    watching = judging()
    now_s = time.monotonic()
    watching._huge = {1: (now_s + 60, True), os.getpid(): (now_s - 1.001, True)}

    assert watching._has_huge(sample(pid=1)) is True, "kept"
    assert watching._has_huge(sample()) is False, "read again"
    assert watching._huge[os.getpid()][0] >= now_s


def test_the_processes_that_are_remembered_are_bounded() -> None:
    watching = judging()
    watching._huge = {pid: (0.0, True) for pid in range(1 << 30, (1 << 30) + 1024)}

    watching._has_huge(sample())

    assert [os.getpid()] == list(watching._huge)


def test_without_meminfo_no_mapping_is_called_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procfs, "ram_and_swap", lambda: None)

    assert judging()._has_huge(sample()) is None


def test_a_missing_libbpf_is_told_with_the_package_to_install() -> None:
    with pytest.raises(ForkTraceError) as told:
        Library("libbpf.so.99")

    assert "cannot load libbpf" in told.value.message
    assert "libbpf1" in told.value.hint


def owing(count: int, told: list[bool]) -> session.Session:
    """A session that has read so many samples whose stacks still wait."""
    found: Any = object.__new__(session.Session)
    found._owed = deque((bytes(events.EVENT_BYTES), None, None, None, None) for _ in range(count))
    found._latest, found._ledger, found._ration = {}, ledger.Ledger(), Ration()
    found._keep = lambda _key, _failure: None
    found._signals = lambda: 0
    found._failure = lambda _event, _look, _verdict, most_s, _is_late: (
        told.append(most_s > 0) or make_failure()
    )
    return found  # type: ignore[no-any-return]


def test_the_stacks_of_keys_that_are_long_gone_are_not_kept() -> None:
    found: Any = object.__new__(session.Session)
    found._latest, found._whole = {}, {}
    keys = [bytes([number % 256, number // 256]) for number in range(session._WHOLE + 2)]
    for key in (*keys[:-1], keys[0], keys[-1]):
        found._keep(key, make_failure(stack=(Frame(1, "fork", None),)))

    assert keys == sorted(found._latest, key=keys.index)
    assert keys[1:3] == [key for key in keys if not found._latest[key].stack]
    assert {make_failure().caller} == {each.caller for each in found._latest.values()}


def test_stacks_are_unwound_until_the_time_is_up() -> None:
    told: list[bool] = []

    assert 5 == len(owing(5, told)._told(60.0))
    assert [True] * 5 == told


def test_what_is_over_the_time_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(session, "_MOST_OWED", 5)

    assert [] == owing(5, told)._told(-1.0)
    assert [] == told


def test_more_than_may_wait_is_told_at_once_by_frame_pointers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(session, "_MOST_OWED", 3)
    some_session = owing(5, told)

    assert 2 == len(some_session._told(-1.0))
    assert [False, False] == told
    assert 3 == len(some_session._told(60.0))
    assert [True] * 3 == told[2:]


def test_at_the_end_nothing_is_left_over() -> None:
    told: list[bool] = []

    assert 5 == len(owing(5, told)._told(-1.0, drains=True))
    assert [False] * 5 == told


@pytest.mark.parametrize(
    ("signals", "waited_s", "is_late"),
    [(0, 99.0, False), (1, 0.0, False), (1, 0.4, True), (2, 0.0, True)],
)
def test_told_to_end_it_names_for_a_moment_and_told_twice_no_more(
    monkeypatch: pytest.MonkeyPatch, signals: int, waited_s: float, is_late: bool
) -> None:
    """However long it had, as the signal may come while it names the last ones."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    found: Any = owing(1, [])
    found._signals = lambda: signals
    late: list[bool] = []

    def failure(*args: Any) -> Any:
        args[4]()
        now[0] += waited_s
        late.append(args[4]())
        return make_failure()

    found._failure = failure
    found._told(10.0, drains=True)

    assert [is_late] == late


class Table:
    """The kernel's table of keys, of two generations."""

    def __init__(self, *keys: bytes, stuck: bytes = b"") -> None:
        self.keys = dict.fromkeys(keys, struct.pack("=QQQQ", 5, 5, 0, 0))
        self.stuck = stuck
        self.done: list[object] = []

    def harvest(self, generation: int) -> list[tuple[bytes, bytes]]:
        """Take the keys of a generation out of it."""
        return settings.harvest(
            generation,
            lambda number: self.done.append(number),
            lambda: list(self.keys.items()),
            self._remove,
            lambda number: self.done.append(number),
        )

    def _remove(self, key: bytes) -> bool:
        return key != self.stuck and bool(self.keys.pop(key))


def raw_key(comm: str, mark: int = 0, uid: int = 7, error: int = errno.EAGAIN) -> bytes:
    name = comm.encode().ljust(15, b"\0") + bytes([mark])
    step = steps.BY_NAME["rlimit_nproc"].number
    return struct.pack("=16sQIiBBBBI", name, 2**62, uid, -error, step, 0, 3, events.BIT_OBSERVED, 0)


def test_the_keys_of_one_generation_are_read_once_nothing_counts_under_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = Table(raw_key("old"), raw_key("stuck"), raw_key("new", 1), stuck=raw_key("stuck"))
    monkeypatch.setattr(settings, "_barrier", lambda: table.done.append("all have ended"))

    taken = table.harvest(0)

    assert [raw_key("old")] == [key for key, _ in taken]
    assert {raw_key("stuck"), raw_key("new", 1)} == table.keys.keys()
    assert [1, "all have ended", *range(settings.SHARES)] == table.done


def test_totals_of_commands_that_had_no_room_tell_user_cgroup_and_cause(tmp_path: Path) -> None:
    watching = judging()
    watching._is_pids_v2, watching._paths = True, a_host_with_v2(tmp_path)
    watching._paths.note(2**62, True, "/storm")
    watching._ledger = ledger.Ledger()
    pair = struct.pack("=QQQQ", 5, 5, 0, 0)
    keys = [raw_key("quiet", uid=8), raw_key("quiet", 1, uid=8), raw_key("", 2), raw_key("", 3)]
    watching._ledger.take((key, pair) for key in keys[:3])
    watching._ledger.take([(raw_key("", 6), pair)])
    watching._backend = SimpleNamespace(
        plan=PLAN,
        tallies=lambda: [(key, pair) for key in keys[3:]],
        folded=lambda: {steps.BY_NAME["alloc_pid"].number: 3},
    )  # type: ignore[assignment]

    totals, by_cause = watching._totals()

    why = {"errno": "EAGAIN", "step": "rlimit_nproc", "cause": "rlimit-nproc"}
    where = {"cgroup": "/storm", "creates": "process", "certainty": "observed"}
    assert [
        {"comm": "quiet", "uid": 8, "syscall": "clone", **where, **why, "count": 10},
        {"comm": None, "uid": 7, "syscall": None, **where, **why, "count": 10},
        {
            "comm": None,
            "uid": None,
            "syscall": None,
            **{**where, "cgroup": None},
            **why,
            "count": 5,
        },
        {
            **dict.fromkeys(("comm", "uid", "cgroup", "syscall", "creates", "errno")),
            **{"step": "alloc_pid", "cause": "unknown", "certainty": "inferred", "count": 3},
        },
    ] == totals
    assert {"rlimit-nproc": 25, "unknown": 3} == by_cause
