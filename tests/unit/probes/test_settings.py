"""The settings and phases of the programs: what a plan and a filter are to them, and how their table is read."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace
from typing import Any

import pytest
from samples import PLAN, raw_key, twice

from fork_trace.model import steps
from fork_trace.probes import settings
from fork_trace.probes.backend import Filter
from fork_trace.probes.config import PHASE_ALONE, PHASE_COUNTING, PHASE_DETAILED, Config
from fork_trace.probes.plan import VARIABLES, Plan, Probe, Stage
from fork_trace.probes.settings import Later, fill, is_vital


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


BCC = replace(PLAN, backend="bcc")


def test_bcc_is_told_the_watched_steps_of_both_phases() -> None:
    filled = config(BCC)

    assert mask("copy_process", "rlimit_nproc", "dup_fd") == filled.watched
    assert filled.watched | mask("sched_fork") == filled.watched_in_detail


def test_that_a_step_was_silent_keeps_the_programs_from_judging_nothing() -> None:
    filled = config()

    assert (0, 0) == (filled.watched, filled.watched_in_detail)


def test_a_step_that_was_given_up_is_not_waited_for() -> None:
    filled = config(BCC.without_probe("fexit_capable", "refused"))

    assert mask("copy_process", "dup_fd") == filled.watched


def test_every_variable_of_a_plan_has_its_place_in_the_settings() -> None:
    addresses = {name: 0x1000 + index for index, name in enumerate(VARIABLES)}

    filled = config(replace(PLAN, addresses=addresses))

    assert addresses == {name: getattr(filled, name.lstrip("_")) for name in VARIABLES}


@pytest.mark.parametrize(
    ("attach", "has_syscalls", "expected"),
    [
        ("fexit", False, (0, 0, 0)),
        ("fexit", True, (0, 1, 0)),  # --refused
        ("kprobe", False, (0, 0, 1)),
        ("kprobe", True, (0, 1, 1)),
        ("tracepoint", True, (1, 0, 0)),
    ],
)
def test_each_attach_counts_at_its_own_place(
    attach: str, has_syscalls: bool, expected: tuple[int, int, int]
) -> None:
    calls = tuple(Probe(None, name[len("raw_") :], name) for name in steps.SYSCALL_PROGRAMS)
    plan = replace(PLAN, attach=attach, probes=PLAN.probes + calls * has_syscalls)

    filled = config(plan)

    assert expected == (filled.is_by_syscall, filled.watches_early, filled.notes_attempts)


@pytest.mark.parametrize("names", [(), steps.SECOND_PROGRAMS])
def test_the_first_programs_know_whether_second_ones_follow(names: tuple[str, ...]) -> None:
    calls = tuple(Probe(None, "", name) for name in (*steps.SYSCALL_PROGRAMS, *names))

    assert bool(names) == config(replace(PLAN, attach="tracepoint", probes=calls)).watches_twice


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
    ("wanted", "bits", "field", "value"),
    [
        ({"pid": 42}, 1, "filter_pid", 42),
        ({"uid": 0}, 2, "filter_uid", 0),
        ({"comm": "sh"}, 4, "filter_comm", b"sh"),
        ({"cgroup_id": 9}, 8, "filter_cgroup", 9),
    ],
)
def test_a_filter_is_written_into_the_settings(
    wanted: dict[str, Any], bits: int, field: str, value: object
) -> None:
    filled = config(**wanted)

    assert (bits, value) == (filled.filter, getattr(filled, field))


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
def test_a_refused_program_takes_the_attach_with_it_only_if_it_counts(
    program: str, expected: bool
) -> None:
    names = (*steps.SYSCALL_PROGRAMS, *steps.SECOND_PROGRAMS)
    calls = [Probe(None, name[len("raw_") :], name) for name in names]
    kprobe = Probe("copy_process", "copy_process", "kretprobe_copy_process", entry="kprobe_c")
    (probe,) = (each for each in (*PLAN.probes, *calls, kprobe) if each.program == program)

    assert expected == is_vital(probe)


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
    assert ["mem_cgroup_out_of_memory", "dup_fd", "capable", PHASE_COUNTING] == (
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

    assert ["mem_cgroup_out_of_memory", "dup_fd", "capable", "sched_fork"] == (
        attached.more(later, Stage.UNEXPLAINED)
    )
    assert ["dup_fd: no"] == attached.given_up
    assert PHASE_ALONE == later.phase


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


OLD, STUCK, NEW = (
    raw_key(comm, mark, 7, errno.EAGAIN) for comm, mark in (("old", 0), ("stuck", 0), ("new", 1))
)


def test_the_keys_of_one_generation_are_read_once_nothing_counts_under_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = Table(OLD, STUCK, NEW, stuck=STUCK)
    monkeypatch.setattr(settings, "_barrier", lambda: table.done.append("all have ended"))

    taken = table.harvest(0)

    assert [OLD] == [key for key, _ in taken]
    assert {STUCK, NEW} == table.keys.keys()
    assert [1, "all have ended", *range(settings.SHARES)] == table.done
